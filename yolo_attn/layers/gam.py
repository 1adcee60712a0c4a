"""GAM gates every element by a small network over its pixel's channels, then by two 7x7 convolutions over all channels.

Paper: Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions, arXiv 2112.05561.
Official code: none found; three listings with the same keys circulate.
Differs: the channel gate ends in a sigmoid and the convolutions are dense. One older listing has no sigmoid
(``channel_sigmoid=False``), the one in many YOLO forks neither and convolutions in groups (``grouped=True`` as well). A
checkpoint does not tell which of them it is from. A width below ``rate`` gets one hidden channel (listings: an error).
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from . import _checks as check
from ._layout import like
from ._norm import batch_norm, fold_norm
from ._pasted import takes_pasted

SHUFFLED = 4  # whatever the rate


class GAM(nn.Module):
    """Rescale every element of the map by a gate from its pixel, then by another from its surroundings.

    ``u = x * sigmoid(W2 relu(W1 x))`` in every pixel; ``y = u * sigmoid(norm(conv7(relu(norm(conv7(u))))))``.

    Heavy: the two 7x7 convolutions cost nearly three times a 3x3 convolution of the same width.

    Paper: Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions, 2021, arXiv
    2112.05561.

    Args:
        channels: Width C of the map, at least 1.
        rate: The hidden width K of both gates is ``max(1, C // rate)``; at least 1.
        channel_sigmoid: End the first gate in a sigmoid; without it the layer is quadratic in the map.
        grouped: Split the convolutions into ``rate`` groups and shuffle the channels of the second gate; needs C and K
            divisible by ``rate``, and C by 4.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` or ``rate`` is not a positive integer, ``channel_sigmoid`` or ``grouped`` is no
            bool, or a width cannot be grouped.

    Example:
        ``[-1, 1, GAM, [4]]``

        >>> layer = GAM(64, rate=4)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, rate: int = 4, channel_sigmoid: bool = True, grouped: bool = False) -> None:
        super().__init__()
        self.channels = c = check.integer("channels", channels)
        self.rate = check.integer("rate", rate)
        self.channel_sigmoid = check.flag("channel_sigmoid", channel_sigmoid)
        self.grouped = check.flag("grouped", grouped)
        hidden, groups = max(1, c // self.rate), self.rate if self.grouped else 1
        if self.grouped:
            check.divisible("channels", c, "rate", groups)
            check.divisible("channels // rate", hidden, "rate", groups)
            check.divisible("channels", c, "shuffled groups", SHUFFLED)
        self.channel_attention = nn.Sequential(nn.Linear(c, hidden), nn.ReLU(), nn.Linear(hidden, c))
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(c, hidden, 7, padding=3, groups=groups),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, c, 7, padding=3, groups=groups),
            nn.BatchNorm2d(c),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = rearrange(self.channel_attention(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")
        u = x * (gate.sigmoid() if self.channel_sigmoid else gate).to(x.dtype)
        reduce, norm, relu, expand, last_norm = self.spatial_attention
        t = relu(batch_norm(norm, reduce(u)))  # (B, K, H, W)
        gate = batch_norm(last_norm, expand(t)).sigmoid().to(x.dtype)  # (B, C, H, W)
        if self.grouped:
            gate = rearrange(gate, "b (g c) h w -> b (c g) h w", g=SHUFFLED)
        return like(u * gate, x)

    def fold_for_inference(self) -> None:
        """Take the batch norms into the convolutions before them."""
        for conv, norm in (("0", "1"), ("3", "4")):
            fold_norm(self.spatial_attention, conv, norm)

    extra_repr = check.arguments
