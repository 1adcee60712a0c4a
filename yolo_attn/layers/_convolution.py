"""Convolutions of stride 1 that keep the map's size, with kernels and gradients that suit the CPU.

PyTorch's CPU convolutions are fast forward, but for long rows, and slow in some gradients. The gradient of the input is
the forward convolution with the kernel turned round; the weight gradient of a depthwise row is a product of matrices.
Depthwise squares have a file of their own, ``_depthwise.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from ._eager import is_eager_cpu

Pair = tuple[int, int]
_LARGE_MAP = 1024  # pixels; below, a faster gradient does not repay the call
_LONG_ROW = 16  # from here on a row is faster as a column of the transposed map
_WIDE_MAP = 8  # times the row: beyond, too little of the product of matrices is used


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply ``conv`` to ``x``; the same function as ``conv(x)``, also for second derivatives.

    Args:
        conv: Stride 1, an odd kernel and zero padding that keeps the size; depthwise, or with one group.
        x: The map.

    Shape:
        ``(B, C, H, W) -> (B, C', H, W)``.
    """
    # Whoever replaced the module or hooked it (as counters of operations do) wants it called.
    is_plain = type(conv) is nn.Conv2d and not (conv._forward_hooks or conv._forward_pre_hooks)
    if not (is_plain and is_eager_cpu(x) and x.dtype == conv.weight.dtype and _is_worth(conv, x)):
        return conv(x)
    return _Convolution.apply(x, conv.weight, conv.bias, conv.padding, conv.dilation, conv.groups)


def _is_worth(conv: nn.Conv2d, x: Tensor) -> bool:
    (kh, kw), (h, w) = conv.kernel_size, x.shape[2:]
    if not torch.is_grad_enabled():
        return kh == 1 and kw >= _LONG_ROW
    if conv.groups == 1:
        return h * w >= _LARGE_MAP
    return kh == 1 or (kw == 1 and kh > h)


class _Convolution(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair, dilation: Pair, groups: int) -> Tensor:
        return _forward(x, weight, bias, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.settings = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3)
            dx = _forward(grad, turned.transpose(0, 1) if ctx.settings[2] == 1 else turned, None, *ctx.settings)
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(grad, x, weight, *ctx.settings)
        if ctx.needs_input_grad[2]:
            dbias = grad.sum((0, 2, 3))
        return dx, dweight, dbias, None, None, None


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair, dilation: Pair, groups: int) -> Tensor:
    if groups > 1 and weight.shape[2] == 1 and weight.shape[3] >= _LONG_ROW:
        x, weight = x.transpose(2, 3), weight.transpose(2, 3)
        y = F.conv2d(x, weight, bias, 1, padding[::-1], dilation[::-1], groups)
        return y.transpose(2, 3).contiguous()
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: Pair, dilation: Pair, groups: int) -> Tensor:
    (kh, kw), (h, w) = weight.shape[2:], x.shape[2:]
    if groups > 1 and dilation == (1, 1):
        if kh == 1 and w <= _WIDE_MAP * kw:
            return _row_gradient(grad, x, kw)[:, None, None]  # (C, 1, 1, kw)
        if kw == 1 and kh > h:  # a column longer than the map is slow, too
            return _row_gradient(grad.transpose(2, 3), x.transpose(2, 3), kh)[:, None, :, None]  # (C, 1, kh, 1)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, (1, 1), padding, dilation, False, (0, 0), groups, (False, True, False)
    )[1]


def _row_gradient(grad: Tensor, x: Tensor, size: int) -> Tensor:
    """Return the gradient of a row of ``size`` taps: ``(C, size)``."""
    wide = F.pad(x, (size // 2, size // 2))  # (B, C, H, W + size - 1)
    # Entry (w, w + t) of the product of the columns is what tap t gets from column w.
    products = (grad.transpose(2, 3) @ wide).sum(0)  # (C, W, W + size - 1)
    return products.flatten(1).unfold(1, size, products.shape[2] + 1).sum(1)
