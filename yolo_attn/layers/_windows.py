"""Convolutions of few channels as products of matrices, for layers that write their gradients by hand.

With few channels a convolution is a small product, and what the backends pack and unpack around it takes longer. One
strided copy lays the windows out for a product; the windows of the gradient serve both gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_MANY = 2**22  # elements of an image's windows that take more memory than they save time, backward
_FEW = 2**18  # elements of an image's windows; to copy more takes longer than the backend's forward convolution


def convolve_windows(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """Convolve with an odd square kernel, stride 1, one group and the padding that keeps the size.

    Shape:
        ``(B, C, H, W)``, ``(K, C, k, k)``, ``(K,)`` -> ``(B, K, H, W)``.
    """
    b, channels, h, w = x.shape
    k = weight.shape[2]
    if channels * k * k * h * w > _FEW:
        return F.conv2d(x, weight, bias, 1, k // 2 * dilation, dilation)
    y = times(weight.flatten(1), _windows(x, k, dilation)).view(b, -1, h, w)
    return y if bias is None else y.add_(bias.view(-1, 1, 1))


def convolve_windows_backward(grad: Tensor, x: Tensor, weight: Tensor, dilation: int = 1) -> tuple[Tensor, Tensor]:
    """Return the gradients of the map and of the weight; that of the bias is the sum of ``grad`` over the pixels."""
    width, channels, k, _ = weight.shape
    if grad[0].numel() * k * k > _MANY:
        pad, step = [k // 2 * dilation] * 2, [dilation] * 2
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [1, 1], pad, step, False, [0, 0], 1, (True, True, False)
        )
        return dx, dweight
    windows = _windows(grad, k, dilation)  # (B, K * k * k, H * W)
    dx = times(weight.flip(2, 3).transpose(0, 1).reshape(channels, -1), windows).view_as(x)
    taps = pixel_products(windows, x.flatten(2))  # (K * k * k, C), of the kernel turned round
    return dx, taps.view(width, k, k, channels).flip(1, 2).permute(0, 3, 1, 2)


def times(matrix: Tensor, x: Tensor) -> Tensor:
    """Return ``matrix @ x`` of a matrix and a batch, without the transposed product that ``matmul`` makes of it.

    Shape:
        ``(K, C)``, ``(B, C, N)`` -> ``(B, K, N)``.
    """
    if len(x) == 1:
        return matrix.mm(x[0]).unsqueeze(0)
    return torch.bmm(matrix.expand(len(x), -1, -1), x)


def pixel_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of all channels of ``a`` with those of ``b``, summed over pixels and batch.

    Shape:
        ``(B, K, N)``, ``(B, C, N)`` -> ``(K, C)``.
    """
    if len(a) == 1:
        return a[0].mm(b[0].t())
    return torch.bmm(a, b.transpose(1, 2)).sum(0)


def _windows(x: Tensor, k: int, dilation: int) -> Tensor:
    """Return what each tap of a kernel sees: ``(B, C, H, W) -> (B, C * k * k, H * W)``."""
    b, c, h, w = x.shape
    padded = F.pad(x, [k // 2 * dilation] * 4)
    image, plane, row, column = padded.stride()
    strides = image, plane, row * dilation, column * dilation, row, column
    return torch.as_strided(padded, (b, c, k, k, h, w), strides).reshape(b, c * k * k, h * w)
