"""DAttention lets every pixel attend to samples of the map taken at positions that the queries themselves choose.

Paper: Vision Transformer with Deformable Attention, arXiv 2201.00520; DAT++, arXiv 2309.01430.
Official code: LeapLabTHU/DAT (Apache-2.0), the 2023 module.
Differs: one channel argument instead of head count times head width; ``q_size`` is optional and last, for only two
position terms need it; any map size runs, down to 1x1 (the official fixed table needs its own size); positions stay in
float32 under half precision; only the map is returned. The 2022 release had another grid, offset range, clamp and
table size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._attention import attend
from ._layout import like
from ._pasted import takes_pasted
from ._position_terms import choose_term, distance_bias, in_parts, make_term, resize_table
from ._sample_points import even_grid, move_grid, sample

# Numbers of a position term that are held at once; a map that needs more is worked through in parts.
CHUNK = 2**24


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.norm(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")


class DAttention(nn.Module):
    """Replace each pixel by a mixture of values sampled at learned positions, plus a position term.

    ``y_i = Wo(sum_j softmax_j(q_i k_j / sqrt(d) + b_ij) v_j)`` with k and v linear in the map at ``p_j + offset_j(q)``,
    p an even grid; b, or a convolution of the queries instead, is the position term.
    Unmoved samples lie half a sample spacing below and to the right of an even grid, as in the official code.

    Paper: Vision Transformer with Deformable Attention, 2022, arXiv 2201.00520.

    Args:
        channels: Width C of the map, a multiple of ``n_heads`` and of ``n_groups``.
        n_heads: Number of attention heads, at least 1; a multiple of ``n_groups`` for the log and table terms.
        n_groups: Number of channel groups, each with its own sample positions, at least 1.
        attn_drop: Dropout of the attention weights, in [0, 1). Needs the weights in memory, O(heads HW samples).
        proj_drop: Dropout of the output, in [0, 1).
        stride: Spacing of the samples in pixels, at least 1.
        offset_range_factor: Samples move at most half this many sample spacings. Negative: anywhere within the map.
        use_pe: Have a position term at all.
        dwc_pe: Position term: a depthwise 3x3 convolution of the queries. Goes before the others.
        no_off: Attend to the ``stride`` x ``stride`` means of the map, without offsets and position term. The offset
            network keeps its parameters, frozen.
        fixed_pe: Position term: a table of every query pixel and sample, resized from ``q_size`` to other maps.
        ksize: Kernel of the offset network in pixels, odd or equal to ``stride``.
        log_cpb: Position term: a small network of the log-spaced distance of query and sample. If neither this nor the
            other two: a table of distances, sampled bilinearly.
        kv_size: Only None; it never had an effect.
        q_size: Height and width, or both as one integer, of the map the fixed and distance tables are made for; None
            means 20x20, P5 of a 640 pixel image. The other terms do not use it.

    ONNX export follows the map's size, except where a kernel had to stop at a smaller map (``no_off`` with a stride, or
    ``ksize`` equal to ``stride``): that stays as traced.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O((HW)^2 / stride^2) time; O(HW) memory with ``dwc_pe`` or no position term,
        with ``fixed_pe`` O(heads (HW)^2 / stride^2). The other two terms hold ``CHUNK`` numbers at a time, at least
        those of one query, and compute them again for the gradient; exported and compiled graphs hold all.

    Raises:
        ValueError: If ``channels`` is not divisible by ``n_heads`` or ``n_groups``, ``n_heads`` not by ``n_groups``
            where it has to be, or an argument is out of its range.

    Example:
        ``[-1, 1, DAttention, [8, 4]]``

        >>> layer = DAttention(64, n_heads=8, n_groups=4)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self,
        channels: int,
        n_heads: int = 8,
        n_groups: int = 4,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        stride: int = 1,
        offset_range_factor: float = 4,
        use_pe: bool = True,
        dwc_pe: bool = True,
        no_off: bool = False,
        fixed_pe: bool = False,
        ksize: int = 3,
        log_cpb: bool = False,
        kv_size: None = None,
        q_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(n_heads, (list, tuple)):
            raise ValueError(f"n_heads={n_heads!r} must be an integer >= 1; the map size, q_size, is the last argument")
        self.channels = check.integer("channels", channels)
        self.n_heads = check.integer("n_heads", n_heads)
        self.n_groups = check.integer("n_groups", n_groups)
        check.divisible("channels", channels, "n_heads", n_heads)
        check.divisible("channels", channels, "n_groups", n_groups)
        self.attn_drop = check.probability("attn_drop", attn_drop)
        self.proj_drop = check.probability("proj_drop", proj_drop)
        self.stride = check.integer("stride", stride)
        check.number("offset_range_factor", offset_range_factor)
        self.offset_range_factor = offset_range_factor
        self.use_pe = check.flag("use_pe", use_pe)
        self.dwc_pe = check.flag("dwc_pe", dwc_pe)
        self.no_off = check.flag("no_off", no_off)
        self.fixed_pe = check.flag("fixed_pe", fixed_pe)
        self.ksize = check.integer("ksize", ksize)
        self.log_cpb = check.flag("log_cpb", log_cpb)
        if kv_size is not None:
            raise ValueError(f"kv_size={kv_size!r} has no effect; remove it (or write None)")
        self.kv_size = None
        self.q_size = check.pair("q_size", (20, 20) if q_size is None else q_size, alone=True)
        width, padding = channels // n_groups, 0 if ksize == stride else ksize // 2
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, ksize, stride, padding, groups=width),
            _ChannelNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        ).requires_grad_(not no_off)
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.term = choose_term(no_off, use_pe, dwc_pe, fixed_pe, log_cpb)
        if self.term:
            self.rpe_table = make_term(self.term, channels, n_heads, n_groups, self.q_size, self._kv_size())

    def _kv_size(self) -> tuple[int, int]:
        """Return the size of the sample grid that the fixed table is made for."""
        return max(1, self.q_size[0] // self.stride), max(1, self.q_size[1] // self.stride)

    def forward(self, x: Tensor) -> Tensor:
        q = self.proj_q(x)  # (B, C, H, W)
        points = None if self.no_off else self._positions(q, torch.promote_types(x.dtype, torch.float32))
        samples = self._sample(x, points)  # (B, C, Hk, Wk)
        y = self._attend(q, self.proj_k(samples), self.proj_v(samples), points)  # (B, C, H, W)
        if self.term == "dwc":
            y = y + self.rpe_table(q)
        return like(F.dropout(self.proj_out(y), self.proj_drop, self.training), x)

    def _positions(self, q: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows and columns to sample at, (B g, 2, Hk, Wk)."""
        (h, w), kernel = q.shape[2:], self.ksize
        q = rearrange(q, "b (g c) h w -> (b g) c h w", g=self.n_groups)
        if kernel == self.stride and (h < kernel or w < kernel):
            q = F.pad(q, (0, max(kernel - w, 0), 0, max(kernel - h, 0)))
        return move_grid(self.conv_offset(q).to(dtype), self.offset_range_factor)

    def _sample(self, x: Tensor, points: Tensor | None) -> Tensor:
        if points is None:
            return F.avg_pool2d(x, [min(self.stride, int(n)) for n in x.shape[2:]]) if self.stride > 1 else x
        groups = rearrange(x, "b (g c) h w -> (b g) c h w", g=self.n_groups).to(points.dtype)
        return rearrange(sample(groups, *points.unbind(1)), "(b g) c h w -> b (g c) h w", g=self.n_groups).to(x.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, points: Tensor | None) -> Tensor:
        size, kv_size, dropout = q.shape[2:], k.shape[2:], self.attn_drop if self.training else 0.0
        q, k, v = map(self._heads, (q, k, v))

        def find(q: Tensor, queries: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
            if queries is not None:
                bias = distance_bias(self.rpe_table, self.n_groups, queries, points)
            return attend(q, k, v, q.shape[-1] ** -0.5, None if bias is None else bias.to(q.dtype), dropout)

        if points is None or self.term in ("", "dwc"):
            y = find(q)
        elif self.term == "fixed":
            y = find(q, bias=self._resized_table(size, kv_size, points.dtype))
        else:
            numbers = points.numel() * (64 if self.term == "log" else 4)  # for a query
            y = in_parts(find, q, even_grid(*size, points), numbers, CHUNK)
        return rearrange(y, "b heads (h w) d -> b (heads d) h w", h=size[0])

    def _heads(self, x: Tensor) -> Tensor:
        tokens = rearrange(x, "b c h w -> b (h w) c").contiguous()  # fused kernels want channels last in memory
        return rearrange(tokens, "b n (heads d) -> b heads n d", heads=self.n_heads)

    def _resized_table(self, size: Sequence[int], kv_size: Sequence[int], dtype: torch.dtype) -> Tensor:
        return resize_table(self.rpe_table.to(dtype), (self.q_size, self._kv_size()), (size, kv_size))[None]

    extra_repr = check.arguments
