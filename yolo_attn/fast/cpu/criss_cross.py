"""CrissCross as one node of the graph: products of rows and of columns that read parts of the same maps in place.

The three 1x1 convolutions are one product, as are their gradients. Products write to memory of their own: into parts of
a larger tensor they are far slower than a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from ...layers._parts import is_bare
from ...layers._versions import autocast_dtype
from .. import plain
from .precision import FULL, without_autocast


def attend(layer: nn.Module, x: Tensor) -> Any:
    """Stand in for one pass of ``CrissCross``, ``(B, C, H, W) -> (B, C, H, W)``, in full precision."""
    convs = (layer.query_conv, layer.key_conv, layer.value_conv)
    if not all(is_bare(conv, nn.Conv2d) and _is_pointwise(conv) for conv in convs):
        return NotImplemented
    dtypes = {x.dtype, layer.gamma.dtype, *(conv.weight.dtype for conv in convs)}
    if len(dtypes) > 1 or x.dtype not in FULL or autocast_dtype() or not x.is_contiguous():
        return NotImplemented
    tensors = (x, *(t for conv in convs for t in (conv.weight, conv.bias)), layer.gamma)
    return _Pass.apply(layer, *tensors) if torch.is_grad_enabled() else _compute(*tensors)[0]


def _is_pointwise(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution is a linear map of every pixel, with a bias."""
    is_small = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)
    return is_small and conv.groups == 1 and conv.bias is not None


class _Pass(Function):
    @staticmethod
    def forward(ctx: Any, layer: nn.Module, *tensors: Tensor) -> Tensor:
        y, kept = _compute(*tensors)
        ctx.layer = layer
        ctx.save_for_backward(*tensors, *kept)
        return y

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tensors, kept = ctx.saved_tensors[:-3], ctx.saved_tensors[-3:]
        if torch.is_grad_enabled():  # a second derivative may follow
            return None, *_differentiable(ctx.layer, grad, tensors, ctx.needs_input_grad[1:])
        return None, *_gradients(grad.contiguous(), tensors, kept, ctx.needs_input_grad[1])


class _PlainPass(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with plain():
            return self.layer._attend(x)


def _differentiable(layer: nn.Module, grad: Tensor, tensors: Sequence[Tensor], needs: Sequence[bool]) -> list[Any]:
    """Return the gradients by the layer's own forward, which can be differentiated again."""
    # One tensor may have been computed from another: through the views only this layer's own paths count.
    x, *parameters = (t.view_as(t) for t in tensors)
    names = [f"layer.{part}_conv.{name}" for part in ("query", "key", "value") for name in ("weight", "bias")]
    given = dict(zip([*names, "layer.gamma"], parameters, strict=True))
    y = functional_call(_PlainPass(layer), given, x, tie_weights=False)
    wanted = [t for t, need in zip((x, *parameters), needs, strict=True) if need]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needs]


