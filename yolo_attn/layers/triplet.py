"""Triplet gates every element by the mean of three gates, one for each pair of its channel, row and column.

Paper: Rotate to Attend: Convolutional Triplet Attention Module, arXiv 2010.03045.
Official code: landskape-ai/triplet-attention (MIT).
Differs: nothing in function. The gates are summed before the product, so no turned copies of the map are made.
Checkpoints of the official repository's older file load too.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from . import _checks as check
from ._keys import RenamesKeys
from ._norm import batch_norm, fold_norm
from ._pasted import takes_pasted


class _PlaneGate(nn.Module):
    """Gate of every cell of a plane from the maxima and means along the third axis: ``(B, R, S) -> (B, R, S)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleDict(
            {"conv": nn.Conv2d(2, 1, 7, padding=3, bias=False), "bn": nn.BatchNorm2d(1, momentum=0.01)}
        )

    def forward(self, maximum: Tensor, mean: Tensor) -> Tensor:
        logits = batch_norm(self.conv["bn"], self.conv["conv"](torch.stack([maximum, mean], 1)))  # (B, 1, R, S)
        return logits[:, 0].sigmoid().to(mean.dtype)

    def fold_for_inference(self) -> None:
        """Take the batch norm into the convolution."""
        fold_norm(self.conv, "conv", "bn")


class Triplet(RenamesKeys, nn.Module):
    """Rescale every element of the map by the mean of three gates in (0, 1) on the planes (C, W), (H, C) and (H, W).

    ``gate = sigmoid(norm(conv7([max; mean])))`` over the axis that a plane lacks; ``y = x * (g_cw + g_hc + g_hw) / 3``.

    Paper: Rotate to Attend: Convolutional Triplet Attention Module, 2020, arXiv 2010.03045.

    Args:
        channels: Width C of the map, at least 1; no parameter depends on it.
        no_spatial: Leave out the gate on (H, W).

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(CH + CW + HW) time for the gates, a few passes over the map.

    Raises:
        ValueError: If ``channels`` is not a positive integer, or ``no_spatial`` is no bool.

    Example:
        ``[-1, 1, Triplet, []]``

        >>> layer = Triplet(64)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    other_keys: ClassVar = {
        "ChannelGateH.spatial.": "cw.conv.", "ChannelGateW.spatial.": "hc.conv.", "SpatialGate.spatial.": "hw.conv."
    }  # fmt: skip

    @takes_pasted
    def __init__(self, channels: int, no_spatial: bool = False) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.no_spatial = check.flag("no_spatial", no_spatial)
        self.cw = _PlaneGate()
        self.hc = _PlaneGate()
        self.hw = None if self.no_spatial else _PlaneGate()

    def forward(self, x: Tensor) -> Tensor:
        cw = self.cw(x.max(2).values, x.mean(2))[:, :, None]  # (B, C, 1, W)
        turned = (t.transpose(1, 2) for t in (x.max(3).values, x.mean(3)))  # (B, H, C)
        hc = self.hc(*turned).transpose(1, 2)[..., None]  # (B, C, H, 1)
        if self.hw is None:
            return x * ((cw + hc) / 2)
        hw = self.hw(x.max(1).values, x.mean(1))[:, None]  # (B, 1, H, W)
        return x * ((cw + hc + hw) / 3)

    extra_repr = check.arguments
