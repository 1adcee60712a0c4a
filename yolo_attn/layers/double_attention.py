"""DoubleAttention gathers n weighted means of the features over the map, then gives every pixel its own blend of them.

Paper: A^2-Nets: Double Attention Networks, arXiv 1810.11579.
Official code: none found.
Differs: the residual around the block is off by default (``residual=True`` gives it). A widely copied older version
takes both softmaxes over the batch; its checkpoints load here but were trained with another function.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from . import _checks as check
from ._pasted import takes_pasted


def _softmax(logits: Tensor, dim: int) -> Tensor:
    # Sums over all pixels run in float32; the entries may be half again.
    return logits.softmax(dim, dtype=torch.promote_types(logits.dtype, torch.float32)).to(logits.dtype)


class DoubleAttention(nn.Module):
    """Replace each pixel by its blend of n descriptors gathered from the whole map.

    ``G = A(x) softmax_pixels(B(x))^T`` (m descriptors, n of them), ``y = R(G softmax_n(V(x)))``; A, B, V and R are 1x1
    convolutions.

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

    @takes_pasted
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
        if not torch.jit.is_tracing() and x.shape[1] != self.channels:
            given = f"the map has {x.shape[1]} channels"
            raise ValueError(f"{given}, but DoubleAttention was built with channels={self.channels}")
        gather, blend = self.convB(x).flatten(2), self.convV(x).flatten(2)
        gather, blend = _softmax(gather, 2), _softmax(blend, 1)  # (B, n, N), over the pixels and over n
        descriptors = einsum(x.flatten(2), gather, "b c p, b n p -> b c n")
        descriptors = self.convA(descriptors[..., None])  # (B, m, n, 1)
        if self.reconstruct:
            descriptors = self.conv_reconstruct(descriptors)  # (B, C, n, 1)
        y = einsum(descriptors[..., 0], blend, "b c n, b n p -> b c p")
        y = rearrange(y, "b c (h w) -> b c h w", h=x.shape[2]).to(x.dtype)
        return x + y if self.residual else y

    extra_repr = check.arguments
