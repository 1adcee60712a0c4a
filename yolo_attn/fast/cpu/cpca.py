"""CPCA on a map with its channels last in memory.

Its chain of depthwise and 1x1 convolutions is up to twice as fast in that format, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...layers._layout import like
from ...layers.cpca import CPCA


def forward(layer: CPCA, x: Tensor) -> Any:
    """Stand in for ``CPCA.forward`` of a map with its channels first: ``(B, C, H, W) -> (B, C, H, W)``."""
    if not x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return NotImplemented
    plain = CPCA.forward.__wrapped__  # the function itself: no hook runs twice
    return like(plain(layer, x.contiguous(memory_format=torch.channels_last)), x)
