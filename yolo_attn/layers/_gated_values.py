"""The parts of CloAttention on the CPU, each one node of the graph.

The local branches hold their pixels one after the other, ``(B, H, W, C)``, as depthwise convolutions want them, the
attention its channels, ``(B, C, H, W)``. The products at the entry and the exit lead from one to the other: no map is
copied for its order, and none for being a part of another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fused import Rule, Tensors
from ._windows import pixel_products


class Entry(Rule):
    """A 1x1 convolution ``(B, C, H, W) -> (B, H, W, C')``. Tensors: the map, weight and bias."""

    def compute(self, constants: None, *tensors: Tensor) -> tuple[Tensor, Tensors]:
        x, weight, bias = tensors
        b, _, h, w = x.shape
        pixels, weight = x.flatten(2).transpose(1, 2), weight.flatten(1).t().expand(b, -1, -1)
        y = torch.bmm(pixels, weight) if bias is None else torch.baddbmm(bias, pixels, weight)
        return y.view(b, h, w, -1), ()

    def gradients(
        self, constants: None, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        x, weight, bias = tensors
        g = grad.flatten(1, 2)  # (B, N, C')
        gx = None
        if needs[0]:
            gx = torch.bmm(weight.flatten(1).t().expand(x.shape[0], -1, -1), g.transpose(1, 2)).view_as(x)
        g_weight = pixel_products(g.transpose(1, 2), x.flatten(2)).view_as(weight)
        return gx, g_weight, None if bias is None else g.sum((0, 1))

    def plain(self, constants: None, *tensors: Tensor) -> Tensor:
        return F.conv2d(*tensors).permute(0, 2, 3, 1)


class Gate(Rule):
    """Values gated by what two 1x1 convolutions make of queries times keys: ``(B, H, W, 3 C) -> (B, H, W, C)``.

    The constant multiplies the gates' logits. Tensors: the three maps as one, weight and bias of both convolutions.
    """

    def compute(self, scale: float, *tensors: Tensor) -> tuple[Tensor, Tensors]:
        qkv, first, first_bias, second, second_bias = tensors
        q, k, v = qkv.flatten(0, 2).chunk(3, 1)
        qk = q * k
        a = torch.addmm(first_bias, qk, first.flatten(1).t())
        s = F.silu(a)
        gate = torch.addmm(second_bias, s, second.flatten(1).t(), beta=scale, alpha=scale).tanh_()
        return (gate * v).view(*qkv.shape[:3], -1), (qk, a, s, gate)

    def gradients(
        self, scale: float, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        qkv, first, _, second, _ = tensors
        qk, a, s, gate = kept
        q, k, v = qkv.flatten(0, 2).chunk(3, 1)
        g = grad.flatten(0, 2)  # (B N, C)
        g_qkv = qkv.new_empty(qkv.shape)
        gq, gk, gv = g_qkv.flatten(0, 2).chunk(3, 1)
        torch.mul(g, gate, out=gv)
        g = torch.ops.aten.tanh_backward(g * v, gate).mul_(scale)
        g_second, g_second_bias = (g.t() @ s).view_as(second), g.sum(0)
        g = torch.ops.aten.silu_backward(g @ second.flatten(1), a)
        g_first, g_first_bias = (g.t() @ qk).view_as(first), g.sum(0)
        g = g @ first.flatten(1)
        torch.mul(g, k, out=gq)
        torch.mul(g, q, out=gk)
        return g_qkv, g_first, g_first_bias, g_second, g_second_bias

    def plain(self, scale: float, *tensors: Tensor) -> Tensor:
        qkv, first, first_bias, second, second_bias = tensors
        q, k, v = qkv.chunk(3, 3)
        s = F.silu(F.linear(q * k, first.flatten(1), first_bias))
        return (F.linear(s, second.flatten(1), second_bias) * scale).tanh() * v


class Exit(Rule):
    """A 1x1 convolution of branches, never joined.

    Tensors: weight and bias, the global map ``(B, C', H, W)`` or None, the local ones ``(B, H, W, C')``. The local ones
    are its first channels.
    """

    def compute(self, constants: None, *tensors: Tensor) -> tuple[Tensor, Tensors]:
        weight, bias, *branches = tensors
        columns = _columns(*branches)
        b, h, w = _size(*branches)
        y = None if bias is None else bias[:, None]
        for part, t in zip(weight.flatten(1).split([t.shape[1] for t in columns], 1), columns, strict=True):
            part = part.expand(b, -1, -1)
            y = torch.bmm(part, t) if y is None else torch.baddbmm(y, part, t)
        return y.view(b, -1, h, w), ()

    def gradients(
        self, constants: None, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        weight, bias, whole, *local = tensors
        columns = _columns(whole, *local)
        g = grad.flatten(2)  # (B, C, N)
        parts = [t.expand(g.shape[0], -1, -1) for t in weight.flatten(1).split([t.shape[1] for t in columns], 1)]
        g_weight = torch.cat([pixel_products(g, t) for t in columns], 1).view_as(weight)
        g_local = [torch.bmm(g.transpose(1, 2), part).view_as(t) for part, t in zip(parts, local, strict=False)]
        g_whole = None if whole is None else torch.bmm(parts[-1].transpose(1, 2), g).view_as(whole)
        return g_weight, None if bias is None else g.sum((0, 2)), g_whole, *g_local

    def plain(self, constants: None, *tensors: Tensor) -> Tensor:
        weight, bias, whole, *local = tensors
        maps = [t.permute(0, 3, 1, 2) for t in local]
        return F.conv2d(torch.cat(maps if whole is None else [*maps, whole], 1), weight, bias)


def _columns(whole: Tensor | None, *local: Tensor) -> list[Tensor]:
    """Return the branches as ``(B, C', N)``, views."""
    columns = [t.flatten(1, 2).transpose(1, 2) for t in local]
    return columns if whole is None else [*columns, whole.flatten(2)]


def _size(whole: Tensor | None, *local: Tensor) -> tuple[int, int, int]:
    """Return B, H and W."""
    b, h, w = local[0].shape[:3] if whole is None else (whole.shape[0], *whole.shape[2:])
    return b, h, w
