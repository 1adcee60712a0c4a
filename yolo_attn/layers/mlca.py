"""MLCA gates every channel by an ECA over the whole map, mixed with one in each cell of a coarse grid.

Paper: Mixed local channel attention for object detection, Engineering Applications of Artificial Intelligence, 2023.
Official code: wandahangFY/MLCA (GPL-3.0), after its fix of December 2023.
Differs: nothing in function. Copies older than the fix mix the images of a batch and agree for one image only.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from . import _checks as check
from ._pasted import takes_pasted
from .eca import adaptive_kernel_size


def bin_means(length: int, bins: int, like: Tensor) -> Tensor:
    """Return the matrix (bins, length) that takes values to the means of bins, as adaptive pooling makes them.

    Bin r runs from ``floor(r length / bins)`` to before ``ceil((r + 1) length / bins)``; more bins than values repeat
    them. The matrix has the dtype and the device of ``like``.
    """
    r = torch.arange(bins, device=like.device)[:, None]
    j = torch.arange(length, device=like.device)
    inside = ((j + 1) * bins > r * length) & (j * bins < (r + 1) * length)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True).to(like.dtype)


class MLCA(nn.Module):
    """Rescale every element of the map by a gate in (0, 1) of its channel in the map and in its cell of a grid.

    ``p = pool(x)`` to the grid; ``g = sigmoid(conv(mean(p)))`` along the channels, ``l = sigmoid(conv_local(p))`` along
    the channels of all cells in a row; ``y = x * ((1 - local_weight) g + local_weight unpool(l))``.

    Paper: Mixed local channel attention for object detection, 2023.

    Args:
        channels: Width C of the map, at least 1.
        local_size: Side of the grid in cells, at least 1; it may exceed the map.
        gamma: Divisor in ECA's rule for the kernel, above 0.
        b: Summand in that rule.
        local_weight: Share of the grid's gate, from 0 to 1.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, memory for one more map.

    Raises:
        ValueError: If ``channels`` or ``local_size`` is not a positive integer, ``gamma`` is no positive number, ``b``
            no finite number, they ask for more than 255 channels, or ``local_weight`` is not in [0, 1].

    Example:
        ``[-1, 1, MLCA, [5]]``

        >>> layer = MLCA(64, local_size=5)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self, channels: int, local_size: int = 5, gamma: float = 2, b: float = 1, local_weight: float = 0.5
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.local_size = check.integer("local_size", local_size)
        self.gamma, self.b = check.positive("gamma", gamma), check.number("b", b)
        self.local_weight = _share("local_weight", local_weight)
        k = adaptive_kernel_size(self.channels, self.gamma, self.b)
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.conv_local = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (h, w), n = x.shape[2:], self.local_size
        p = einsum(x, bin_means(w, n, x), "b c h w, s w -> b c h s")
        p = einsum(p, bin_means(h, n, x), "b c h s, r h -> b c r s")
        g = self.conv(p.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]  # (B, C, 1, 1)
        cells = self.conv_local(rearrange(p, "b c r s -> b 1 (r s c)")).sigmoid().to(x.dtype)
        cells = rearrange(cells, "b 1 (r s c) -> b c r s", r=n, s=n)
        local = einsum(cells, bin_means(n, h, x), "b c r s, h r -> b c h s")
        local = einsum(local, bin_means(n, w, x), "b c h s, w s -> b c h w")
        return x * ((1 - self.local_weight) * g + self.local_weight * local).to(x.dtype)

    extra_repr = check.arguments


def _share(name: str, value: float) -> float:
    if not 0 <= check.number(name, value) <= 1:
        raise ValueError(f"{name}={value!r} must be a number in [0, 1]")
    return float(value)
