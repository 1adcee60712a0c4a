"""SCSA gates rows and columns from their multi-scale means, then the channels by attention between the channels.

Paper: SCSA: Exploring the Synergistic Effects Between Spatial and Channel Attention, arXiv 2407.05128.
Official code: HZAI-ZJNU/SCSA (Apache-2.0).
Differs: ``head_num`` has a default, the 1 of the official configurations; a map smaller than a window counts as one
window (official: an error); no ``fuse_bn``, ``norm_cfg`` and ``act_cfg``, which do nothing, and no ``recombination``,
which cannot run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._norm import group_norm
from ._pasted import takes_pasted
from ._precision import no_autocast
from ._recording import at_least, is_recorded

CONVS = ("local_dwc", "global_dwc_s", "global_dwc_m", "global_dwc_l")
QUARTERS = len(CONVS)


class SCSA(nn.Module):
    """Rescale every element of the map by a gate of its row and one of its column, then each channel by a third.

    ``u = x * gate(norm(convs(row means))) * gate(norm(convs(column means)))``, four depthwise convolutions for the
    quarters of the channels, the same along both axes; ``t = norm(windows(u))``,
    ``A = softmax(q(t) k(t)^T / sqrt(d))``, a d x d matrix between the channels of a head;
    ``y = u * gate(A mean(v(t)))``.

    Paper: SCSA: Exploring the Synergistic Effects Between Spatial and Channel Attention, 2024, arXiv 2407.05128.

    Args:
        channels: Width C of the map, a multiple of 4 and of ``head_num``.
        head_num: Number of heads, at least 1; d is ``C // head_num``.
        window_size: Side of the windows in pixels, at least 1; what whole windows leave over is not seen. -1 for the
            mean of the whole map.
        group_kernel_sizes: Kernels of the four quarters in pixels, odd; they may exceed the map.
        qkv_bias: Give q, k and v, one factor a channel each, a bias.
        down_sample_mode: What stands for a window: ``"avg_pool"``, its mean, or ``"max_pool"``, its maximum.
        attn_drop_ratio: Probability with which an entry of A is dropped in training, in [0, 1).
        gate_layer: ``"sigmoid"``, or ``"softmax"`` along the axis and over the channels.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time, and memory for little more than the map.

    Raises:
        ValueError: If ``channels`` is not a positive multiple of 4 and of ``head_num``, or an argument is out of its
            range.

    Example:
        ``[-1, 1, SCSA, [1, 7]]``

        >>> layer = SCSA(64, head_num=1, window_size=7)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self,
        channels: int,
        head_num: int = 1,
        window_size: int = 7,
        group_kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        qkv_bias: bool = False,
        down_sample_mode: str = "avg_pool",
        attn_drop_ratio: float = 0.0,
        gate_layer: str = "sigmoid",
    ) -> None:
        super().__init__()
        self.channels = c = check.integer("channels", channels)
        self.head_num = check.integer("head_num", head_num)
        check.divisible("channels", c, "quarters", QUARTERS)
        check.divisible("channels", c, "head_num", head_num)
        self.window_size = _window(window_size)
        self.group_kernel_sizes = _kernels(group_kernel_sizes)
        self.qkv_bias = check.flag("qkv_bias", qkv_bias)
        self.down_sample_mode = check.choice("down_sample_mode", down_sample_mode, ("avg_pool", "max_pool"))
        self.attn_drop_ratio = check.probability("attn_drop_ratio", attn_drop_ratio)
        self.gate_layer = check.choice("gate_layer", gate_layer, ("sigmoid", "softmax"))
        self.scale = (c // head_num) ** -0.5
        quarter = c // QUARTERS
        for name, k in zip(CONVS, self.group_kernel_sizes, strict=True):
            self.add_module(name, nn.Conv1d(quarter, quarter, k, padding=k // 2, groups=quarter))
        self.norm_h = nn.GroupNorm(QUARTERS, c)
        self.norm_w = nn.GroupNorm(QUARTERS, c)
        self.norm = nn.GroupNorm(1, c)
        self.q, self.k, self.v = (nn.Conv2d(c, c, 1, groups=c, bias=qkv_bias) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        gate_h = self._strip_gate(x.mean(3), self.norm_h)[..., None]  # (B, C, H, 1)
        gate_w = self._strip_gate(x.mean(2), self.norm_w)[:, :, None]  # (B, C, 1, W)
        u = x * gate_h * gate_w
        t = self.norm(self._windows(u))  # (B, C, h, w)
        # The matrix is the same for all windows, so the mean of its products is its product with the mean.
        mixed = self._mix(self.q(t), self.k(t), self.v(t.mean((2, 3), keepdim=True)))  # (B, C, 1, 1)
        return u * self._gate(mixed, 1).to(u.dtype)

    def _strip_gate(self, strip: Tensor, norm: nn.Module) -> Tensor:
        """Return the gates of an axis from its means, ``(B, C, length)``."""
        parts = zip(CONVS, strip.chunk(QUARTERS, 1), strict=True)
        t = torch.cat([getattr(self, name)(part) for name, part in parts], 1)
        return self._gate(group_norm(norm, t), 2).to(strip.dtype)

    def _windows(self, u: Tensor) -> Tensor:
        """Return a value for each whole window, for the whole side where it is shorter: ``(B, C, h, w)``."""
        size = self.window_size
        if size == -1:
            return u.mean((2, 3), keepdim=True)
        below, beside = (at_least(size - side, 0) for side in u.shape[2:])
        maximum = self.down_sample_mode == "max_pool"
        if is_recorded() or below or beside:
            u = F.pad(u, (0, beside, 0, below), value=float("-inf") if maximum else 0.0)
        if maximum:
            return F.max_pool2d(u, size)
        return F.avg_pool2d(u, size) * (size * size / ((size - below) * (size - beside)))  # of real pixels

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return each channel's mixture of the values of its head; sums over all windows run in float32."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        split = "b (heads d) h w -> b heads d (h w)"
        q, k, v = (rearrange(t, split, heads=self.head_num).to(dtype) for t in (q, k, v))
        with no_autocast(q):
            weights = (q * self.scale @ k.transpose(2, 3)).softmax(3)  # (B, heads, d, d)
            mixed = F.dropout(weights, self.attn_drop_ratio, self.training) @ v
        return rearrange(mixed, "b heads d one -> b (heads d) one 1")

    def _gate(self, logits: Tensor, dim: int) -> Tensor:
        if self.gate_layer == "sigmoid":
            return logits.sigmoid()
        return logits.softmax(dim, dtype=torch.promote_types(logits.dtype, torch.float32))

    extra_repr = check.arguments


def _window(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != -1):
        raise ValueError(f"window_size={value!r} must be an integer >= 1, or -1 for the whole map")
    return value


def _kernels(value: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != QUARTERS:
        raise ValueError(f"group_kernel_sizes={value!r} must be {QUARTERS} odd integers >= 1")
    return tuple(check.odd("group_kernel_sizes", k) for k in value)
