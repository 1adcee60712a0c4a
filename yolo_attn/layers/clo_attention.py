"""CloAttention sums up the map twice: attention to pooled tokens in some heads, gated depthwise convolutions in others.

Paper: Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2303.17803.
Official code: qhfan/CloFormer (MIT), class ``EfficientAttention``.
Differs: defaults for heads, splits, kernels and window (official: none, and window 7); any map size runs; the
one-group norm and the residual around the official module are left to the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._attention import attend
from ._depthwise import depthwise
from ._layout import like
from ._pasted import takes_pasted
from ._recording import at_least


class CloAttention(nn.Module):
    """Mix each pixel with pooled tokens of the whole map (global heads) and with its neighbourhood (local heads).

    Local: ``tanh(scale act(q * k)) * v`` with ``[q; k; v] = depthwise(W x)``. Global:
    ``sum_j softmax_j(scale q_i k_j) v_j`` over the pooled tokens j. Their channels are joined and mapped once more.

    Paper: Rethinking Local Perception in Lightweight Vision Transformer, 2023, arXiv 2303.17803.

    Args:
        channels: Width C of the map, a multiple of ``num_heads``.
        num_heads: Number of heads, at least 1; each is ``C / num_heads`` wide.
        group_split: Heads of each local branch, then heads of the global branch; each at least 0, together
            ``num_heads``. A branch without heads has no parameters.
        kernel_sizes: Kernel of each local branch in pixels, odd; one entry fewer than ``group_split``, may be empty.
        window_size: Side of the squares that are averaged to one global token, in pixels, at least 1; never larger
            than the map.
        attn_drop: Dropout of the local gates and global attention weights, in [0, 1).
        proj_drop: Dropout of the output, in [0, 1).
        qkv_bias: Give the query, key, value and output maps a bias. The loss does not depend on the global keys' part.
        pool: Whether incomplete squares at the bottom and right are dropped (``"floor"``) or averaged (``"ceil"``).

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O((HW)^2 / window_size^2) time for the global heads and O(HW) for the local
        ones, O(HW) memory.

    Raises:
        ValueError: If ``channels`` is not divisible by ``num_heads``, ``group_split`` and ``kernel_sizes`` do not fit
            each other or ``num_heads``, or an argument is out of its range.

    Example:
        ``[-1, 1, CloAttention, [8, [4, 4], [5], 4]]``

        >>> layer = CloAttention(64, num_heads=8, group_split=(4, 4), kernel_sizes=(5,))
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        group_split: Sequence[int] = (4, 4),
        kernel_sizes: Sequence[int] = (5,),
        window_size: int = 4,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        qkv_bias: bool = True,
        pool: str = "floor",
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.num_heads = check.integer("num_heads", num_heads)
        check.divisible("channels", channels, "num_heads", num_heads)
        self.group_split = tuple(check.integer("group_split", g, 0) for g in _sequence("group_split", group_split))
        self.kernel_sizes = tuple(check.odd("kernel_sizes", k) for k in _sequence("kernel_sizes", kernel_sizes))
        if len(self.group_split) != len(self.kernel_sizes) + 1:
            given = f"group_split={group_split!r} with kernel_sizes={kernel_sizes!r}"
            raise ValueError(f"{given}: group_split must have one entry more than kernel_sizes")
        if sum(self.group_split) != num_heads:
            raise ValueError(f"group_split={group_split!r} must sum to num_heads={num_heads}")
        self.window_size = check.integer("window_size", window_size)
        self.attn_drop = check.probability("attn_drop", attn_drop)
        self.proj_drop = check.probability("proj_drop", proj_drop)
        self.qkv_bias = check.flag("qkv_bias", qkv_bias)
        self.pool = check.choice("pool", pool, ("floor", "ceil"))
        self.scale = (channels // num_heads) ** -0.5
        c, head, bias = channels, channels // num_heads, self.qkv_bias
        qkvs, convs, act_blocks = [], [], []
        for heads, kernel in zip(self.group_split, self.kernel_sizes, strict=False):
            if not heads:
                continue
            width = heads * head
            qkvs.append(nn.Conv2d(c, 3 * width, 1, bias=bias))
            convs.append(nn.Conv2d(3 * width, 3 * width, kernel, padding=kernel // 2, groups=3 * width))
            act = nn.Sequential(nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1))
            act_blocks.append(nn.ModuleDict({"act_block": act}))
        # An optimiser's state goes by the order of the parameters, which is that of the official class.
        self.global_width = self.group_split[-1] * head
        if self.global_width:
            self.global_q = nn.Conv2d(c, self.global_width, 1, bias=bias)
            self.global_kv = nn.Conv2d(c, 2 * self.global_width, 1, bias=bias)
        self.convs, self.act_blocks, self.qkvs = map(nn.ModuleList, (convs, act_blocks, qkvs))
        self.proj = nn.Conv2d(c, c, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        branches = zip(self.qkvs, self.convs, self.act_blocks, strict=True)
        y = [self._local(depthwise(conv, qkv(x)), act["act_block"]) for qkv, conv, act in branches]
        if self.global_width:
            y.append(self._global(x))
        y = self.proj(torch.cat(y, 1))  # (B, C, H, W)
        return like(F.dropout(y, self.proj_drop, self.training), x)

    def _local(self, qkv: Tensor, act: nn.Module) -> Tensor:
        q, k, v = qkv.chunk(3, 1)  # 3 x (B, c, H, W)
        gate = (act(q * k) * self.scale).tanh()
        return F.dropout(gate, self.attn_drop, self.training) * v

    def _global(self, x: Tensor) -> Tensor:
        # The fused kernels need a head's numbers side by side in memory.
        pattern, heads = "b (heads d) h w -> b heads (h w) d", self.group_split[-1]
        k, v = self.global_kv(self._pool(x)).chunk(2, 1)
        q, k, v = (rearrange(t, pattern, heads=heads).contiguous() for t in (self.global_q(x), k, v))
        dropout = self.attn_drop if self.training else 0.0
        y = attend(q, k, v, self.scale, dropout=dropout)  # (B, heads, N, d)
        return rearrange(y, "b heads (h w) d -> b (heads d) h w", h=x.shape[2])

    def _pool(self, x: Tensor) -> Tensor:
        """Average squares; a trace pads a map that is smaller than one and makes up for the zeros."""
        side, (h, w), ceil = self.window_size, x.shape[2:], self.pool == "ceil"
        if side == 1:
            return x
        if not torch.jit.is_tracing():
            return F.avg_pool2d(x, (min(side, h), min(side, w)), ceil_mode=ceil, count_include_pad=False)
        padded_h, padded_w = at_least(h, side), at_least(w, side)
        x = F.pad(x, (0, padded_w - w, 0, padded_h - h))
        return F.avg_pool2d(x, side, ceil_mode=ceil, count_include_pad=False) * (padded_h * padded_w / (h * w))

    extra_repr = check.arguments


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name}={value!r} must be a list of integers")
    return value
