"""Depthwise convolutions with wide kernels, whose weight gradient takes most of the time of a step on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._pointwise import is_bare, is_recorded

# The widest kernel whose weight gradient the CPU backend computes in its fast loop; the height does not matter.
FAST_WIDTH = 3


def depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a depthwise convolution of stride 1 that keeps the map's size; see ``_Depthwise`` for what is gained.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``.
    """
    if conv.kernel_size[1] <= FAST_WIDTH or not (is_bare(conv) and is_recorded(x, conv.weight)):
        return conv(x)
    return _Depthwise.apply(x, conv.weight, conv.bias)


class _Depthwise(torch.autograd.Function):
    """The convolution, with its weight gradient computed from kernels of at most ``FAST_WIDTH`` columns.

    The backward pass consists of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kh, kw = weight.shape[2:]
        return F.conv2d(x, weight, bias, padding=(kh // 2, kw // 2), groups=x.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        kh, kw = weight.shape[2:]
        gx = gw = gb = None
        if ctx.needs_input_grad[0]:
            # Odd kernel, stride 1: the transposed convolution is the convolution with the kernel turned round.
            gx = F.conv2d(grad, weight.flip(2, 3), padding=(kh // 2, kw // 2), groups=x.shape[1])
        if ctx.needs_input_grad[1]:
            gw = _weight_gradient(x, grad, kh, kw)
        if ctx.needs_input_grad[2]:
            gb = grad.sum((0, 2, 3))
        return gx, gw, gb


def _weight_gradient(x: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    """Return the gradient ``(C, 1, kh, kw)`` of the kernel."""
    if kh <= FAST_WIDTH < kw:
        return _weight_gradient(x.transpose(2, 3).contiguous(), grad.transpose(2, 3).contiguous(), kw, kh).transpose(
            2, 3
        )
    c, w = x.shape[1], x.shape[3]
    x = F.pad(x, (kw // 2, kw // 2, 0, 0))
    columns = []
    for first in range(0, kw, FAST_WIDTH):
        width = min(FAST_WIDTH, kw - first)
        part = x[..., first : first + w + width - 1]
        columns.append(torch.nn.grad.conv2d_weight(part, (c, 1, kh, width), grad, padding=(kh // 2, 0), groups=c))
    return torch.cat(columns, 3)
