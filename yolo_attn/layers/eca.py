"""ECA gates every channel by one small filter that slides along the means of neighbouring channels.

Paper: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, arXiv 1910.03151.
Official code: BangguWu/ECANet (MIT).
Differs: the kernel follows the paper's rule from the width (official: 3 unless the caller gives another). Some copies
have a bias (``bias=True``) or call the filter ``conv1``; its weights load.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from . import _checks as check
from ._keys import RenamesKeys
from ._pasted import takes_pasted

MOST = 255  # a longer kernel is a slip in gamma or b


def adaptive_kernel_size(channels: int, gamma: float, b: float) -> int:
    """Return ``|log2(C) / gamma + b / gamma|``, cut to an integer and raised to an odd one.

    Raises:
        ValueError: If it is too large to be meant.
    """
    size = abs((math.log2(channels) + b) / gamma)
    if size > MOST:
        raise ValueError(f"gamma={gamma!r} with b={b!r} asks for a kernel of {size:.3g} channels; {MOST} are allowed")
    return int(size) if int(size) % 2 else int(size) + 1


class ECA(RenamesKeys, nn.Module):
    """Rescale each channel of the map by a gate in (0, 1) that sees the means of its neighbours in channel order.

    ``y = x * sigmoid(conv1d(mean(x)))``, the mean over the pixels, the convolution along the channels.

    Paper: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, 2019, arXiv 1910.03151.

    Args:
        channels: Width C of the map, at least 1.
        kernel_size: Channels that a gate sees, odd; it may exceed C. None chooses it from C: 1 below 8 channels, 3
            below 128, 5 below 2048.
        gamma: Divisor in that rule, above 0.
        b: Summand in that rule.
        bias: Give the filter a bias.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, no extra map in memory.

    Raises:
        ValueError: If ``channels`` is not a positive integer, ``kernel_size`` is not odd and positive, ``gamma`` is no
            positive number, ``b`` no finite number, they ask for more than 255 channels, or ``bias`` is no bool.

    Example:
        ``[-1, 1, ECA, [3]]``

        >>> layer = ECA(64, kernel_size=3)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    other_keys: ClassVar = {"conv1.": "conv."}

    @takes_pasted
    def __init__(
        self, channels: int, kernel_size: int | None = None, gamma: float = 2, b: float = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.gamma, self.b = check.positive("gamma", gamma), check.number("b", b)
        adaptive = adaptive_kernel_size(self.channels, self.gamma, self.b)
        self.kernel_size = k = adaptive if kernel_size is None else check.odd("kernel_size", kernel_size)
        self.bias = check.flag("bias", bias)
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=self.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(x.mean((2, 3))[:, None])  # (B, 1, C)
        return x * logits.sigmoid().to(x.dtype)[:, 0, :, None, None]

    extra_repr = check.arguments
