"""LSK multiplies the map by a blend of a near and a far depthwise context; every pixel gates the two by themselves.

Paper: Large Selective Kernel Network for Remote Sensing Object Detection, arXiv 2303.09030.
Official code: zcablii/LSKNet (CC BY-NC 4.0, not for commercial use); this file is written from the formula alone.
Differs: nothing in function and keys. The official network puts the layer between two 1x1 convolutions inside a
residual with a layer scale; this is the bare product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks as check
from ._depthwise import depthwise
from ._pasted import takes_pasted


class LSK(nn.Module):
    """Multiply every element of the map by a blend of two contexts, 5x5 and 23x23 pixels wide; there is no sigmoid.

    ``u = dw5(x)``, ``v = dw7_dilated(u)``, ``a = A(u)``, ``e = E(v)`` with C // 2 channels each;
    ``(m1, m2) = sigmoid(conv([mean; max]))`` over the channels of a and e together; ``y = x * P(a * m1 + e * m2)``.
    A, E and P are 1x1 convolutions.

    Paper: Large Selective Kernel Network for Remote Sensing Object Detection, 2023, arXiv 2303.09030.

    Args:
        channels: Width C of the map, at least 2.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory. The output grows with the square of the input.

    Raises:
        ValueError: If ``channels`` is not an integer of at least 2.

    Example:
        ``[-1, 1, LSK, []]``

        >>> layer = LSK(64)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = c = check.integer("channels", channels, 2)
        self.conv0 = nn.Conv2d(c, c, 5, padding=2, groups=c)
        self.conv_spatial = nn.Conv2d(c, c, 7, padding=9, dilation=3, groups=c)
        self.conv1 = nn.Conv2d(c, c // 2, 1)
        self.conv2 = nn.Conv2d(c, c // 2, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(c // 2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = depthwise(self.conv0, x)
        v = depthwise(self.conv_spatial, u)
        near, far = self.conv1(u), self.conv2(v)  # (B, C // 2, H, W)
        both = torch.cat([near, far], 1)
        pooled = torch.cat([both.mean(1, keepdim=True), both.max(1, keepdim=True).values], 1)  # (B, 2, H, W)
        near_gate, far_gate = self.conv_squeeze(pooled).sigmoid().chunk(2, 1)  # (B, 1, H, W)
        return x * self.conv(near * near_gate + far * far_gate).to(x.dtype)

    extra_repr = check.arguments
