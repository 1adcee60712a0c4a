"""CrissCross on the CPU: products of rows and of columns that read parts of the same maps in place.

The three 1x1 convolutions are one product, as are their gradients. Products write to memory of their own: into parts of
a larger tensor they are far slower than a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fused import Rule, Tensors
from ._windows import pixel_products


class Crosses(Rule):
    """One pass of the layer.

    Tensors: the map; weight and bias of the query, key and value convolutions; gamma.
    """

    def compute(self, constants: None, *tensors: Tensor) -> tuple[Tensor, Tensors]:
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

    def gradients(
        self, constants: None, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
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
        if needs[0]:
            gx = torch.baddbmm(
                grad.flatten(2), weight.t().expand(b, -1, -1), g_qkv.transpose(1, 2), alpha=factor
            ).view_as(x)
        g_weight = pixel_products(g_qkv.transpose(1, 2), x.flatten(2)).mul_(factor)
        g_bias = g_qkv.sum((0, 1)).mul_(factor)
        k = (g_bias.shape[0] - c) // 2
        g_weights = (t.view(*t.shape, 1, 1) for t in g_weight.split((k, k, c)))
        outer = [t for pair in zip(g_weights, g_bias.split((k, k, c)), strict=True) for t in pair]
        return gx, *outer, torch.dot(grad.flatten(), y.flatten()).view_as(gamma)

    def plain(self, constants: None, *tensors: Tensor) -> Tensor:
        x, *parts, gamma = tensors
        q, k, v = (F.conv2d(x, *parts[i : i + 2]).permute(0, 2, 3, 1) for i in (0, 2, 4))
        y = torch.arange(x.shape[2])
        column = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # (B, W, H, H)
        column = column.masked_fill(y[:, None] == y, float("-inf")).transpose(1, 2)
        weights = torch.cat([column, q @ k.transpose(2, 3)], 3).softmax(3)
        columns, rows = weights.split(x.shape[2:], 3)
        z = (columns.transpose(1, 2) @ v.transpose(1, 2)).transpose(1, 2) + rows @ v
        return x + gamma * z.permute(0, 3, 1, 2)


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
