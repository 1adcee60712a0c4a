"""SE rescales every channel by a gate computed from the channel's mean over the whole map.

Paper: Squeeze-and-Excitation Networks, arXiv 1709.01507.
Official code: hujie-frank/SENet (Caffe, Apache-2.0).
Differs: both linear maps have no bias by default (official: biases; ``bias=True`` gives them), and the gate multiplies
the layer's own input instead of a residual branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._fused import Rule, Tensors, children, fused, is_fusible, weights_and_biases
from ._mean import global_mean


class _Gate(Rule):
    """``(B, C, H, W)``, and weight and bias of both linear maps -> ``(B, C, H, W)``."""

    def compute(
        self, constants: None, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
    ) -> tuple[Tensor, Tensors]:
        mean = x.mean((2, 3))  # (B, C)
        hidden = F.linear(mean, w1, b1).relu_()  # (B, K)
        gate = F.linear(hidden, w2, b2).sigmoid_()  # (B, C)
        return x * gate.view(*gate.shape, 1, 1), (mean, hidden, gate)

    def gradients(
        self, constants: None, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        (x, w1, b1, w2, b2), (mean, hidden, gate) = tensors, kept
        dx = None
        dgate = torch.ops.aten.sigmoid_backward((grad * x).sum((2, 3)), gate)  # (B, C), of the logits
        dhidden = torch.ops.aten.threshold_backward(dgate.mm(w2), hidden, 0)  # (B, K), before the ReLU
        if needs[0]:
            dmean = dhidden.mm(w1)  # (B, C)
            shape = *gate.shape, 1, 1
            dx = (grad * gate.view(shape)).add_(dmean.view(shape), alpha=1 / (x.shape[2] * x.shape[3]))
        return (
            dx,
            dhidden.t().mm(mean),
            None if b1 is None else dhidden.sum(0),
            dgate.t().mm(hidden),
            None if b2 is None else dgate.sum(0),
        )

    def plain(self, constants: None, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
        hidden = F.linear(x.mean((2, 3)), w1, b1).relu()
        return x * F.linear(hidden, w2, b2).sigmoid()[:, :, None, None]


_GATE = _Gate()
_TYPES = nn.Sequential, nn.Linear, nn.ReLU, nn.Linear, nn.Sigmoid


class SE(nn.Module):
    """Rescale each channel of the map by a gate in (0, 1) that sees the means of all channels.

    Paper: Squeeze-and-Excitation Networks, 2017, arXiv 1709.01507.

    Args:
        channels: Width C of the map, at least 1.
        reduction: The hidden width is ``max(1, C // reduction)``; at least 1.
        bias: Give both linear maps a bias, as the official code does.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, no extra map in memory.

    Raises:
        ValueError: If ``channels`` or ``reduction`` is not a positive integer, or ``bias`` is no bool.

    Example:
        ``[-1, 1, SE, [16]]``

        >>> layer = SE(64, reduction=16)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    def __init__(self, channels: int, reduction: int = 16, bias: bool = False) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.reduction = check.integer("reduction", reduction)
        self.bias = check.flag("bias", bias)
        hidden = max(1, channels // reduction)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.fc, *children(self.fc)
        if is_fusible(x, parts, _TYPES):
            return fused(_GATE, None, x, *weights_and_biases((parts[1], parts[3])))
        gate = self.fc(global_mean(x).flatten(1))  # (B, C)
        return x * gate[:, :, None, None]

    def extra_repr(self) -> str:
        return f"channels={self.channels}, reduction={self.reduction}, bias={self.bias}"
