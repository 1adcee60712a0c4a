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
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._attention import attend
from ._depthwise import depthwise
from ._eager import is_eager_cpu
from ._fused import children, fused, is_fusible
from ._gated_values import Entry, Exit, Gate
from ._layout import like
from ._pointwise import pointwise

_ENTRY, _GATE, _EXIT = Entry(), Gate(), Exit()
_BRANCH = nn.Conv2d, nn.ModuleDict, nn.Sequential, nn.Conv2d, nn.SiLU, nn.Conv2d


class CloAttention(nn.Module):
    """Mix each pixel with pooled tokens of the whole map (global heads) and with its neighbourhood (local heads).

    Paper: Rethinking Local Perception in Lightweight Vision Transformer, 2023, arXiv 2303.17803.

    Args:
        channels: Width C of the map, a multiple of ``num_heads``.
        num_heads: Number of heads, at least 1; each is ``C / num_heads`` wide.
        group_split: Heads of each local branch, then heads of the global branch; each at least 0, together
            ``num_heads``. A branch without heads has no parameters.
        kernel_sizes: Kernel of each local branch in pixels, odd; one entry fewer than ``group_split``, may be empty.
        window_size: Side of the squares that are averaged to one global token, in pixels, at least 1; never larger
            than the map. An exported graph keeps the size that its example allowed.
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
        self._build()

    def _build(self) -> None:
        c, head, bias = self.channels, self.channels // self.num_heads, self.qkv_bias
        self.qkvs, self.convs, self.act_blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for heads, kernel in zip(self.group_split, self.kernel_sizes, strict=False):
            if not heads:
                continue
            width = heads * head
            self.qkvs.append(nn.Conv2d(c, 3 * width, 1, bias=bias))
            self.convs.append(nn.Conv2d(3 * width, 3 * width, kernel, padding=kernel // 2, groups=3 * width))
            act = nn.Sequential(nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1))
            self.act_blocks.append(nn.ModuleDict({"act_block": act}))
        self.global_width = self.group_split[-1] * head
        if self.global_width:
            self.global_q = nn.Conv2d(c, self.global_width, 1, bias=bias)
            self.global_kv = nn.Conv2d(c, 2 * self.global_width, 1, bias=bias)
        self.proj = nn.Conv2d(c, c, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self._is_fusible(x):
            return self._fused(x)
        branches = zip(self.qkvs, self.convs, self.act_blocks, strict=True)
        y = [self._local(depthwise(conv, pointwise(qkv, x)), act["act_block"]) for qkv, conv, act in branches]
        if self.global_width:
            y.append(self._global(x))
        return like(F.dropout(pointwise(self.proj, torch.cat(y, 1)), self.proj_drop, self.training), x)

    def _is_fusible(self, x: Tensor) -> bool:
        if self.training and (self.attn_drop or self.proj_drop):
            return False
        parts: list[nn.Module] = []
        for qkv, act in zip(self.qkvs, self.act_blocks, strict=True):
            parts += [qkv, act, *(part for child in children(act) for part in (child, *children(child)))]
        parts += [self.global_q, self.global_kv] if self.global_width else []
        types = _BRANCH * len(self.qkvs) + (nn.Conv2d,) * (3 if self.global_width else 1)
        return is_fusible(x, [*parts, self.proj], types)

    def _fused(self, x: Tensor) -> Tensor:
        local, whole = [], None
        for qkv, conv, act in zip(self.qkvs, self.convs, self.act_blocks, strict=True):
            y = depthwise(conv, fused(_ENTRY, None, x, qkv.weight, qkv.bias).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            first, _, second = act["act_block"]
            local.append(fused(_GATE, self.scale, y, first.weight, first.bias, second.weight, second.bias))
        if self.global_width:
            q = fused(_EXIT, None, self.global_q.weight, self.global_q.bias, x)
            kv = fused(_EXIT, None, self.global_kv.weight, self.global_kv.bias, self._pooled(x))
            whole = self._attend(q, kv)
        return fused(_EXIT, None, self.proj.weight, self.proj.bias, whole, *local)

    def _local(self, qkv: Tensor, act: nn.Module) -> Tensor:
        q, k, v = qkv.chunk(3, 1)
        gate = pointwise(act[2], F.silu(pointwise(act[0], q * k)))
        gate = (gate * self.scale).tanh()
        return F.dropout(gate, self.attn_drop, self.training) * v  # (B, c, H, W)

    def _global(self, x: Tensor) -> Tensor:
        return self._attend(pointwise(self.global_q, x), pointwise(self.global_kv, self._pooled(x)))

    def _attend(self, q: Tensor, kv: Tensor) -> Tensor:
        size = q.shape
        k, v = kv.chunk(2, 1)  # 2 x (B, c, h, w)
        q, k, v = map(self._heads, (q, k, v))
        dropout = self.attn_drop if self.training else 0.0
        return attend(q, k, v, self.scale, dropout=dropout).transpose(2, 3).reshape(size)

    def _heads(self, x: Tensor) -> Tensor:
        """Return the map as (B, heads, pixels, d); the fused operator wants the last dimension contiguous."""
        if is_eager_cpu(x):  # ``attend`` has a form of its own
            return x.flatten(2).unflatten(1, (self.group_split[-1], -1)).transpose(2, 3)
        x = x.flatten(2).transpose(1, 2).contiguous()
        return x.unflatten(2, (self.group_split[-1], -1)).transpose(1, 2)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.window_size == 1:
            return x
        window = [min(self.window_size, int(n)) for n in x.shape[2:]]
        return F.avg_pool2d(x, window, ceil_mode=self.pool == "ceil", count_include_pad=False)

    def extra_repr(self) -> str:
        names = "channels num_heads group_split kernel_sizes window_size attn_drop proj_drop qkv_bias pool"
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name}={value!r} must be a list of integers")
    return value
