"""CoT adds to the local (static) context of the keys the values weighted by a softmax over the pixels of each channel.

Paper: Contextual Transformer Networks for Visual Recognition, arXiv 2107.12292.
Official code: JDAI-CV/CoTNet (own licence).
Differs: this is the widely copied version, much simpler than the official layer; no checkpoint of one fits the other.
Official: [x; keys] in this order, weights used as local convolutions over k x k neighbourhoods shared by 8 channels,
group norm, batch norm and swish, and a two-way softmax that blends static and dynamic context.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._contextual import Contextual
from ._fold import fold_norm
from ._fused import children, fused, is_fusible
from ._layout import channels_last, like
from ._norm import batch_norm, normaliser
from ._pointwise import FEW_PIXELS, pointwise, project

GROUPS = 4


_RULE = Contextual()
_LINK = nn.Sequential, nn.Conv2d, nn.BatchNorm2d
_TYPES = *_LINK, nn.ReLU, *_LINK, *_LINK, nn.ReLU, nn.Conv2d


class CoT(nn.Module):
    """Replace the map by its local context plus a share of every value, weighted over the pixels of its channel.

    Three 1x1 convolutions run as functions on views of the weights: counters that hook modules do not see them.

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
        embeds = (self.key_embed, self.value_embed, self.attention_embed)
        parts = [part for embed in embeds for part in (embed, *children(embed))]
        if is_fusible(x, parts, _TYPES) and self._suits(x) and all(embed[0].bias is None for embed in embeds):
            return self._fused(x, embeds)
        x, given = channels_last(x), x
        keys = F.relu(batch_norm(self.key_embed[1], self.key_embed[0](x)))
        values = batch_norm(self.value_embed[1], pointwise(self.value_embed[0], x))
        logits = self._logits(keys, x)
        # A weight is about 1 / N: float32 keeps it and its product with the values.
        logits = logits.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, C), as the map lies in memory
        weights = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
        y = keys + weights.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2) * values
        return like(y.to(x.dtype), given)

    def _suits(self, x: Tensor) -> bool:
        """Tell whether the map has the layer's width, and few enough pixels to gain from one node."""
        return x.shape[1] == self.channels and x.shape[0] * x.shape[2] * x.shape[3] <= FEW_PIXELS

    def _fused(self, x: Tensor, embeds: Iterable[nn.Sequential]) -> Tensor:
        norms = tuple(normaliser(embed[1], x.numel() // x.shape[1]) for embed in embeds)
        tensors = [t for embed in embeds for t in (embed[0].weight, embed[1].weight, embed[1].bias)]
        last = self.attention_embed[3]
        return fused(_RULE, norms, x, *tensors, last.weight, last.bias)

    def _logits(self, keys: Tensor, x: Tensor) -> Tensor:
        mix, norm, relu, last = self.attention_embed
        # A product with the concatenation [keys; x] is the sum of two products; no concatenated map is stored.
        of_keys, of_x = mix.weight.split(self.channels, 1)
        hidden = project(of_keys, None, keys) + project(of_x, mix.bias, x)
        hidden = relu(batch_norm(norm, hidden))  # (B, C / 2, H, W)
        # The mean of k * k outputs of a 1x1 convolution is one 1x1 convolution with the mean weights.
        if last.out_channels == self.channels:
            return pointwise(last, hidden)  # (B, C, H, W)
        return project(*self._averages(last), hidden)

    def _averages(self, last: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Return the mean weights (C, C / 2, 1, 1) and biases."""
        weight, bias = (t.unflatten(0, (self.channels, -1)).mean(1) for t in (last.weight, last.bias))
        return weight, bias

    def fold_for_inference(self) -> None:
        """Take the batch norms into the convolutions before them, and average the last one's weights for good."""
        for embed in (self.key_embed, self.value_embed, self.attention_embed):
            fold_norm(embed, "0", "1")
        last = self.attention_embed[3]
        if type(last) is nn.Conv2d and last.out_channels != self.channels:
            with torch.no_grad():
                last.weight, last.bias = (nn.Parameter(t, last.weight.requires_grad) for t in self._averages(last))
            last.out_channels = self.channels

    def extra_repr(self) -> str:
        return f"channels={self.channels}, kernel_size={self.kernel_size}"
