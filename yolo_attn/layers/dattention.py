"""DAttention lets every pixel attend to samples of the map taken at positions that the queries themselves choose.

Paper: Vision Transformer with Deformable Attention, arXiv 2201.00520; DAT++, arXiv 2309.01430.
Official code: LeapLabTHU/DAT (Apache-2.0), the 2023 module.
Differs: one channel argument instead of head count times head width; ``q_size`` is optional and last, for only two
position terms need it; any map size runs, down to 1x1 (the official fixed table needs its own size); positions stay in
float32 under half precision; only the map is returned. The 2022 release had another grid, offset range, clamp and
table size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from . import _checks as check
from ._attention import attend
from ._eager import is_eager, is_eager_cpu, is_unhooked
from ._layout import channels_last, like
from ._pointwise import linear, pointwise
from ._precision import no_autocast

# Numbers of a position term that are held at once; a map that needs more is worked through in rows.
CHUNK = 2**22


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DAttention(nn.Module):
    """Replace each pixel by a mixture of values sampled at learned positions, plus a position term.

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
        those of one row of queries, and compute them again for the gradient; exported and compiled graphs hold all.

    Raises:
        ValueError: If ``channels`` is not divisible by ``n_heads`` or ``n_groups``, ``n_heads`` not by ``n_groups``
            where it has to be, or an argument is out of its range.

    Example:
        ``[-1, 1, DAttention, [8, 4]]``

        >>> layer = DAttention(64, n_heads=8, n_groups=4)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

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
        self.q_size = _size(q_size)
        self._build()

    def _build(self) -> None:
        c, heads, width = self.channels, self.n_heads, self.channels // self.n_groups
        padding = 0 if self.ksize == self.stride else self.ksize // 2
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, self.ksize, self.stride, padding, groups=width),
            _ChannelNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        ).requires_grad_(not self.no_off)
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))
        self.term = self._choose_term()
        (h, w), (kv_h, kv_w) = self.q_size, self._kv_size()
        if self.term in ("log", "table"):
            check.divisible("n_heads", heads, "n_groups", self.n_groups)
        if self.term == "dwc":
            self.rpe_table = nn.Conv2d(c, c, 3, padding=1, groups=c)
        elif self.term == "log":
            per_group = heads // self.n_groups
            self.rpe_table = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, per_group, bias=False))
        elif self.term:
            shape = (heads, h * w, kv_h * kv_w) if self.term == "fixed" else (heads, 2 * h - 1, 2 * w - 1)
            self.rpe_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.01))

    def _choose_term(self) -> str:
        """Return which position term there is; the first match wins."""
        if self.no_off or not self.use_pe:
            return ""
        terms = {"dwc": self.dwc_pe, "fixed": self.fixed_pe, "log": self.log_cpb, "table": True}
        return next(name for name, chosen in terms.items() if chosen)

    def _kv_size(self) -> tuple[int, int]:
        """Return the size of the sample grid that the fixed table is made for."""
        return max(1, self.q_size[0] // self.stride), max(1, self.q_size[1] // self.stride)

    def forward(self, x: Tensor) -> Tensor:
        q, points = linear(self.proj_q, x), None
        if self.no_off:
            samples = self._means(x)  # (B, C, Hk, Wk)
        else:
            points = self._positions(q, torch.promote_types(x.dtype, torch.float32))  # (B g, 2, Hk, Wk)
            samples = self._sample(x, points)  # (B, C, Hk, Wk)
        if not is_eager_cpu(x):
            samples = samples.contiguous(memory_format=torch.channels_last)
        q_heads, k, v = map(self._heads, (q, linear(self.proj_k, samples), linear(self.proj_v, samples)))
        y = self._attend(q_heads, k, v, points, x)  # (B, heads, N, d)
        y = y.transpose(2, 3).reshape(x.shape)  # (B, C, H, W)
        if self.term == "dwc":
            y = like(self.rpe_table(channels_last(q)), y) + y
        return like(F.dropout(linear(self.proj_out, y), self.proj_drop, self.training), x)

    def _heads(self, x: Tensor) -> Tensor:
        """Return the map as (B, heads, pixels, d), with d last in memory where the fused kernel may have to serve."""
        x = x.flatten(2)
        if not is_eager_cpu(x) or self.term not in ("", "dwc"):
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        return x.unflatten(1, (self.n_heads, self.channels // self.n_heads)).transpose(2, 3)

    def _means(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        return F.avg_pool2d(x, [min(self.stride, int(n)) for n in x.shape[2:]])

    def _positions(self, q: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows and columns to sample at; -1 and 1 are the centres of the first and the last pixel."""
        (b, _, h, w), kernel = q.shape, self.ksize
        q = q.reshape(b * self.n_groups, self.channels // self.n_groups, h, w)
        if kernel == self.stride and (h < kernel or w < kernel):
            q = F.pad(q, (0, max(kernel - w, 0), 0, max(kernel - h, 0)))
        offsets = self._offsets(channels_last(q)).to(dtype)  # (B g, 2, Hk, Wk)
        points = []
        for n, offset in zip(offsets.shape[2:], offsets.unbind(1), strict=True):
            point, spacing = _axis(n, 0.5, offset)
            if self.offset_range_factor >= 0:
                offset = offset.tanh() * (self.offset_range_factor * spacing)
            points.append((point if points else point[:, None]) + offset)
        grid = torch.stack(points, 1)
        return grid if self.offset_range_factor >= 0 else grid.clamp(-1, 1)

    def _offsets(self, q: Tensor) -> Tensor:
        network = self.conv_offset
        if type(network) is not nn.Sequential or not is_unhooked(network):
            return network(q)
        return pointwise(network[-1], network[:-1](q))

    def _sample(self, x: Tensor, points: Tensor) -> Tensor:
        """Return what each group of channels finds at its own points, zero outside the map."""
        b, c, h, w = x.shape
        x_groups = x.reshape(b * self.n_groups, c // self.n_groups, h, w).to(points.dtype)
        y = F.grid_sample(x_groups, points.flip(1).permute(0, 2, 3, 1), align_corners=True)  # (B g, C/g, Hk, Wk)
        return y.reshape(b, c, *points.shape[2:]).to(x.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, points: Tensor | None, x: Tensor) -> Tensor:
        """Attend with the position term, which is computed in float32 (float64 for float64 maps)."""
        dropout = self.attn_drop if self.training else 0.0
        scale = (self.channels // self.n_heads) ** -0.5
        if points is None or self.term in ("", "dwc"):
            return attend(q, k, v, scale, None, dropout)
        (h, w), size = x.shape[2:], points.shape[2:]
        if self.term == "fixed":
            with no_autocast(x):
                bias = self._resized_table((h, w), size, points.dtype)
            return attend(q, k, v, scale, bias.to(q.dtype), dropout)
        rows, columns = (_axis(n, 0.0, points)[0][:, None] for n in (h, w))
        samples = points.flatten(2)  # (B g, 2, S)
        dy, dx = rows - samples[:, 0, None], columns - samples[:, 1, None]  # (B g, H, S), (B g, W, S)

        def attend_rows(q: Tensor, dy: Tensor) -> Tensor:
            with no_autocast(x):
                bias = self._log_bias(dy, dx) if self.term == "log" else self._table_bias(dy, dx)
            bias = bias.reshape(x.shape[0], self.n_heads, -1, size[0] * size[1])  # (B, heads, n, S)
            return attend(q, k, v, scale, bias.to(q.dtype), dropout)

        step = self._rows_at_once(dy, w)
        if step >= h:
            return attend_rows(q, dy)
        parts = zip(q.unflatten(2, (h, w)).split(step, 2), dy.split(step, 1), strict=True)
        return torch.cat([_recompute(attend_rows, part.flatten(2, 3), d) for part, d in parts], 2)

    def _rows_at_once(self, dy: Tensor, w: int) -> int:
        """Return how many rows of queries keep the numbers of the position term below ``CHUNK``."""
        n, h, s = dy.shape
        if not is_eager(dy):
            return h
        per_pair = n // self.n_groups * self.n_heads + n * (32 if self.term == "log" else 2)
        return max(1, CHUNK // (per_pair * w * s))

    def _log_bias(self, dy: Tensor, dx: Tensor) -> Tensor:
        """Run the small network; its first layer acts on rows and columns apart, before their pairs are formed.

        Hook-based FLOP counters do not see it.
        """
        first, last = self.rpe_table[0], self.rpe_table[2].weight.to(dy.dtype)
        (by, bx), shift = first.weight.to(dy.dtype).unbind(1), first.bias.to(dy.dtype)
        dy, dx = (torch.sign(d) * torch.log2(1 + (4 * d).abs()) / 3 for d in (dy, dx))
        dy, dx = dy[..., None] * by + shift, dx[..., None] * bx  # (B g, H, S, 32), (B g, W, S, 32)
        hidden = F.relu(dy[:, :, None] + dx[:, None], inplace=True)  # (B g, H, W, S, 32)
        return F.linear(hidden, last).permute(0, 4, 1, 2, 3)  # (B g, heads / g, H, W, S)

    def _table_bias(self, dy: Tensor, dx: Tensor) -> Tensor:
        """Look every distance up in the table, zero outside it."""
        (n, h, s), w = dy.shape, dx.shape[1]
        shape = (n, h, w, s)
        grid = torch.stack((dx[:, None].expand(shape), dy[:, :, None].expand(shape)), -1) / 2
        table = self.rpe_table.to(dy.dtype).unflatten(0, (self.n_groups, -1))  # (g, heads / g, 2h - 1, 2w - 1)
        table = table.repeat(n // self.n_groups, 1, 1, 1)
        return F.grid_sample(table, grid.flatten(1, 2), align_corners=True)  # (B g, heads / g, N, S)

    def _resized_table(self, size: Sequence[int], kv_size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the table of query pixels and samples, each of the two resized as an image to the present map."""
        table = self.rpe_table.to(dtype)
        for native, new in ((self.q_size, size), (self._kv_size(), kv_size)):
            # A trace has to hold the resize even where its own example needs none.
            if torch.jit.is_tracing() or tuple(new) != native:
                image = table.transpose(1, 2).unflatten(2, native)  # (heads, other, h, w)
                table = F.interpolate(image, tuple(new), mode="bilinear", align_corners=True).flatten(2).transpose(1, 2)
            table = table.transpose(1, 2)  # the other axis of the table
        return table[None]

    def extra_repr(self) -> str:
        names = (
            "channels n_heads n_groups attn_drop proj_drop stride offset_range_factor use_pe dwc_pe no_off fixed_pe "
            "ksize log_cpb kv_size q_size"
        )
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())


def _size(value: Any) -> tuple[int, int]:
    """Return ``q_size`` as a pair."""
    pair = (20, 20) if value is None else value
    pair = [pair, pair] if isinstance(pair, int) else pair
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ValueError(f"q_size={value!r} must be an integer >= 1 or two of them")
    return check.integer("q_size", pair[0]), check.integer("q_size", pair[1])


def _recompute(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call ``function`` and forget what it computed on the way; it is called again for the gradient."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


def _axis(n: int, shift: float, kind: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return n evenly spaced coordinates from -1 to 1, moved by ``shift`` spacings, and half a spacing.

    A lone point is at 0. Where a graph is recorded everything is computed from the index tensor, so that it follows the
    map's size.
    """
    if is_eager(kind):
        half, end = 1 / max(n - 1, 1), float(n > 1)
        first = (2 * shift * half - 1) * end
        return torch.linspace(first, first + 2 * end, n, dtype=kind.dtype, device=kind.device), half
    index = torch.arange(n, dtype=kind.dtype, device=kind.device)
    last = index[-1:]
    half = 1 / last.clamp(min=1)
    return (2 * (index + shift) * half - 1) * last.clamp(max=1), half
