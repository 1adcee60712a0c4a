"""BAM amplifies the map by a gate that joins a channel branch (means) and a spatial branch (dilated convolutions).

Paper: BAM: Bottleneck Attention Module, arXiv 1807.06514.
Official code: Jongchan/attention-module (MIT).
Differs: three hidden layers in each branch (official: one in the channel branch, two in the spatial one), dilation 2
(official: 4), branches added before the sigmoid as in the paper (official: multiplied; ``combine="product"``), and no
batch norm at the end of a branch (paper: one in each).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._chain import chain_gradients, plain_chain, run_chain
from ._fold import fold_norm
from ._fused import Rule, Tensors, Type, children, fused, is_fusible, weights_and_biases
from ._mean import global_mean
from ._norm import Normaliser, batch_norm, normaliser
from ._windows import pixel_products


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
        a = global_mean(x).flatten(1)  # (B, C)
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


class _Settings(NamedTuple):
    is_sum: bool
    dilation: int
    channel: tuple[Normaliser | None, ...]
    spatial: tuple[Normaliser | None, ...]

    def divide(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """Return the tensors of the two branches."""
        count = 4 * len(self.channel) + 2
        return tensors[:count], tensors[count:]


class _Amplifier(Rule):
    """The map, and the parameters of both branches as ``weights_and_biases`` lists them -> the amplified map."""

    def compute(self, settings: _Settings, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, Tensors]:
        ours, theirs = settings.divide(tensors)
        c, kept_c = run_chain(x.mean((2, 3)), ours, settings.channel, 1)  # (B, C)
        s, kept_s = run_chain(x, theirs, settings.spatial, settings.dilation)  # (B, 1, H, W)
        c = c[:, :, None, None]
        gate = (c + s if settings.is_sum else c * s).sigmoid_()  # (B, C, H, W)
        factors = (None, None) if settings.is_sum else (c, s)
        return torch.addcmul(x, x, gate), (gate, *factors, *kept_c, *kept_s)

    def gradients(
        self, settings: _Settings, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        x, *tensors = tensors
        ours, theirs = settings.divide(tensors)
        gate, c, s, *kept = kept
        count = 4 * len(settings.channel) + 1
        # Few passes and few maps: on large ones, what leaves the cache takes most of the time.
        work = grad * x
        torch.ops.aten.sigmoid_backward.grad_input(work, gate, grad_input=work)  # of the logits
        if settings.is_sum:
            dc, ds = work.sum((2, 3)), work.sum(1, keepdim=True)
        else:
            dc, ds = (work * s).sum((2, 3)), work.mul(c).sum(1, keepdim=True)
        da, grads_c = chain_gradients(dc, ours, settings.channel, kept[:count], 1)
        dt, grads_s = chain_gradients(ds, theirs, settings.spatial, kept[count:], settings.dilation)
        grads_c[0] = da.t().mm(kept[0])
        grads_s[0] = pixel_products(dt.flatten(2), x.flatten(2)).view_as(theirs[0])
        dx = None
        if needs[0]:
            dmean = da.mm(ours[0])[:, :, None, None]
            dx = torch.addcmul(grad, grad, gate, out=work).add_(dmean, alpha=1 / (x.shape[2] * x.shape[3]))
            dx.flatten(2).baddbmm_(theirs[0].flatten(1).t().expand(len(x), -1, -1), dt.flatten(2))
        return dx, *grads_c, *grads_s

    def plain(self, settings: _Settings, x: Tensor, *tensors: Tensor | None) -> Tensor:
        ours, theirs = settings.divide(tensors)
        c = plain_chain(x.mean((2, 3)), ours, settings.channel, 1)[:, :, None, None]
        s = plain_chain(x, theirs, settings.spatial, settings.dilation)
        return x * (1 + (c + s if settings.is_sum else c * s).sigmoid())


_AMPLIFIER = _Amplifier()


def _types(links: int) -> tuple[Type, ...]:
    """Return the types of both branches' parts."""
    vectors = (nn.Linear, (nn.BatchNorm1d, nn.Identity)) * links + (nn.Linear,)
    maps = (nn.Conv2d, (nn.BatchNorm2d, nn.Identity)) * (links + 1) + (nn.Conv2d,)
    return _ChannelBranch, nn.ModuleDict, *vectors, _SpatialBranch, nn.ModuleDict, *maps


class BAM(nn.Module):
    """Multiply every element of the map by 1 + a gate in (0, 1) made of a logit per channel and a logit per pixel.

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
        ours, theirs = (
            [part for child in children(m) for part in (child, *children(child))] for m in (self.ca, self.sa)
        )
        if is_fusible(x, (self.ca, *ours, self.sa, *theirs), _types(self.num_layers)):
            ours, theirs = ours[1:], theirs[1:]
            b, _, h, w = x.shape
            settings = _Settings(
                self.combine == "sum",
                self.dilation,
                tuple(normaliser(norm, b) for norm in ours[1::2]),
                tuple(normaliser(norm, b * h * w) for norm in theirs[1::2]),
            )
            return fused(_AMPLIFIER, settings, x, *weights_and_biases(ours + theirs))
        c, s = self.ca(x), self.sa(x)
        gate = (c + s if self.combine == "sum" else c * s).sigmoid()  # (B, C, H, W)
        return x * (1 + gate)

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, reduction={self.reduction}, dilation={self.dilation}, "
            f"num_layers={self.num_layers}, combine={self.combine!r}"
        )
