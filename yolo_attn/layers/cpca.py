"""CPCA gates the channels, then multiplies the map by a multi-scale sum of depthwise strip convolutions of itself.

Paper: Channel prior convolutional attention for medical image segmentation, arXiv 2306.05196.
Official code: Cuthbert-Huang/CPCANet (Apache-2.0).
Differs: nothing in function and keys. In the official network the layer sits in a block with norms, a residual and a
feed-forward part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._depthwise import depthwise
from ._fast import may_be_fast
from ._pasted import takes_pasted

STRIPS = (7, 11, 21)


class _ChannelGate(nn.Module):
    """Gate of every channel in (0, 2), a sum of two sigmoids: ``(B, C, H, W) -> (B, C, 1, 1)``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.mean((2, 3)), x.flatten(2).max(2).values], 2)[..., None]  # (B, C, 2, 1)
        return self.fc2(F.relu(self.fc1(pooled))).sigmoid().sum(2, keepdim=True)  # (B, C, 1, 1)


class CPCA(nn.Module):
    """Replace the map by a projection of its gated self times a sum of strip convolutions over its surroundings.

    ``u = gelu(conv(x)) * gate``, ``y = conv(conv(z) * u)`` with ``z`` the 5x5 depthwise convolution of ``u`` plus three
    pairs of strips of it.

    Paper: Channel prior convolutional attention for medical image segmentation, 2023, arXiv 2306.05196.

    Args:
        channels: Width C of the map, at least 1.
        channelAttention_reduce: The hidden width of the channel gate is ``max(1, C // channelAttention_reduce)``; at
            least 1.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` or ``channelAttention_reduce`` is not a positive integer.

    Example:
        ``[-1, 1, CPCA, [4]]``

        >>> layer = CPCA(64, channelAttention_reduce=4)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, channelAttention_reduce: int = 4) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.channelAttention_reduce = check.integer("channelAttention_reduce", channelAttention_reduce)
        self.ca = _ChannelGate(channels, max(1, channels // channelAttention_reduce))
        self.dconv5_5 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        for k in STRIPS:
            along_width = nn.Conv2d(channels, channels, (1, k), padding=(0, k // 2), groups=channels)
            along_height = nn.Conv2d(channels, channels, (k, 1), padding=(k // 2, 0), groups=channels)
            self.add_module(f"dconv1_{k}", along_width)
            self.add_module(f"dconv{k}_1", along_height)
        self.conv = nn.Conv2d(channels, channels, 1)

    @may_be_fast
    def forward(self, x: Tensor) -> Tensor:
        # The same 1x1 convolution serves three times.
        u = F.gelu(self.conv(x))
        u = u * self.ca(u)
        z = z0 = depthwise(self.dconv5_5, u)
        for k in STRIPS:
            along_width, along_height = getattr(self, f"dconv1_{k}"), getattr(self, f"dconv{k}_1")
            z = z + depthwise(along_height, depthwise(along_width, z0))
        return self.conv(self.conv(z) * u).to(x.dtype)

    extra_repr = check.arguments
