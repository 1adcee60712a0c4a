"""CoordAtt gates every element by the product of a gate from its row's mean and a gate from its column's mean.

Paper: Coordinate Attention for Efficient Mobile Network Design, arXiv 2103.02907.
Official code: houqb/CoordAttention (MIT).
Differs: no third argument for the width of the gates (it equals the input's in every use).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._norm import fold_norm
from ._pasted import takes_pasted


class CoordAtt(nn.Module):
    """Rescale every element of the map by two gates in (0, 1), one of its row and one of its column.

    ``[r; c] = hardswish(norm(conv([row means; column means])))``, ``y = x * sigmoid(conv_h(r)) * sigmoid(conv_w(c))``.

    Paper: Coordinate Attention for Efficient Mobile Network Design, 2021, arXiv 2103.02907.

    Args:
        channels: Width C of the map, at least 1.
        reduction: The hidden width is ``max(8, C // reduction)``; at least 1.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, and memory for little more than the map.

    Raises:
        ValueError: If ``channels`` or ``reduction`` is not a positive integer.

    Example:
        ``[-1, 1, CoordAtt, [32]]``

        >>> layer = CoordAtt(64, reduction=32)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.reduction = check.integer("reduction", reduction)
        hidden = max(8, channels // reduction)
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_h = nn.Conv2d(hidden, channels, 1)
        self.conv_w = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.shape[2]
        rows, columns = x.mean(3, keepdim=True), x.mean(2)[..., None]  # (B, C, H, 1), (B, C, W, 1)
        # One batch norm sees both strips, so they must pass it together: at least two values per channel.
        t = F.hardswish(self.bn1(self.conv1(torch.cat([rows, columns], 2))))  # (B, K, H + W, 1)
        gate_h = self.conv_h(t[:, :, :h]).sigmoid()  # (B, C, H, 1)
        gate_w = self.conv_w(t[:, :, h:].transpose(2, 3)).sigmoid()  # (B, C, 1, W)
        return x * gate_w * gate_h

    def fold_for_inference(self) -> None:
        """Take the batch norm into the convolution before it."""
        fold_norm(self, "conv1", "bn1")

    extra_repr = check.arguments