def _compute(*tensors: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the map, and what its gradients need: queries, keys and values; weights; weighted sums."""
    x, *_, gamma = tensors
    b, c, h, w = x.shape
    weight, bias = _stack(tensors)
    pixels, weight = x.flatten(2).transpose(1, 2), weight.expand(b, -1, -1)
    qkv = torch.baddbmm(bias, pixels, weight.transpose(1, 2)).view(b, h, w, -1)
    weights, y = x.new_empty(b, h, w, h + w), x.new_empty(b, h, w, c)
    logits, other = x.new_empty(h, w, h + w), x.new_empty(w, h, c)
    for (q, k, v), a, z in zip(_parts(qkv, c), weights, y, strict=True):
        _join(logits, _columns(q) @ _columns(k).transpose(1, 2), q @ k.transpose(1, 2))
        # The pixel itself stands in its row and in its column; it counts once.
        logits[..., :h].diagonal(dim1=0, dim2=2).fill_(float("-inf"))
        torch.softmax(logits, 2, out=a)
        columns, rows = _split(a, h)
        torch.bmm(rows, v, out=z).add_(_columns(torch.bmm(columns, _columns(v), out=other)))
    y = y.permute(0, 3, 1, 2).contiguous()
    return torch.add(x, y, alpha=gamma.item()), (qkv, weights, y)


def _gradients(grad: Tensor, tensors: Sequence[Tensor], kept: Sequence[Tensor], needs_map: bool) -> tuple[Any, ...]:
    """Return the gradient of each of ``tensors``; that of the map is None unless it is needed."""
    x, *_, gamma = tensors
    qkv, weights, y = kept
    b, c, h, w = x.shape
    pixels = grad.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
    # The gradients without the factor gamma.
    g_qkv, g_logits = torch.empty_like(qkv), x.new_empty(h, w, h + w)
    for (q, k, v), (gq, gk, gv), a, g in zip(_parts(qkv, c), _parts(g_qkv, c), weights, pixels, strict=True):
        columns, rows = _split(a, h)
        torch.add(rows.transpose(1, 2) @ g, _columns(columns.transpose(1, 2) @ _columns(g)), out=gv)
        _join(g_logits, _columns(g) @ _columns(v).transpose(1, 2), g @ v.transpose(1, 2))  # of the weights
        # In place: the gradient of the logits.
        torch.ops.aten._softmax_backward_data.out(g_logits, a, 2, a.dtype, grad_input=g_logits)
        columns, rows = _split(g_logits, h)
        # A product whose result is as narrow as a key is several times as slow as the same one transposed.
        row, column = (
            k.transpose(1, 2) @ rows.transpose(1, 2),
            _columns(k).transpose(1, 2) @ columns.transpose(1, 2),
        )
        torch.add(row.permute(0, 2, 1), column.permute(2, 0, 1), out=gq)
        row, column = q.transpose(1, 2) @ rows, _columns(q).transpose(1, 2) @ columns
        torch.add(row.permute(0, 2, 1), column.permute(2, 0, 1), out=gk)
    g_qkv, factor = g_qkv.flatten(1, 2), gamma.item()  # (B, N, S)
    weight, _ = _stack(tensors)
    gx = None
    if needs_map:
        gx = torch.baddbmm(grad.flatten(2), weight.t().expand(b, -1, -1), g_qkv.transpose(1, 2), alpha=factor).view_as(
            x
        )
    g_weight = torch.bmm(g_qkv.transpose(1, 2), x.flatten(2).transpose(1, 2)).sum(0).mul_(factor)
    g_bias = g_qkv.sum((0, 1)).mul_(factor)
    k = (g_bias.shape[0] - c) // 2
    g_weights = (t.view(*t.shape, 1, 1) for t in g_weight.split((k, k, c)))
    outer = [t for pair in zip(g_weights, g_bias.split((k, k, c)), strict=True) for t in pair]
    return gx, *outer, torch.dot(grad.flatten(), y.flatten()).view_as(gamma)


def _stack(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the weights (S, C) and biases (S) of the three convolutions."""
    _, q, q_bias, k, k_bias, v, v_bias, _ = tensors
    return torch.cat([q, k, v]).flatten(1), torch.cat([q_bias, k_bias, v_bias])


def _parts(qkv: Tensor, c: int) -> Iterator[Sequence[Tensor]]:
    """Yield queries, keys and values of each image, (H, W, K) and (H, W, C), as views."""
    k = (qkv.shape[3] - c) // 2
    return (image.split((k, k, c), 2) for image in qkv)


def _columns(rows: Tensor) -> Tensor:
    """Return ``(H, W, C)`` as ``(W, H, C)`` or the other way round."""
    return rows.transpose(0, 1)


def _split(cross: Tensor, h: int) -> tuple[Tensor, Tensor]:
    """Return the columns' part of ``(H, W, H + W)`` as ``(W, H, H)``, the rows' as ``(H, W, W)``."""
    return _columns(cross[..., :h]), cross[..., h:]


def _join(cross: Tensor, columns: Tensor, rows: Tensor) -> None:
    """Write both parts; products that write them in place are slower."""
    for part, given in zip(_split(cross, cross.shape[0]), (columns, rows), strict=True):
        part.copy_(given)
