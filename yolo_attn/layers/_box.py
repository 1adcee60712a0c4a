"""The 7x7 mean of CAA: stride 1, zeros of the padding counted, so that it always divides by 49."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ._eager import is_eager, is_eager_cpu


def box_mean(x: Tensor) -> Tensor:
    """Return the mean of the 7x7 pixels around each pixel, zeros outside: ``(B, C, H, W) -> (B, C, H, W)``."""
    return _Box.apply(x) if is_eager(x) else _pool(x)


class _Box(Function):
    """The mean, a symmetric operator: it is its own backward and keeps nothing for it, where pooling keeps two maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # On a CPU sums of shifted maps are far faster than pooling.
        return _sum_of_7(_sum_of_7(x, 3), 2).mul_(1 / 49) if is_eager_cpu(x) else _pool(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Box.apply(grad)


def _pool(x: Tensor) -> Tensor:
    # Two means over 7 in a row are the 7x7 mean; the square one reads more.
    u = F.avg_pool2d(x, (1, 7), stride=1, padding=(0, 3))
    return F.avg_pool2d(u, (7, 1), stride=1, padding=(3, 0))


def _sum_of_7(x: Tensor, dim: int) -> Tensor:
    """Return the sum over 7 neighbours along an axis of the map, zeros outside."""
    size = x.shape[dim]
    wide = F.pad(x, (3, 3) if dim == 3 else (0, 0, 3, 3))
    pairs = wide.narrow(dim, 0, size + 5) + wide.narrow(dim, 1, size + 5)
    y = pairs.narrow(dim, 0, size) + pairs.narrow(dim, 2, size)
    return y.add_(pairs.narrow(dim, 4, size)).add_(wide.narrow(dim, 6, size))
