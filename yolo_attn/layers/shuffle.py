"""Shuffle gates half of each group of channels by their means, the other half pixel by pixel, and mixes the halves.

Paper: SA-Net: Shuffle Attention for Deep Convolutional Neural Networks, arXiv 2102.00240.
Official code: wofmanaf/SA-Net (no licence file).
Differs: 8 groups by default, as in the copies (official: 64, which needs 128 channels); the copies' unused argument
``reduction`` is left out.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from . import _checks as check
from ._layout import like
from ._norm import group_norm
from ._pasted import takes_pasted


class Shuffle(nn.Module):
    """Rescale half of the channels by a gate of the channel, the others by a gate of the element, and shuffle them.

    In a group of halves a and d, with weights that all groups share: ``a * sigmoid(cweight * mean(a) + cbias)`` and
    ``d * sigmoid(sweight * norm(d) + sbias)``; then the first and second half of all channels take turns.

    Paper: SA-Net: Shuffle Attention for Deep Convolutional Neural Networks, 2021, arXiv 2102.00240.

    Args:
        channels: Width C of the map, a multiple of ``2 * groups``.
        groups: Number of groups, at least 1.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, the channels in another order; O(HW) time and memory.

    Raises:
        ValueError: If ``groups`` is not a positive integer, or ``channels`` not a positive multiple of ``2 * groups``.

    Example:
        ``[-1, 1, Shuffle, [8]]``

        >>> layer = Shuffle(64, groups=8)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.groups = check.integer("groups", groups)
        check.divisible("channels", self.channels, "2 * groups", 2 * self.groups)
        half = self.channels // (2 * self.groups)
        self.cweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.gn = nn.GroupNorm(half, half)

    def forward(self, x: Tensor) -> Tensor:
        g = self.groups
        a, d = rearrange(x, "b (g c) h w -> (b g) c h w", g=g).chunk(2, 1)  # (B G, C / 2 G, H, W) each
        a = a * (self.cweight * a.mean((2, 3), keepdim=True) + self.cbias).sigmoid().to(x.dtype)
        d = d * (self.sweight * group_norm(self.gn, d) + self.sbias).sigmoid().to(x.dtype)
        y = rearrange(torch.cat([a, d], 1), "(b g) c h w -> b (g c) h w", g=g)
        return like(rearrange(y, "b (half c) h w -> b (c half) h w", half=2), x)

    extra_repr = check.arguments
