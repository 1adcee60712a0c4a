"""CoT adds to the local (static) context of the keys the values weighted by a softmax over the pixels of each channel.

Paper: Contextual Transformer Networks for Visual Recognition, arXiv 2107.12292.
Official code: JDAI-CV/CoTNet (own licence).
Differs: this is the widely copied version, much simpler than the official layer; no checkpoint of one fits the other.
Official: [x; keys] in this order, weights used as local convolutions over k x k neighbourhoods shared by 8 channels,
group norm, batch norm and swish, and a two-way softmax that blends static and dynamic context.
"""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._norm import batch_norm, fold_norm
from ._parts import is_bare
from ._pasted import takes_pasted

GROUPS = 4


class CoT(nn.Module):
    """Replace the map by its local context plus a share of every value, weighted over the pixels of its channel.

    ``y = k + softmax_pixels(mean(E([k; x]))) * v`` with ``k`` a grouped convolution and ``v`` a 1x1 convolution of x,
    and E two 1x1 convolutions to k x k logits a channel.

    Paper: Contextual Transformer Networks for Visual Recognition, 2021, arXiv 2107.12292.

    Args:
        channels: Width C of the map, a multiple of 4.
        kernel_size: Side of the key convolution's kernel in pixels, odd; it may exceed the map.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` is not a positive multiple of 4, or ``kernel_size`` is not odd and positive.

    Example:
        ``[-1, 1, CoT, [3]]``

        >>> layer = CoT(64, kernel_size=3)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.kernel_size = k = check.odd("kernel_size", kernel_size)
        check.divisible("channels", channels, "groups", GROUPS)
        hidden = channels // 2
        self.key_embed = nn.Sequential(
            nn.Conv2d(channels, channels, k, padding=k // 2, groups=GROUPS, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.value_embed = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.attention_embed = nn.Sequential(
            nn.Conv2d(2 * channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, k * k * channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        keys = self.key_embed[2](batch_norm(self.key_embed[1], self.key_embed[0](x)))  # (B, C, H, W)
        values = batch_norm(self.value_embed[1], self.value_embed[0](x))
        mix, norm, relu, last = self.attention_embed
        hidden = relu(batch_norm(norm, mix(torch.cat([keys, x], 1))))  # (B, C / 2, H, W)
        logits = self._mean_logits(last, hidden)  # (B, C, H, W)
        # A weight is about 1 / N: float32 keeps it and its product with the values.
        weights = logits.flatten(2).softmax(2, dtype=torch.promote_types(logits.dtype, torch.float32))
        return (keys + rearrange(weights, "b c (h w) -> b c h w", h=x.shape[2]) * values).to(x.dtype)

    def _mean_logits(self, last: nn.Module, hidden: Tensor) -> Tensor:
        """Return the mean of the k * k logits of each channel."""
        if getattr(last, "out_channels", 0) == self.channels:  # averaged already
            return last(hidden)
        if is_bare(last, nn.Conv2d) and last.bias is not None:  # one convolution of averaged weights, far less work
            return F.conv2d(hidden, *self._averages(last))
        return reduce(last(hidden), "b (c k) h w -> b c h w", "mean", c=self.channels)

    def _averages(self, last: nn.Module) -> tuple[Tensor, Tensor]:
        weight = reduce(last.weight, "(c k) d 1 1 -> c d 1 1", "mean", c=self.channels)
        return weight, reduce(last.bias, "(c k) -> c", "mean", c=self.channels)

    def fold_for_inference(self) -> None:
        """Take the batch norms into the convolutions before them, and average the last one's weights for good."""
        for embed in (self.key_embed, self.value_embed, self.attention_embed):
            fold_norm(embed, "0", "1")
        last = self.attention_embed[3]
        if type(last) is nn.Conv2d and last.out_channels != self.channels:
            with torch.no_grad():
                last.weight, last.bias = (nn.Parameter(t, last.weight.requires_grad) for t in self._averages(last))
            last.out_channels = self.channels

    extra_repr = check.arguments
