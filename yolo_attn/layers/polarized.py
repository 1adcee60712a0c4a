"""Polarized gates the channels from one weighted mean of the pixels, and the pixels from one mixture of the channels.

Paper: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, arXiv 2107.00782.
Official code: DeLightCMU/PSA (Apache-2.0), another function: ``PSA_p`` and ``PSA_s`` in ``psa.py``.
Differs: nothing from the widely copied version (xmu-xiaoma666/External-Attention-pytorch, MIT), which follows the
paper's formula: a layer norm ends the channel part, and the spatial query is a softmax over the channels. No checkpoint
of one fits the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks as check
from ._pasted import takes_pasted
from ._pooling import channel_sum, softmax_mean


class Polarized(nn.Module):
    """Rescale every element of the map by the sum of a gate of its channel and one of its pixel, each in (0, 1).

    ``z = sum_pixels softmax_pixels(Q(x)) x``, ``c = sigmoid(norm(Z(V(z))))``;
    ``s = sigmoid(softmax_channels(R(mean(x))) . U(x))``; ``y = x * c + x * s``.
    Q, V, Z, R and U are 1x1 convolutions; V, R and U have C // 2 channels, Q has one.

    Paper: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, 2021, arXiv 2107.00782.

    Args:
        channels: Width C of the map, at least 2.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` is not an integer of at least 2.

    Example:
        ``[-1, 1, Polarized, []]``

        >>> layer = Polarized(64)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels, 2)
        hidden = channels // 2
        self.ch_wv = nn.Conv2d(channels, hidden, 1)
        self.ch_wq = nn.Conv2d(channels, 1, 1)
        self.ch_wz = nn.Conv2d(hidden, channels, 1)
        self.ln = nn.LayerNorm(channels)
        self.sp_wv = nn.Conv2d(channels, hidden, 1)
        self.sp_wq = nn.Conv2d(channels, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self._channel_gate(x) + self._pixel_gate(x))

    def _channel_gate(self, x: Tensor) -> Tensor:
        # The weights sum to one, so the mean of the projected pixels is the projection of their mean.
        z = softmax_mean(x, self.ch_wq(x))  # (B, C, 1, 1)
        gate = self.ln(self.ch_wz(self.ch_wv(z)).flatten(1)).sigmoid()  # (B, C)
        return gate.to(x.dtype)[:, :, None, None]

    def _pixel_gate(self, x: Tensor) -> Tensor:
        query = self.sp_wq(x.mean((2, 3), keepdim=True))  # (B, C // 2, 1, 1)
        query = query.softmax(1, dtype=torch.promote_types(query.dtype, torch.float32))
        return channel_sum(self.sp_wv(x), query).sigmoid().to(x.dtype)  # (B, 1, H, W)

    extra_repr = check.arguments


class PolarizedSeq(Polarized):
    """Rescale each channel of the map by a gate in (0, 1), then each pixel of the result by another.

    ``u = x * c(x)``, ``y = u * s(u)`` with the gates c and s of ``Polarized``.

    Paper: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, 2021, arXiv 2107.00782.

    Args:
        channels: Width C of the map, at least 2.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` is not an integer of at least 2.

    Example:
        ``[-1, 1, PolarizedSeq, []]``

        >>> layer = PolarizedSeq(64)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    def forward(self, x: Tensor) -> Tensor:
        u = x * self._channel_gate(x)
        return u * self._pixel_gate(u)
