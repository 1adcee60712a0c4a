"""CBAM gates the channels from their maxima and means over the map, then the pixels from theirs over the channels.

Paper: CBAM: Convolutional Block Attention Module, arXiv 1807.06521.
Official code: Jongchan/attention-module (MIT).
Differs: the two channel layers have no bias by default (official: biases; ``mlp_bias=True``); the spatial convolution
has a bias and no batch norm (official: the reverse; ``spatial_bn=True``). A widely copied older version adds a
residual, uses a kernel of 49 and has other keys; Ultralytics' own ``CBAM`` is another function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks as check
from ._norm import batch_norm, fold_norm
from ._pasted import takes_pasted


class _ChannelGate(nn.Module):
    """Gate of every channel: ``(B, C, H, W) -> (B, C, 1, 1)``."""

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.se_block = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=bias), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, maximum = x.mean((2, 3), keepdim=True), x.flatten(2).max(2).values[:, :, None, None]  # (B, C, 1, 1)
        return (self.se_block(maximum) + self.se_block(mean)).sigmoid().to(x.dtype)


class _SpatialGate(nn.Module):
    """Gate of every pixel: ``(B, C, H, W) -> (B, 1, H, W)``."""

    def __init__(self, kernel_size: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(1, momentum=0.01) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], 1))  # (B, 1, H, W)
        if self.bn is not None:
            logits = batch_norm(self.bn, logits)
        return logits.sigmoid().to(x.dtype)

    def fold_for_inference(self) -> None:
        """Take the batch norm, if there is one, into the convolution."""
        fold_norm(self, "conv", "bn")


class CBAM(nn.Module):
    """Rescale each channel of the map by a gate in (0, 1), then each pixel of the result by another.

    ``u = x * sigmoid(MLP(max(x)) + MLP(mean(x)))``, maxima and means over the pixels;
    ``y = u * sigmoid(conv([max(u); mean(u)]))``, over the channels.

    Paper: CBAM: Convolutional Block Attention Module, 2018, arXiv 1807.06521.

    Args:
        channels: Width C of the map, at least 1.
        reduction: The hidden width of the channel gate is ``max(1, C // reduction)``; at least 1.
        kernel_size: Side of the spatial gate's kernel in pixels, odd; it may exceed the map.
        mlp_bias: Give both layers of the channel gate a bias, as the official code does.
        spatial_bn: Put a batch norm behind the spatial convolution instead of its bias, as the official code does.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` or ``reduction`` is not a positive integer, ``kernel_size`` is not odd and positive,
            or ``mlp_bias`` or ``spatial_bn`` is no bool.

    Example:
        ``[-1, 1, CBAM, [16, 7]]``

        >>> layer = CBAM(64, reduction=16, kernel_size=7)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self, channels: int, reduction: int = 16, kernel_size: int = 7, mlp_bias: bool = False, spatial_bn: bool = False
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.reduction = check.integer("reduction", reduction)
        self.kernel_size = check.odd("kernel_size", kernel_size)
        self.mlp_bias = check.flag("mlp_bias", mlp_bias)
        self.spatial_bn = check.flag("spatial_bn", spatial_bn)
        self.channel_attention = _ChannelGate(channels, max(1, channels // reduction), mlp_bias)
        self.spatial_attention = _SpatialGate(kernel_size, spatial_bn)

    def forward(self, x: Tensor) -> Tensor:
        u = x * self.channel_attention(x)
        return u * self.spatial_attention(u)

    extra_repr = check.arguments
