"""EMA gates every pixel of a group of channels by what its row and column say and by what its 3x3 surroundings say.

Here EMA is the attention layer, not the weight averaging of a training.

Paper: Efficient Multi-Scale Attention Module with Cross-Spatial Learning, arXiv 2305.13563.
Official code: YOLOonMe/EMA-attention-module (no licence file).
Differs: 8 groups by default, as in most copies (official: 32, which divides few widths); no second argument ``c2``,
which is unused there.
"""

from __future__ import annotations

import torch
from einops import einsum
from torch import Tensor, nn

from . import _checks as check
from ._layout import like
from ._norm import group_norm
from ._pasted import takes_pasted


class EMA(nn.Module):
    """Rescale every element of the map by a gate in (0, 1) of its pixel and group; all groups share the weights.

    In a group u: ``a = norm(u * sigmoid(conv1(row means)) * sigmoid(conv1(column means)))``, ``q = conv3(u)``,
    ``y = u * sigmoid(softmax(mean(a)) . q + softmax(mean(q)) . a)``, means over the pixels, products over the channels.

    Paper: Efficient Multi-Scale Attention Module with Cross-Spatial Learning, 2023, arXiv 2305.13563.

    Args:
        channels: Width C of the map, a multiple of ``factor``.
        factor: Number of groups, from 1 to C; a group has ``C / factor`` channels.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` is not a positive multiple of ``factor``.

    Example:
        ``[-1, 1, EMA, [8]]``

        >>> layer = EMA(64, factor=8)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, factor: int = 8) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.factor = check.integer("factor", factor)
        check.divisible("channels", self.channels, "factor", self.factor)
        n = self.channels // self.factor
        self.gn = nn.GroupNorm(n, n)
        self.conv1x1 = nn.Conv2d(n, n, 1)
        self.conv3x3 = nn.Conv2d(n, n, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        u = x.reshape(b * self.factor, c // self.factor, h, w)
        rows, columns = (self.conv1x1(u.mean(axis, keepdim=True)) for axis in (3, 2))  # (BG, n, H, 1), (BG, n, 1, W)
        a = group_norm(self.gn, u * rows.sigmoid() * columns.sigmoid())  # (BG, n, H, W)
        q = self.conv3x3(u)  # (BG, n, H, W)
        logits = _dot(_weights(a), q) + _dot(_weights(q), a)  # (BG, 1, H, W)
        return like((u * logits.sigmoid().to(x.dtype)).reshape(b, c, h, w), x)

    extra_repr = check.arguments


def _weights(x: Tensor) -> Tensor:
    """Return the softmax over the channels of their means, in float32: ``(N, n, H, W) -> (N, n)``."""
    return x.mean((2, 3)).softmax(1, dtype=torch.promote_types(x.dtype, torch.float32))


def _dot(weights: Tensor, x: Tensor) -> Tensor:
    """Return the weighted sum of the channels: ``(N, n), (N, n, H, W) -> (N, 1, H, W)``."""
    return einsum(weights.to(x.dtype), x, "b c, b c h w -> b h w")[:, None]
