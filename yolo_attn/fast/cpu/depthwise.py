"""Depthwise convolutions whose weight gradient is computed from kernels of at most three columns.

The backend computes the weight gradient of wider kernels in a slow loop that takes most of the time of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from ...layers._layout import like
from ...layers._parts import is_bare
from ...layers._versions import autocast_dtype
from .precision import without_autocast

# The widest kernel whose weight gradient the backend computes in its fast loop; the height does not matter.
FAST_WIDTH = 3


def depthwise(conv: nn.Module, x: Tensor) -> Any:
    """Stand in for ``layers._depthwise.depthwise`` where a gradient may be asked for."""
    if not is_bare(conv, nn.Conv2d) or not _keeps_the_size(conv):
        return NotImplemented
    kh, kw = conv.kernel_size
    dtype = autocast_dtype() or x.dtype
    known = (torch.float32, torch.bfloat16) if autocast_dtype() else (conv.weight.dtype,)
    if x.dtype not in known or conv.weight.dtype not in known or dtype == torch.float16:
        return NotImplemented
    is_recorded = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    if not is_recorded or (kw <= FAST_WIDTH and kh <= x.shape[2]):
        return NotImplemented
    bias = None if conv.bias is None else conv.bias.to(dtype)
    return _Depthwise.apply(x.to(dtype), conv.weight.to(dtype), bias)


def _keeps_the_size(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution is depthwise, of stride 1, and padded with the zeros that keep the map's size."""
    kh, kw = conv.kernel_size
    is_dense = conv.stride == conv.dilation == (1, 1) and kh % 2 == kw % 2 == 1
    is_padded = conv.padding == (kh // 2, kw // 2) and conv.padding_mode == "zeros"
    return is_dense and is_padded and conv.groups == conv.in_channels == conv.out_channels


class _Depthwise(Function):
    """The convolution, with its weight gradient computed from kernels of at most ``FAST_WIDTH`` columns.

    The backward pass consists of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gx = gw = gb = None
        if ctx.needs_input_grad[0]:
            # Odd kernel, stride 1: the transposed convolution is the convolution with the kernel turned round.
            gx = _convolve(grad, weight.flip(2, 3))
        if ctx.needs_input_grad[1]:
            gw = _weight_gradient(grad, x, *weight.shape[2:])
        if ctx.needs_input_grad[2]:
            gb = grad.sum((0, 2, 3))
        return gx, gw, gb


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kh, kw = weight.shape[2:]
    return F.conv2d(x, weight, bias, padding=(kh // 2, kw // 2), groups=x.shape[1])


def _weight_gradient(grad: Tensor, x: Tensor, kh: int, kw: int) -> Tensor:
    """Return the gradient ``(C, 1, kh, kw)`` of the kernel."""
    if kh <= FAST_WIDTH < kw:
        grad, x = (like(t.transpose(2, 3), t) for t in (grad, x))
        return _weight_gradient(grad, x, kw, kh).transpose(2, 3)
    # Kernels higher than the map are slow, more rows of zeros are not; and no tap may look past the next columns.
    below, beside = max(0, kh - x.shape[2]), max(0, kw // 2 - x.shape[3])
    if below or beside:
        grad, x = (F.pad(t, (0, beside, 0, below)) for t in (grad, x))
    columns = []
    for first in range(0, kw, FAST_WIDTH):
        width = min(FAST_WIDTH, kw - first)
        left = kw // 2 - first  # pixels from a pixel to the first one that these taps see
        right = width - 1 - left
        seen = F.pad(x, (left, right)) if left or right else x
        columns.append(_fast_gradient(grad, seen, kh, width))
    return torch.cat(columns, 3) if len(columns) > 1 else columns[0]


def _fast_gradient(grad: Tensor, x: Tensor, kh: int, kw: int) -> Tensor:
    weight = x.new_empty(x.shape[1], 1, kh, kw)  # only its shape is read
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, (1, 1), (kh // 2, 0), (1, 1), False, (0, 0), x.shape[1], (False, True, False)
    )[1]
