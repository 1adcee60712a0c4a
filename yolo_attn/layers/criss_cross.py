"""CrissCross lets every pixel attend to the pixels of its own row and column and adds the result, scaled, to the map.

Paper: CCNet: Criss-Cross Attention for Semantic Segmentation, arXiv 1811.11721.
Official code: speedinghzl/CCNet (MIT).
Differs: applied once by default (the official network applies the same module twice, ``recurrence=2``, between two 3x3
convolutions); the result keeps the input's dtype under autocast.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from . import _checks as check
from ._fast import may_be_fast
from ._layout import like
from ._pasted import takes_pasted
from ._precision import no_autocast


class CrissCross(nn.Module):
    """Add to each pixel a softmax mean over its row and column; a fresh layer is the identity.

    ``y_p = x_p + gamma * sum_j softmax_j(q_p k_j) v_j``, j over the pixels of p's row and column, p itself once.

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

    @takes_pasted
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

    @may_be_fast
    def _attend(self, x: Tensor) -> Tensor:
        convs = self.query_conv, self.key_conv, self.value_conv
        q, k, v = (rearrange(conv(x), "b c h w -> b h w c") for conv in convs)
        columns, rows = self._weights(q, k).to(v.dtype).split(x.shape[2:], 3)  # (B, H, W, H), (B, H, W, W)
        o = like(rearrange(_turn(columns) @ _turn(v) + _turn(rows @ v), "b w h c -> b c h w"), x)
        return (x + self.gamma * o).to(x.dtype)

    @staticmethod
    def _weights(q: Tensor, k: Tensor) -> Tensor:
        # Unscaled logits can pass the range of float16, so they stay in float32, under autocast too.
        dtype = torch.promote_types(q.dtype, torch.float32)
        with no_autocast(q):
            q, k = q.to(dtype), k.to(dtype)  # (B, H, W, K)
            columns = _turn(q) @ rearrange(k, "b h w c -> b w c h")  # (B, W, H, H)
            rows = q @ rearrange(k, "b h w c -> b h c w")  # (B, H, W, W)
            # The pixel itself stands in its row and in its column; it counts once.
            y = torch.arange(q.shape[1], device=q.device)
            columns = columns + (y[:, None] == y).to(dtype) * torch.finfo(dtype).min
            return torch.cat([_turn(columns), rows], 3).softmax(3)

    extra_repr = check.arguments


def _turn(x: Tensor) -> Tensor:
    """Let rows and columns change places."""
    return rearrange(x, "b h w c -> b w h c")
