"""ELA gates every element by a gate of its row times a gate of its column; one convolution and norm make both.

Paper: ELA: Efficient Local Attention for Deep Convolutional Neural Networks, arXiv 2403.01123.
Official code: none found; this is the copied listing, which quotes the paper.
Differs: the groups, the norm's groups and the bias are arguments (listing: depthwise, 16, none), for the paper's other
variants: ELA-T has kernel 5 and 32 norm groups, ELA-S kernel 5 and C // 8 groups, ELA-L kernel 7 and C // 8 groups. A
width that 16 does not divide takes fewer norm groups (listing: an error). Another copy has a full 1x1 convolution with
a bias (``kernel_size=1, groups=1, bias=True``), called ``conv1x1``; its weights load.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from . import _checks as check
from ._keys import RenamesKeys
from ._norm import group_norm
from ._pasted import takes_pasted

NUM_GROUPS = 16


class ELA(RenamesKeys, nn.Module):
    """Rescale every element of the map by two gates in (0, 1), one of its row and one of its column.

    ``f(t) = sigmoid(norm(conv(t)))``, ``y = x * f(row means) * f(column means)``: the same 1-D convolution and the same
    group norm along both axes.

    Paper: ELA: Efficient Local Attention for Deep Convolutional Neural Networks, 2024, arXiv 2403.01123.

    Args:
        channels: Width C of the map, a multiple of ``groups`` and ``num_groups``.
        kernel_size: Kernel along the axis in pixels, odd; it may exceed the map.
        groups: Groups of the convolution, at least 1; None for C (depthwise).
        num_groups: Groups of the norm, at least 1; None for 16, or the greatest divisor of 16 that divides C.
        bias: Give the convolution a bias.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, and memory for little more than the map.

    Raises:
        ValueError: If ``channels`` is not a positive multiple of ``groups`` and ``num_groups``, ``kernel_size`` is not
            odd and positive, or ``bias`` is no bool.

    Example:
        ``[-1, 1, ELA, [7]]``

        >>> layer = ELA(64, kernel_size=7)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    other_keys: ClassVar = {"conv1x1.0.": "conv.", "conv1x1.1.": "gn."}

    @takes_pasted
    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        groups: int | None = None,
        num_groups: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.channels = c = check.integer("channels", channels)
        self.kernel_size = k = check.odd("kernel_size", kernel_size)
        self.groups = c if groups is None else check.integer("groups", groups)
        self.num_groups = math.gcd(c, NUM_GROUPS) if num_groups is None else check.integer("num_groups", num_groups)
        self.bias = check.flag("bias", bias)
        check.divisible("channels", c, "groups", self.groups)
        check.divisible("channels", c, "num_groups", self.num_groups)
        self.conv = nn.Conv1d(c, c, k, padding=k // 2, groups=self.groups, bias=bias)
        self.gn = nn.GroupNorm(self.num_groups, c)

    def forward(self, x: Tensor) -> Tensor:
        gate_h = self._gate(x.mean(3))[..., None]  # (B, C, H, 1)
        gate_w = self._gate(x.mean(2))[:, :, None]  # (B, C, 1, W)
        return x * gate_h * gate_w

    def _gate(self, strip: Tensor) -> Tensor:
        """Return the gates of an axis from its means, ``(B, C, length)``."""
        return group_norm(self.gn, self.conv(strip)).sigmoid().to(strip.dtype)

    extra_repr = check.arguments
