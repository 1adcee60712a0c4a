"""CrissCross lets every pixel attend to the pixels of its own row and column and adds the result, scaled, to the map.

Paper: CCNet: Criss-Cross Attention for Semantic Segmentation, arXiv 1811.11721.
Official code: speedinghzl/CCNet (MIT).
Differs: applied once by default (the official network applies the same module twice, ``recurrence=2``, between two 3x3
convolutions); the result keeps the input's dtype under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks as check
from ._crosses import Crosses
from ._fused import fused, is_fusible, weights_and_biases
from ._layout import like

_RULE = Crosses()
_TYPES = nn.Conv2d, nn.Conv2d, nn.Conv2d


class CrissCross(nn.Module):
    """Add to each pixel a softmax mean over its row and column; a fresh layer is the identity.

    Paper: CCNet: Criss-Cross Attention for Semantic Segmentation, 2018, arXiv 1811.11721.

    Args:
        channels: Width C of the map, at least 1; queries and keys have ``max(1, C // 8)`` channels.
        recurrence: How often the layer is applied with the same weights, at least 1; from 2 on every pixel sees all.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW(H + W)) time and memory, times ``recurrence``.

    Raises:
        ValueError: If ``channels`` or ``recurrence`` is not a positive integer.

    Example:
        ``[-1, 1, CrissCross, [2]]``

        >>> layer = CrissCross(64, recurrence=2)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    starts_as_identity = True

    def __init__(self, channels: int, recurrence: int = 1) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.recurrence = check.integer("recurrence", recurrence)
        hidden = max(1, channels // 8)
        self.query_conv = nn.Conv2d(channels, hidden, 1)
        self.key_conv = nn.Conv2d(channels, hidden, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = self._attend(x)
        return x

    def _attend(self, x: Tensor) -> Tensor:
        parts = (self.query_conv, self.key_conv, self.value_conv)
        if is_fusible(x, parts, _TYPES):
            return fused(_RULE, None, x, *weights_and_biases(parts), self.gamma)
        h, w = x.shape[2:]
        # With the channels last in memory every product below reads its operands in order.
        pixels = x.contiguous(memory_format=torch.channels_last)
        q, k, v = (conv(pixels).permute(0, 2, 3, 1) for conv in parts)
        # (B, H, W, H) and (B, H, W, W); the gradients of a split are joined, those of two slices filled up and added.
        columns, rows = self._weights(q, k).to(v.dtype).split((h, w), 3)
        column = columns.transpose(1, 2) @ v.transpose(1, 2)  # (B, W, H, C)
        # Sums of maps of two layouts are slow.
        o = like((column.transpose(1, 2) + rows @ v).permute(0, 3, 1, 2), x)  # (B, C, H, W)
        return (x + self.gamma.to(o.dtype) * o).to(x.dtype)

    @staticmethod
    def _weights(q: Tensor, k: Tensor) -> Tensor:
        # Unscaled logits can pass the range of float16, so they stay in float32, under autocast too.
        dtype = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            q, k = q.to(dtype), k.to(dtype)  # (B, H, W, K)
            column = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # (B, W, H, H)
            row = q @ k.transpose(2, 3)  # (B, H, W, W)
            # The pixel itself stands in its row and in its column; it counts once.
            y = torch.arange(q.shape[1], device=q.device)
            column = column.masked_fill(y[:, None] == y, float("-inf"))
            return torch.cat([column.transpose(1, 2), row], 3).softmax(3)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, recurrence={self.recurrence}"
