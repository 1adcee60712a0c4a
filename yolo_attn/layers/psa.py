"""PSA_p and PSA_s are polarized self-attention, parallel and sequential, as the authors published it in code.

Paper: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, arXiv 2107.00782.
Official code: DeLightCMU/PSA (Apache-2.0).
Differs: nothing in function and keys. The paper's formula is another function: ``Polarized`` and ``PolarizedSeq`` in
``polarized.py``. Here the spatial query has no softmax; one over the pixels comes before the sigmoid (``PSA_p``) or
before the mixture (``PSA_s``), and a gate over N pixels is 0.5 plus about 1 / (4 N), almost a constant. So it is in the
official code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks as check
from ._pasted import takes_pasted
from ._pooling import channel_sum, softmax_mean


class PSA_p(nn.Module):
    """Rescale every element of the map by the sum of a gate of its channel in (0, 1) and one of its pixel near 0.5.

    ``z = sum_pixels softmax_pixels(Q(x)) x``, ``c = sigmoid(Z(V(z)))``;
    ``s = sigmoid(softmax_pixels(R(mean(x)) . U(x)))``, in (0.5, 0.731); ``y = x * c + x * s``.
    Q, V, Z, R and U are 1x1 convolutions without bias; V, R and U have C // 2 channels, Q has one.

    Paper: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, 2021, arXiv 2107.00782.

    Args:
        channels: Width C of the map, at least 2.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` is not an integer of at least 2.

    Example:
        ``[-1, 1, PSA_p, []]``

        >>> layer = PSA_p(64)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels, 2)
        hidden = channels // 2
        self.conv_q_right = nn.Conv2d(channels, 1, 1, bias=False)
        self.conv_v_right = nn.Conv2d(channels, hidden, 1, bias=False)
        self.conv_up = nn.Conv2d(hidden, channels, 1, bias=False)
        self.conv_q_left = nn.Conv2d(channels, hidden, 1, bias=False)
        self.conv_v_left = nn.Conv2d(channels, hidden, 1, bias=False)
        for conv in (self.conv_q_right, self.conv_v_right, self.conv_q_left, self.conv_v_left):
            nn.init.normal_(conv.weight, std=(2 / channels) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self._channel_gate(x) + self._pixel_gate(x))

    def _channel_gate(self, x: Tensor) -> Tensor:
        # The weights sum to one, so the mean of the projected pixels is the projection of their mean.
        z = softmax_mean(x, self.conv_q_right(x))  # (B, C, 1, 1)
        return self.conv_up(self.conv_v_right(z)).sigmoid().to(x.dtype)

    def _pixel_gate(self, x: Tensor) -> Tensor:
        query = self.conv_q_left(x.mean((2, 3), keepdim=True))  # (B, C // 2, 1, 1)
        logits = channel_sum(self.conv_v_left(x), query)  # (B, 1, H, W)
        return _pixel_softmax(logits).sigmoid().to(x.dtype)

    extra_repr = check.arguments


class PSA_s(PSA_p):
    """Rescale each channel of the map by a gate in (0, 1), then each pixel of the result by another, near 0.5.

    ``z = sum_pixels softmax_pixels(Q(x)) x``, ``c = sigmoid(Z(relu(norm(Y(V(z))))))``, ``u = x * c``;
    ``s = sigmoid(R(mean(u)) . softmax_pixels(U(u)))``; ``y = u * s``.
    Q, V, Y, Z, R and U are 1x1 convolutions; Y goes from C // 2 to C // 8 channels and has a bias, as Z has.

    Paper: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, 2021, arXiv 2107.00782.

    Args:
        channels: Width C of the map, at least 8. Below 16 the norm sees one channel, and the channel gate is constant.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` is not an integer of at least 8.

    Example:
        ``[-1, 1, PSA_s, []]``

        >>> layer = PSA_s(64)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int) -> None:
        super().__init__(check.integer("channels", channels, 8))
        hidden, narrow = channels // 2, channels // 2 // 4
        self.conv_up = nn.Sequential(
            nn.Conv2d(hidden, narrow, 1), nn.LayerNorm([narrow, 1, 1]), nn.ReLU(), nn.Conv2d(narrow, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        u = x * self._channel_gate(x)
        return u * self._pixel_gate(u)

    def _pixel_gate(self, x: Tensor) -> Tensor:
        query = self.conv_q_left(x.mean((2, 3), keepdim=True))  # (B, C // 2, 1, 1)
        weights = _pixel_softmax(self.conv_v_left(x))  # (B, C // 2, H, W)
        return channel_sum(weights, query).sigmoid().to(x.dtype)  # (B, 1, H, W)


def _pixel_softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the pixels of each channel, at least in float32: a weight is about 1 / N."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.flatten(2).softmax(2, dtype=dtype).view_as(logits)
