"""SE rescales every channel by a gate computed from the channel's mean over the whole map.

Paper: Squeeze-and-Excitation Networks, arXiv 1709.01507.
Official code: hujie-frank/SENet (Caffe, Apache-2.0).
Differs: both linear maps have no bias by default (official: biases; ``bias=True`` gives them), and the gate multiplies
the layer's own input instead of a residual branch.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import _checks as check
from ._pasted import takes_pasted


class SE(nn.Module):
    """Rescale each channel of the map by a gate in (0, 1) that sees the means of all channels.

    ``y = x * sigmoid(W2 relu(W1 mean(x)))``, the mean over the pixels.

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

    @takes_pasted
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
        gate = self.fc(x.mean((2, 3)))  # (B, C)
        return x * gate[:, :, None, None]

    extra_repr = check.arguments
