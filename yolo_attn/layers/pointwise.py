"""Pointwise adds a small pointwise network to the map: parameters without attention, for comparisons.

Paper: none. It is the control of ``yolo-attn study``: what a layer of as many parameters brings that looks at one pixel
at a time and weighs nothing by anything.
Differs: nothing.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._norm import batch_norm, fold_norm
from ._pasted import takes_pasted


class Pointwise(nn.Module):
    """Add a two-layer network of each pixel's channels to the map.

    ``y = x + W2 silu(norm(W1 x))``, W1 and W2 1x1 convolutions without bias: ``hidden * (2C + 2)`` parameters.

    Paper: none; the control of a study.

    Args:
        channels: Width C of the map, at least 1.
        hidden: Width between the two convolutions, at least 1.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` or ``hidden`` is not a positive integer.

    Example:
        ``[-1, 1, Pointwise, [16]]``

        >>> layer = Pointwise(64, hidden=16)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, hidden: int = 16) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.hidden = check.integer("hidden", hidden)
        self.conv1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(batch_norm(self.bn, self.conv1(x))))

    def fold_for_inference(self) -> None:
        """Take the batch norm into the convolution."""
        fold_norm(self, "conv1", "bn")

    extra_repr = check.arguments
