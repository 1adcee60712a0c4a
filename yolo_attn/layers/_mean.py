"""Means whose backward costs nothing: the gradient is divided while it is small, and expanded as a view.

``Tensor.mean`` divides the expanded gradient, which writes and then reads one more map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._eager import is_eager


def _mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    recorded = x.requires_grad and torch.is_grad_enabled()
    if not (recorded and is_eager(x)) or (x.device.type == "cpu" and x.dtype.itemsize < 4):
        return x.mean(dims, keepdim=True)
    count = 1
    for dim in dims:
        count *= x.shape[dim]
    # A sum over a map can pass the range of float16.
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (x.sum(dims, keepdim=True, dtype=dtype) / count).to(x.dtype)


def global_mean(x: Tensor) -> Tensor:
    """Return the mean of each channel over the map: ``(B, C, H, W) -> (B, C, 1, 1)``."""
    return _mean(x, (2, 3))


def channel_mean(x: Tensor) -> Tensor:
    """Return the mean of each pixel over the channels: ``(B, C, H, W) -> (B, 1, H, W)``."""
    return _mean(x, (1,))


def row_mean(x: Tensor) -> Tensor:
    """Return the mean of each row: ``(B, C, H, W) -> (B, C, H, 1)``."""
    return _mean(x, (3,))


def column_mean(x: Tensor) -> Tensor:
    """Return the mean of each column: ``(B, C, H, W) -> (B, C, 1, W)``."""
    return _mean(x, (2,))
