"""DoubleAttention gathers n weighted means of the features over the map, then gives every pixel its own blend of them.

Paper: A^2-Nets: Double Attention Networks, arXiv 1810.11579.
Official code: none found.
Differs: the residual around the block is off by default (``residual=True`` gives it). A widely copied older version
takes both softmaxes over the batch; its checkpoints load here but were trained with another function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks as check
from ._descriptors import Descriptors
from ._fused import fused, is_fusible, weights_and_biases
from ._pointwise import pointwise

# How much faster the products on the descriptors are in one function of the whole layer.
FUSED_GAIN = 1.25
_RULE = Descriptors()


def _softmax(logits: Tensor, dim: int) -> Tensor:
    # Sums over all pixels run in float32; the entries may be half again.
    return logits.softmax(dim, dtype=torch.promote_types(logits.dtype, torch.float32)).to(logits.dtype)


class DoubleAttention(nn.Module):
    """Replace each pixel by its blend of n descriptors gathered from the whole map.

    The softmaxes sum to one, so both outer 1x1 convolutions may run on the n descriptors instead of on all pixels. They
    do where that is less work; the function is the same.

    Paper: A^2-Nets: Double Attention Networks, 2018, arXiv 1810.11579.

    Args:
        channels: Width C of the map, at least 1.
        c_m: Width m of the descriptors, at least 1.
        c_n: Number n of descriptors, at least 1.
        reconstruct: Project the m channels back to C; without it the output has m channels.
        residual: Add the input to the result, as the paper's block does.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, or ``(B, c_m, H, W)`` without ``reconstruct``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels``, ``c_m`` or ``c_n`` is not a positive integer, ``reconstruct`` or ``residual`` is no
            bool, ``residual`` is asked for an output of another width, or the map has not ``channels`` channels.

    Example:
        ``[-1, 1, DoubleAttention, [128, 128]]``

        >>> layer = DoubleAttention(64, c_m=128, c_n=128)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    def __init__(
        self, channels: int, c_m: int = 128, c_n: int = 128, reconstruct: bool = True, residual: bool = False
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.c_m = check.integer("c_m", c_m)
        self.c_n = check.integer("c_n", c_n)
        self.reconstruct = check.flag("reconstruct", reconstruct)
        self.residual = check.flag("residual", residual)
        if residual and not reconstruct and c_m != channels:
            raise ValueError(f"residual=True needs reconstruct=True, or c_m={c_m} equal to channels={channels}")
        self.convA = nn.Conv2d(channels, c_m, 1)
        self.convB = nn.Conv2d(channels, c_n, 1)
        self.convV = nn.Conv2d(channels, c_n, 1)
        if reconstruct:
            self.conv_reconstruct = nn.Conv2d(c_m, channels, 1)

    @staticmethod
    def out_channels(
        channels: int, c_m: int = 128, c_n: int = 128, reconstruct: bool = True, residual: bool = False
    ) -> int:
        """Return the width of the output."""
        return channels if reconstruct else c_m

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if not torch.jit.is_tracing() and c != self.channels:
            raise ValueError(f"the map has {c} channels, but DoubleAttention was built with channels={self.channels}")
        parts = [self.convA, self.convB, self.convV, *([self.conv_reconstruct] if self.reconstruct else [])]
        if self._is_shorter_outside(h * w, FUSED_GAIN) and is_fusible(x, parts, [nn.Conv2d] * len(parts)):
            return fused(_RULE, self.residual, x, *weights_and_biases(parts))
        pick = _softmax(pointwise(self.convB, x).flatten(2), 2).transpose(1, 2)  # (B, N, n)
        blend = _softmax(pointwise(self.convV, x).flatten(2), 1)  # (B, n, N)
        if self._is_shorter_outside(h * w):
            y = self._project((x.flatten(2) @ pick).unsqueeze(3)).squeeze(3) @ blend  # (B, C or m, N)
            y = y.reshape(b, y.shape[1], h, w)
        else:
            y = pointwise(self.convA, x).flatten(2) @ pick @ blend  # (B, m, N)
            y = y.reshape(b, self.c_m, h, w)
            if self.reconstruct:
                y = pointwise(self.conv_reconstruct, y)  # (B, C, H, W)
        y = y.to(x.dtype)
        return x + y if self.residual else y

    def _is_shorter_outside(self, pixels: int, gain: float = 1.0) -> bool:
        """Tell whether the outer 1x1 convolutions need fewer products on the descriptors, ``gain`` times as fast."""
        c, m, n = self.channels, self.c_m, self.c_n
        if torch.jit.is_tracing():  # the sizes of the example say little about those to come
            return c <= m
        return c * n * (pixels + m) <= gain * m * pixels * (c + n)

    def _project(self, descriptors: Tensor) -> Tensor:
        g = pointwise(self.convA, descriptors)  # (B, m, n, 1)
        return pointwise(self.conv_reconstruct, g) if self.reconstruct else g

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, c_m={self.c_m}, c_n={self.c_n}, reconstruct={self.reconstruct}, "
            f"residual={self.residual}"
        )
