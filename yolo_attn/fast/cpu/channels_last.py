"""A layer's own forward on a map with its channels last in memory.

Chains of depthwise and 1x1 convolutions are up to twice as fast in that format, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...layers._layout import like


def forward(layer: nn.Module, x: Tensor) -> Any:
    """Stand in for the forward of a layer of convolutions, with maps ``(B, C, H, W)`` in any format."""
    if not x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return NotImplemented  # in that format already, whereupon the layer's own forward runs as it is
    return like(layer(x.contiguous(memory_format=torch.channels_last)), x)
