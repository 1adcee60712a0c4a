"""Maxima whose gradient goes to one element, also where several are equal.

``amax`` is much faster than ``max`` but shares the gradient between equal elements, and equal maxima are common after a
ReLU and on constant maps. So it serves only where no gradient is recorded; the values are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._eager import is_eager_cpu


def _is_recorded(x: Tensor) -> bool:
    # A trace outlives the call: it may be run with gradients later.
    return torch.jit.is_tracing() or (x.requires_grad and torch.is_grad_enabled())


def global_max(x: Tensor) -> Tensor:
    """Return the maximum of each channel over the map: ``(B, C, H, W) -> (B, C, 1, 1)``."""
    if _is_recorded(x):
        if is_eager_cpu(x):
            return F.adaptive_max_pool2d(x, 1)  # the faster one there; on a GPU one thread would read a whole map
        return x.flatten(2).max(2).values[:, :, None, None]
    return x.amax((2, 3), keepdim=True)


def channel_max(x: Tensor) -> Tensor:
    """Return the maximum of each pixel over the channels: ``(B, C, H, W) -> (B, 1, H, W)``."""
    if _is_recorded(x):
        return x.max(1, keepdim=True).values
    return x.amax(1, keepdim=True)


def first_index(x: Tensor, maximum: Tensor, dim: int, work: Tensor | None = None) -> Tensor:
    """Return where along ``dim`` the maximum stands first, many times as fast as ``max`` does.

    Args:
        x: Values, float32 or float64.
        maximum: ``x.amax(dim, keepdim=True)``.
        dim: The dimension that was reduced, of at most 2**24 elements.
        work: Memory like ``x`` to use and overwrite; ``x`` itself will do.

    Shape:
        As ``maximum``, int64.
    """
    size = x.shape[dim]
    codes = torch.arange(size, 0, -1, dtype=x.dtype).view(-1, *[1] * (x.dim() - dim - 1))  # the first is the largest
    # Far faster as floats than as booleans.
    hits = torch.eq(x, maximum, out=torch.empty_like(x) if work is None else work)
    index = size - hits.mul_(codes).amax(dim, keepdim=True)
    return index.clamp_(max=size - 1).long()  # nothing equals a maximum that is not a number
