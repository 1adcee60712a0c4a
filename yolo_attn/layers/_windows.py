"""Convolutions of few channels as products of matrices, for layers that write their gradients by hand.

With few channels a convolution is a small product, and what the backends pack and unpack around it takes longer. Here
one strided copy lays the taps of a kernel's row side by side, one product gives what each row of the kernel adds, and a
sum over shifted views of that joins the rows: k times less to write than all k * k taps of each pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def convolve_windows(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """Convolve with an odd square kernel, stride 1, one group and the padding that keeps the size.

    Shape:
        ``(B, C, H, W)``, ``(K, C, k, k)``, ``(K,)`` -> ``(B, K, H, W)``.
    """
    y = _join(weight, _rows(x, weight.shape[2], dilation), x.shape[3], dilation)
    return y if bias is None else y.add_(bias.view(-1, 1, 1))


def convolve_windows_backward(grad: Tensor, x: Tensor, weight: Tensor, dilation: int = 1) -> tuple[Tensor, Tensor]:
    """Return the gradients of the map and of the weight; that of the bias is the sum of ``grad`` over the pixels."""
    (width, channels, k, _), (b, _, h, w) = weight.shape, x.shape
    rows = _rows(grad, k, dilation)  # (B, K * k, (H + 2p) * W)
    dx = _join(weight.flip(2, 3).transpose(0, 1), rows, w, dilation)
    # A row of the kernel further down sees the same taps one row of the map later.
    pixels = x.flatten(2).transpose(1, 2)  # (B, H * W, C)
    if b == 1:
        strides = dilation * w, rows.stride(1), 1
        taps = torch.as_strided(rows, (k, width * k, h * w), strides) @ pixels  # (k, K * k, C)
    else:  # the product above would write out the windows
        starts = range(0, k * dilation * w, dilation * w)
        taps = torch.stack([(rows[:, :, i : i + h * w] @ pixels).sum(0) for i in starts])
    return dx, taps.view(k, width, k, channels).flip(0, 2).permute(1, 3, 0, 2)


def _rows(x: Tensor, k: int, dilation: int) -> Tensor:
    """Return what each tap of a kernel's row sees, rows of padding above and below included.

    Shape:
        ``(B, C, H, W) -> (B, C * k, (H + 2p) * W)``, where p is the padding.
    """
    b, c, h, w = x.shape
    pad = k // 2 * dilation
    padded = F.pad(x, [pad] * 4)
    image, plane, row, column = padded.stride()
    rows = torch.as_strided(padded, (b, c, k, h + 2 * pad, w), (image, plane, column * dilation, row, column))
    return rows.reshape(b, c * k, -1)


def _join(weight: Tensor, rows: Tensor, w: int, dilation: int) -> Tensor:
    """Return the map convolved with ``weight``, (K, C, k, k), from what the taps of its rows see."""
    width, _, k, _ = weight.shape
    y = weight.transpose(1, 2).reshape(width * k, -1) @ rows  # (B, K * k, (H + 2p) * W)
    b, _, length = y.shape
    h = length // w - (k - 1) * dilation
    strides = y.stride(0), k * length, length + dilation * w, w, 1
    return torch.as_strided(y, (b, width, k, h, w), strides).sum(2)
