"""CoordAtt gates every element by the product of a gate from its row's mean and a gate from its column's mean.

Paper: Coordinate Attention for Efficient Mobile Network Design, arXiv 2103.02907.
Official code: houqb/CoordAttention (MIT).
Differs: no third argument for the width of the gates (it equals the input's in every use).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._fold import fold_norm
from ._fused import Rule, Tensors, fused, is_fusible, weights_and_biases
from ._mean import column_mean, row_mean
from ._norm import Normaliser, normaliser
from ._windows import pixel_products, times


class _Gates(Rule):
    """The map, weight and bias of conv1, bn1, conv_h and conv_w -> the map times both gates."""

    def compute(
        self, norm: Normaliser | None, x: Tensor, w1: Tensor, b1: Tensor | None, gamma: Tensor | None,
        beta: Tensor | None, wh: Tensor, bh: Tensor | None, ww: Tensor, bw: Tensor | None,
    ) -> tuple[Tensor, Tensors]:  # fmt: skip
        h = x.shape[2]
        strips = torch.cat([x.mean(3), x.mean(2)], 2)  # (B, C, H + W)
        z = _convolve(strips, w1, b1)  # (B, K, H + W)
        a, *statistics = (z, None, None) if norm is None else norm(z, gamma, beta)
        t = F.hardswish(a)
        rows = _convolve(t[:, :, :h], wh, bh).sigmoid_().unsqueeze(3)  # (B, C, H, 1)
        columns = _convolve(t[:, :, h:], ww, bw).sigmoid_().unsqueeze(2)  # (B, C, 1, W)
        return (x * columns).mul_(rows), (strips, z, *statistics, a, t, rows, columns)

    def gradients(
        self, norm: Normaliser | None, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        x, w1, b1, gamma, _, wh, bh, ww, bw = tensors
        strips, z, mean, scale, a, t, rows, columns = kept
        h, w = x.shape[2:]
        # Few passes and few maps: on large ones, what leaves the cache takes most of the time.
        work = grad * x
        drows = (work * columns).sum(3)  # (B, C, H)
        dcolumns = work.mul_(rows).sum(2)  # (B, C, W)
        drows = torch.ops.aten.sigmoid_backward(drows, rows.squeeze(3))  # of the logits
        dcolumns = torch.ops.aten.sigmoid_backward(dcolumns, columns.squeeze(2))
        dt = torch.cat([times(wh.flatten(1).t(), drows), times(ww.flatten(1).t(), dcolumns)], 2)  # (B, K, H + W)
        dz, dgamma, dbeta = torch.ops.aten.hardswish_backward(dt, a), None, None
        if norm is not None:
            dz, dgamma, dbeta = norm.backward(dz, z, gamma, mean, scale)
        dx = None
        if needs[0]:
            dstrips = times(w1.flatten(1).t(), dz)  # (B, C, H + W)
            dx = torch.mul(grad, columns, out=work).mul_(rows)
            dx.add_(dstrips[:, :, :h].unsqueeze(3), alpha=1 / w).add_(dstrips[:, :, h:].unsqueeze(2), alpha=1 / h)
        return (
            dx,
            pixel_products(dz, strips).view_as(w1),
            None if b1 is None else dz.sum((0, 2)),
            dgamma,
            dbeta,
            pixel_products(drows, t[:, :, :h]).view_as(wh),
            None if bh is None else drows.sum((0, 2)),
            pixel_products(dcolumns, t[:, :, h:]).view_as(ww),
            None if bw is None else dcolumns.sum((0, 2)),
        )

    def plain(
        self, norm: Normaliser | None, x: Tensor, w1: Tensor, b1: Tensor | None, gamma: Tensor | None,
        beta: Tensor | None, wh: Tensor, bh: Tensor | None, ww: Tensor, bw: Tensor | None,
    ) -> Tensor:  # fmt: skip
        h = x.shape[2]
        z = F.conv1d(torch.cat([x.mean(3), x.mean(2)], 2), w1.flatten(2), b1)
        t = F.hardswish(z if norm is None else norm.plain(z, gamma, beta))
        rows, columns = F.conv1d(t[:, :, :h], wh.flatten(2), bh), F.conv1d(t[:, :, h:], ww.flatten(2), bw)
        return x * columns.sigmoid().unsqueeze(2) * rows.sigmoid().unsqueeze(3)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = times(weight.flatten(1), x)  # (B, K, N)
    return y if bias is None else y.add_(bias.unsqueeze(1))


_GATES = _Gates()
_TYPES = nn.Conv2d, (nn.BatchNorm2d, nn.Identity), nn.Conv2d, nn.Conv2d


class CoordAtt(nn.Module):
    """Rescale every element of the map by two gates in (0, 1), one of its row and one of its column.

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
        parts = self.conv1, self.bn1, self.conv_h, self.conv_w
        if is_fusible(x, parts, _TYPES):
            b, _, h, w = x.shape
            norm = normaliser(self.bn1, b * (h + w))
            return fused(_GATES, norm, x, *weights_and_biases(parts))
        h = x.shape[2]
        rows = row_mean(x)  # (B, C, H, 1)
        columns = column_mean(x).transpose(2, 3)  # (B, C, W, 1)
        # One batch norm sees both strips, so they must pass it together: at least two values per channel.
        t = F.hardswish(self.bn1(self.conv1(torch.cat([rows, columns], 2))))  # (B, K, H + W, 1)
        gate_h = self.conv_h(t[:, :, :h]).sigmoid()  # (B, C, H, 1)
        gate_w = self.conv_w(t[:, :, h:].transpose(2, 3)).sigmoid()  # (B, C, 1, W)
        return x * gate_w * gate_h

    def fold_for_inference(self) -> None:
        """Take the batch norm into the convolution before it."""
        fold_norm(self, "conv1", "bn1")

    def extra_repr(self) -> str:
        return f"channels={self.channels}, reduction={self.reduction}"
