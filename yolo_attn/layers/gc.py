"""GC adds to every pixel, or multiplies it by, one vector computed from a weighted mean of the whole map.

Paper: GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, arXiv 1904.11492.
Official code: xvjiarui/GCNet (Apache-2.0), ``ContextBlock``.
Differs: ``ratio`` has a default, the paper's 1/16 (official: required), and a width below 1 / ratio gets one hidden
channel (official: an error). timm's ``GlobalContext`` multiplies by default, takes 1/8, a norm with eps 1e-6 and
another start; its weights load, and compute the same once that eps is set.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from . import _checks as check
from ._keys import RenamesKeys
from ._pasted import takes_pasted
from ._pooling import softmax_mean

FUSIONS = ("channel_add", "channel_mul")


class GC(RenamesKeys, nn.Module):
    """Add one vector, made of a weighted mean of the pixels, to all pixels; a fresh layer is the identity.

    ``z = sum_pixels softmax_pixels(Q(x)) x``, ``M(z) = L2(relu(norm(L1(z))))``; ``y = x + M(z)``, or
    ``y = x * sigmoid(M(z))``, which starts as 0.5 x, or with both the product first: ``y = x * sigmoid(M(z)) + M'(z)``.

    Paper: GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, 2019, arXiv 1904.11492.

    Args:
        channels: Width C of the map, at least 1.
        ratio: The hidden width of M is ``max(1, int(C * ratio))``, in (0, 1]. It should be 4 or more: the norm of one
            channel is a constant.
        pooling_type: ``"att"``, the weighted mean, or ``"avg"``, the plain mean of the pixels.
        fusion_types: ``["channel_add"]``, ``["channel_mul"]`` or both, in any order.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, no extra map in memory.

    Raises:
        ValueError: If ``channels`` is not a positive integer, ``ratio`` is not in (0, 1], ``pooling_type`` is another
            word, or ``fusion_types`` is not a list of one or both of the two words.

    Example:
        ``[-1, 1, GC, [0.0625]]``

        >>> layer = GC(64, ratio=1 / 16)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    other_keys: ClassVar = {"conv_attn.": "conv_mask."} | {
        f"mlp_{theirs}.{part}.": f"channel_{ours}_conv.{number}."
        for theirs, ours in (("add", "add"), ("scale", "mul"))
        for part, number in (("fc1", 0), ("norm", 1), ("fc2", 3))
    }

    @takes_pasted
    def __init__(
        self,
        channels: int,
        ratio: float = 1 / 16,
        pooling_type: str = "att",
        fusion_types: Sequence[str] = ("channel_add",),
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.ratio = _ratio(ratio)
        self.pooling_type = check.choice("pooling_type", pooling_type, ("att", "avg"))
        self.fusion_types = _fusions(fusion_types)
        self.starts_as_identity = self.fusion_types == ("channel_add",)
        hidden = max(1, math.trunc(channels * ratio))
        if hidden == 1:
            mend = f"ratio={math.ceil(400 / channels) / 100} gives at least 4" if channels >= 4 else "take a wider map"
            warnings.warn(
                f"GC(channels={channels}, ratio={ratio}) has one hidden channel: the norm of it is a constant, so the "
                f"layer sees nothing of the map; {mend}",
                stacklevel=2,
            )
        if pooling_type == "att":
            self.conv_mask = nn.Conv2d(channels, 1, 1)
            nn.init.normal_(self.conv_mask.weight, std=(2 / channels) ** 0.5)
            nn.init.zeros_(self.conv_mask.bias)
        for name in FUSIONS:
            if name in self.fusion_types:
                self.add_module(f"{name}_conv", _bottleneck(channels, hidden))

    def forward(self, x: Tensor) -> Tensor:
        z = softmax_mean(x, self.conv_mask(x)) if self.pooling_type == "att" else x.mean((2, 3), keepdim=True)
        y = x  # both vectors come from the map as it was
        if "channel_mul" in self.fusion_types:
            y = y * self.channel_mul_conv(z).sigmoid().to(x.dtype)
        if "channel_add" in self.fusion_types:
            y = y + self.channel_add_conv(z).to(x.dtype)
        return y

    extra_repr = check.arguments


def _bottleneck(channels: int, hidden: int) -> nn.Sequential:
    """Return M, ``(B, C, 1, 1) -> (B, C, 1, 1)``; its last layer starts at zero."""
    last = nn.Conv2d(hidden, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), last)


def _ratio(value: float) -> float:
    if not 0 < check.number("ratio", value) <= 1:
        raise ValueError(f"ratio={value!r} must be a number in (0, 1]: it multiplies the width, 1/16 is 0.0625")
    return float(value)


def _fusions(value: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not value or len(value) != len({*map(str, value)}):
        raise ValueError(f"fusion_types={value!r} must be a list of one or both of {', '.join(map(repr, FUSIONS))}")
    return tuple(check.choice("fusion_types", word, FUSIONS) for word in value)
