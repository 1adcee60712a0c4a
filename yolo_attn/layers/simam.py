"""SimAM gates every element by how much it stands out from the mean of its channel; it has no parameters.

Paper: SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks, ICML 2021 (PMLR 139).
Official code: ZjjConan/SimAM (no licence file).
Differs: computes in float32 (official: the sum of squares overflows in float16 and flattens the gate without a word);
a map of one pixel gets the gate of a constant map (official: NaN).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks as check
from ._pasted import takes_pasted


class SimAM(nn.Module):
    """Rescale every element of the map by a gate in [0.62, 1) that grows with its distance from the channel's mean.

    ``d = (x - mean(x))^2``, ``v = sum(d) / (HW - 1)``, ``y = x * sigmoid(d / (4 (v + e_lambda)) + 0.5)``; mean and sum
    over the pixels.

    Paper: SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks, 2021, PMLR 139.

    Args:
        channels: Width C of the map, at least 1; nothing depends on it.
        e_lambda: Added to the variance, above 0; a larger one makes all gates alike.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, memory for a few maps.

    Raises:
        ValueError: If ``channels`` is not a positive integer, or ``e_lambda`` is no positive number.

    Example:
        ``[-1, 1, SimAM, [0.0001]]``

        >>> layer = SimAM(64, e_lambda=1e-4)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, e_lambda: float = 1e-4) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.e_lambda = check.positive("e_lambda", e_lambda)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[2] * x.shape[3]
        u = x.to(torch.promote_types(x.dtype, torch.float32))  # squares overflow in float16
        d = (u - u.mean((2, 3), keepdim=True)).square()  # (B, C, H, W)
        # Of one pixel the sum is 0, and must not be divided by 0.
        v = d.sum((2, 3), keepdim=True) / (pixels - 1 + (pixels == 1))  # (B, C, 1, 1)
        gate = (d / (4 * (v + self.e_lambda)) + 0.5).sigmoid()
        return x * gate.to(x.dtype)

    extra_repr = check.arguments
