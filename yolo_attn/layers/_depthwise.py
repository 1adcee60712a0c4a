"""Depthwise convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ._fast import may_be_fast


@may_be_fast
def depthwise(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a depthwise convolution of stride 1 with an odd kernel that keeps the map's size.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``.
    """
    return conv(x)
