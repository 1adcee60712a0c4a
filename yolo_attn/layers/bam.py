"""BAM amplifies the map by a gate that joins a channel branch (means) and a spatial branch (dilated convolutions).

Paper: BAM: Bottleneck Attention Module, arXiv 1807.06514.
Official code: Jongchan/attention-module (MIT).
Differs: three hidden layers in each branch (official: one in the channel branch, two in the spatial one), dilation 2
(official: 4), branches added before the sigmoid as in the paper (official: multiplied; ``combine="product"``), and no
batch norm at the end of a branch (paper: one in each).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._norm import batch_norm, fold_norm
from ._pasted import takes_pasted


class _ChannelBranch(nn.Module):
    """Logit of every channel from the means of all: ``(B, C, H, W) -> (B, C, 1, 1)``."""

    def __init__(self, channels: int, hidden: int, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.ca = nn.ModuleDict()
        for j in range(num_layers):
            self.ca[f"fc_{j}"] = nn.Linear(hidden if j else channels, hidden)
            self.ca[f"bn_{j}"] = nn.BatchNorm1d(hidden)
        self.ca["last_fc"] = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        a = x.mean((2, 3))  # (B, C)
        for j in range(self.num_layers):
            a = F.relu(batch_norm(self.ca[f"bn_{j}"], self.ca[f"fc_{j}"](a)))  # (B, K)
        return self.ca["last_fc"](a)[:, :, None, None]  # (B, C, 1, 1)

    def fold_for_inference(self) -> None:
        """Take the batch norms into the linear maps before them."""
        for j in range(self.num_layers):
            fold_norm(self.ca, f"fc_{j}", f"bn_{j}")


class _SpatialBranch(nn.Module):
    """Logit of every pixel from its dilated surroundings: ``(B, C, H, W) -> (B, 1, H, W)``."""

    def __init__(self, channels: int, hidden: int, num_layers: int, dilation: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.sa = nn.ModuleDict()
        self.sa["conv_reduce"] = nn.Conv2d(channels, hidden, 1)
        self.sa["bn_reduce"] = nn.BatchNorm2d(hidden)
        for j in range(num_layers):
            self.sa[f"conv_{j}"] = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)
            self.sa[f"bn_{j}"] = nn.BatchNorm2d(hidden)
        self.sa["last_conv"] = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        t = F.relu(batch_norm(self.sa["bn_reduce"], self.sa["conv_reduce"](x)))  # (B, K, H, W)
        for j in range(self.num_layers):
            t = F.relu(batch_norm(self.sa[f"bn_{j}"], self.sa[f"conv_{j}"](t)))
        return self.sa["last_conv"](t)  # (B, 1, H, W)

    def fold_for_inference(self) -> None:
        """Take the batch norms into the convolutions before them."""
        for suffix in ("reduce", *range(self.num_layers)):
            fold_norm(self.sa, f"conv_{suffix}", f"bn_{suffix}")


class BAM(nn.Module):
    """Multiply every element of the map by 1 + a gate in (0, 1) made of a logit per channel and a logit per pixel.

    ``y = x * (1 + sigmoid(c + s))`` with ``c`` of shape (C, 1, 1) and ``s`` of shape (1, H, W).

    Paper: BAM: Bottleneck Attention Module, 2018, arXiv 1807.06514.

    Args:
        channels: Width C of the map, at least 1.
        reduction: The hidden width of both branches is ``max(1, C // reduction)``; at least 1.
        dilation: Dilation of the 3x3 convolutions in pixels, at least 1; it may exceed the map.
        num_layers: Hidden layers of the channel branch and 3x3 convolutions of the spatial branch, at least 1.
        combine: ``"sum"`` adds the two logits, ``"product"`` multiplies them.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels``, ``reduction``, ``dilation`` or ``num_layers`` is not a positive integer, or
            ``combine`` is another word.

    Example:
        ``[-1, 1, BAM, [16, 2]]``

        >>> layer = BAM(64, reduction=16, dilation=2)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self, channels: int, reduction: int = 16, dilation: int = 2, num_layers: int = 3, combine: str = "sum"
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.reduction = check.integer("reduction", reduction)
        self.dilation = check.integer("dilation", dilation)
        self.num_layers = check.integer("num_layers", num_layers)
        self.combine = check.choice("combine", combine, ("sum", "product"))
        hidden = max(1, channels // reduction)
        self.ca = _ChannelBranch(channels, hidden, num_layers)
        self.sa = _SpatialBranch(channels, hidden, num_layers, dilation)

    def forward(self, x: Tensor) -> Tensor:
        c, s = self.ca(x), self.sa(x)
        gate = (c + s if self.combine == "sum" else c * s).sigmoid()  # (B, C, H, W)
        return x + x * gate

    extra_repr = check.arguments
