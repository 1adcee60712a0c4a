"""CBAM gates the channels from their maxima and means over the map, then the pixels from theirs over the channels.

Paper: CBAM: Convolutional Block Attention Module, arXiv 1807.06521.
Official code: Jongchan/attention-module (MIT).
Differs: the two channel layers have no bias by default (official: biases; ``mlp_bias=True``); the spatial convolution
has a bias and no batch norm (official: the reverse; ``spatial_bn=True``). A widely copied older version adds a
residual, uses a kernel of 49 and has other keys; Ultralytics' own ``CBAM`` is another function.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._fold import Norm, fold_norm
from ._fused import Rule, Tensors, children, fused, is_fusible, weights_and_biases
from ._maximum import channel_max, first_index, global_max
from ._mean import channel_mean, global_mean
from ._norm import batch_norm
from ._windows import convolve_windows, convolve_windows_backward


class _ChannelGate(nn.Module):
    """Gate of every channel: ``(B, C, H, W) -> (B, C, 1, 1)``."""

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.se_block = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=bias), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([global_max(x), global_mean(x)], 3)  # (B, C, 1, 2)
        squeeze, relu, expand = self.se_block
        hidden = relu(squeeze(pooled)).sum(3, keepdim=True)  # (B, K, 1, 1)
        # The last layer is linear: once on the sum is twice on the parts, but for its bias, which counts twice.
        logits = expand(hidden)  # (B, C, 1, 1)
        if expand.bias is not None:
            logits = logits + expand.bias[:, None, None]
        return logits.sigmoid().to(x.dtype)


class _SpatialGate(nn.Module):
    """Gate of every pixel: ``(B, C, H, W) -> (B, 1, H, W)``."""

    def __init__(self, kernel_size: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(1, momentum=0.01) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(torch.cat([channel_max(x), channel_mean(x)], 1))  # (B, 1, H, W)
        if self.bn is not None:
            logits = batch_norm(self.bn, logits)
        return logits.sigmoid().to(x.dtype)

    def fold_for_inference(self) -> None:
        """Take the batch norm, if there is one, into the convolution."""
        fold_norm(self, "conv", "bn")


class _Gates(Rule):
    """The map, and weight and bias of the channel gate's layers and of the convolution -> the map times both gates."""

    def compute(
        self, constants: None, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None,
        w3: Tensor, b3: Tensor | None,
    ) -> tuple[Tensor, Tensors]:  # fmt: skip
        pooled = torch.cat([x.amax((2, 3)), x.mean((2, 3))])  # (2 * B, C)
        hidden = F.linear(pooled, w1.flatten(1), b1).relu_()  # (2 * B, K)
        logits = _halves(hidden).mm(w2.flatten(1).t())  # (B, C)
        if b2 is not None:
            logits.add_(b2, alpha=2)
        gate = logits.sigmoid_()[:, :, None, None]  # (B, C, 1, 1)
        u = x * gate
        features = torch.cat([u.amax(1, keepdim=True), u.mean(1, keepdim=True)], 1)  # (B, 2, H, W)
        pixels = convolve_windows(features, w3, b3).sigmoid_()  # (B, 1, H, W)
        return u.mul_(pixels), (pooled, hidden, gate, features, pixels)

    def gradients(
        self, constants: None, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        (x, w1, b1, w2, b2, w3, b3), (pooled, hidden, gate, features, pixels) = tensors, kept
        b, c, h, w = x.shape
        u = x * gate
        # Few passes and few maps: on large ones, what leaves the cache takes most of the time.
        work = grad * u
        dpixels = torch.ops.aten.sigmoid_backward(work.sum(1, keepdim=True), pixels)  # (B, 1, H, W), of the logits
        dfeatures, dw3 = convolve_windows_backward(dpixels, features, w3)
        dmax, dmean = dfeatures.split(1, 1)  # (B, 1, H, W) each
        du = torch.mul(grad, pixels, out=work).add_(dmean, alpha=1 / c)
        du.scatter_add_(1, first_index(u, features[:, :1], 1, u), dmax)
        dgate = torch.ops.aten.sigmoid_backward(torch.mul(du, x, out=u).sum((2, 3)), gate.flatten(1))  # of the logits
        dhidden = dgate.mm(w2.flatten(1)).repeat(2, 1)  # (2 * B, K)
        dhidden = torch.ops.aten.threshold_backward(dhidden, hidden, 0)
        dx = None
        if needs[0]:
            dmax, dmean = dhidden.mm(w1.flatten(1)).view(2, b, c, 1).unbind(0)  # (B, C, 1) each
            dx = du.mul_(gate).add_(dmean.unsqueeze(3), alpha=1 / (h * w))
            index = first_index(x.flatten(2), pooled[:b, :, None], 2, u.flatten(2))
            dx.flatten(2).scatter_add_(2, index, dmax)
        return (
            dx,
            dhidden.t().mm(pooled).view_as(w1),
            None if b1 is None else dhidden.sum(0),
            dgate.t().mm(_halves(hidden)).view_as(w2),
            None if b2 is None else dgate.sum(0).mul_(2),
            dw3,
            None if b3 is None else dpixels.sum().view(1),
        )

    def plain(
        self, constants: None, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None,
        w3: Tensor, b3: Tensor | None,
    ) -> Tensor:  # fmt: skip
        pooled = torch.cat([x.flatten(2).max(2).values, x.mean((2, 3))])
        logits = F.linear(F.linear(pooled, w1.flatten(1), b1).relu(), w2.flatten(1), b2)
        u = x * _halves(logits).sigmoid()[:, :, None, None]
        features = torch.cat([u.max(1, keepdim=True).values, u.mean(1, keepdim=True)], 1)
        return u * F.conv2d(features, w3, b3, padding=w3.shape[2] // 2).sigmoid()


def _halves(x: Tensor) -> Tensor:
    """Return the sum of the two halves of a batch."""
    return x[: len(x) // 2] + x[len(x) // 2 :]


_GATES = _Gates()
_TYPES = _ChannelGate, nn.Sequential, nn.Conv2d, nn.ReLU, nn.Conv2d, _SpatialGate, nn.Conv2d


class CBAM(nn.Module):
    """Rescale each channel of the map by a gate in (0, 1), then each pixel of the result by another.

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

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        mlp_bias: bool = False,
        spatial_bn: bool = False,
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
        channel, spatial = self.channel_attention, self.spatial_attention
        blocks = children(channel)
        parts = channel, *blocks, *(child for block in blocks for child in children(block)), spatial, *children(spatial)
        if is_fusible(x, parts[:7], _TYPES) and not isinstance(spatial.bn, Norm):
            return fused(_GATES, None, x, *weights_and_biases((parts[2], parts[4], parts[6])))
        u = x * self.channel_attention(x)
        return u * self.spatial_attention(u)

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, reduction={self.reduction}, kernel_size={self.kernel_size}, "
            f"mlp_bias={self.mlp_bias}, spatial_bn={self.spatial_bn}"
        )
