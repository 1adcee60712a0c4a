"""SK replaces the map by a mixture of convolutions with several kernels, chosen anew for each channel of each image.

Paper: Selective Kernel Networks, arXiv 1903.06586.
Official code: implus/SKNet (Caffe, no licence file).
Differs: this is the widely copied version of xmu-xiaoma666/External-Attention-pytorch (MIT). Official: two branches
(3x3 and a dilated 3x3) in 32 groups, no bias, and a norm with ReLU after the reduction. timm's ``SelectiveKernel`` and
the ``SKConv`` of other copies have other keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._norm import batch_norm, fold_norm
from ._pasted import takes_pasted


class SK(nn.Module):
    """Replace the map by a sum of convolutions of it, weighted for each channel by a softmax over the kernels.

    ``f_k = relu(norm(conv_k(x)))``, ``z = W mean(sum_k f_k)``, ``y = sum_k softmax_k(W_k z) * f_k``; the mean over the
    pixels.

    Heavy: with the default kernels and one group nine times a 3x3 convolution of the same width.

    Paper: Selective Kernel Networks, 2019, arXiv 1903.06586.

    Args:
        channels: Width C of the map, a multiple of ``group``.
        kernels: Side of each branch's kernel in pixels, odd, at least one.
        reduction: The hidden width is ``max(L, C // reduction)``; at least 1.
        group: Groups of the convolutions, at least 1.
        L: Least hidden width, at least 1.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, memory for a map of each branch.

    Raises:
        ValueError: If ``channels`` is not a positive multiple of ``group``, ``kernels`` is no list of odd positive
            integers, or ``reduction``, ``group`` or ``L`` is not a positive integer.

    Example:
        ``[-1, 1, SK, [[3, 5], 16, 8]]``

        >>> layer = SK(64, kernels=(3, 5), group=8)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self, channels: int, kernels: Sequence[int] = (1, 3, 5, 7), reduction: int = 16, group: int = 1, L: int = 32
    ) -> None:
        super().__init__()
        self.channels = c = check.integer("channels", channels)
        self.kernels = _kernels(kernels)
        self.reduction = check.integer("reduction", reduction)
        self.group = check.integer("group", group)
        self.L = check.integer("L", L)
        check.divisible("channels", c, "group", self.group)
        hidden = max(self.L, c // self.reduction)
        self.convs = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(c, c, k, padding=k // 2, groups=self.group), "bn": nn.BatchNorm2d(c)})
            for k in self.kernels
        )
        self.fc = nn.Linear(c, hidden)
        self.fcs = nn.ModuleList(nn.Linear(hidden, c) for _ in self.kernels)

    def forward(self, x: Tensor) -> Tensor:
        maps = [F.relu(batch_norm(branch["bn"], branch["conv"](x))) for branch in self.convs]  # (B, C, H, W) each
        z = self.fc(sum(f.mean((2, 3)) for f in maps))  # (B, d)
        logits = torch.stack([fc(z) for fc in self.fcs])  # (kernels, B, C)
        weights = logits.softmax(0, dtype=torch.promote_types(logits.dtype, torch.float32)).to(x.dtype)
        return sum(w[..., None, None] * f.to(x.dtype) for w, f in zip(weights.unbind(), maps, strict=True))

    def fold_for_inference(self) -> None:
        """Take the batch norms into the convolutions before them."""
        for branch in self.convs:
            fold_norm(branch, "conv", "bn")

    extra_repr = check.arguments


def _kernels(value: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"kernels={value!r} must be a list of odd integers >= 1")
    return tuple(check.odd("kernels", k) for k in value)
