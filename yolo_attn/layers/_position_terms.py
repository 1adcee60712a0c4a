"""DAttention's position terms: which one there is, its parameters, and what it adds to the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from . import _checks as check
from ._precision import no_autocast
from ._recording import is_recorded
from ._sample_points import sample
from ._versions import is_transformed


def choose_term(no_off: bool, use_pe: bool, dwc_pe: bool, fixed_pe: bool, log_cpb: bool) -> str:
    """Return the name of the position term, empty for none; the first match wins."""
    if no_off or not use_pe:
        return ""
    terms = {"dwc": dwc_pe, "fixed": fixed_pe, "log": log_cpb, "table": True}
    return next(name for name, chosen in terms.items() if chosen)


def make_term(
    term: str, channels: int, heads: int, groups: int, size: tuple[int, int], kv_size: tuple[int, int]
) -> nn.Module | nn.Parameter:
    """Return the parameters of a position term, for maps and sample grids of these sizes."""
    if term in ("log", "table"):
        check.divisible("n_heads", heads, "n_groups", groups)
    if term == "dwc":
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    if term == "log":
        return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, heads // groups, bias=False))
    (h, w), (kv_h, kv_w) = size, kv_size
    shape = (heads, h * w, kv_h * kv_w) if term == "fixed" else (heads, 2 * h - 1, 2 * w - 1)
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.01))


def distance_bias(table: nn.Module | Tensor, groups: int, queries: Tensor, samples: Tensor) -> Tensor:
    """Return what the network or the table says to the distances of queries and samples, at least in float32.

    ``(N, 2), (B groups, 2, h, w) -> (B, heads, N, h w)``
    """
    with no_autocast(queries):
        distances = queries[:, None] - rearrange(samples, "n axes h w -> n 1 (h w) axes")  # (B groups, N, S, 2)
        bias = ask_network(table, distances) if isinstance(table, nn.Module) else look_up(table, groups, distances)
    return rearrange(bias, "(b g) heads n s -> b (g heads) n s", g=groups)


def look_up(table: Tensor, groups: int, distances: Tensor) -> Tensor:
    """Return what the table holds for each distance, zero beyond it.

    ``(heads, 2 H - 1, 2 W - 1), (B groups, N, S, 2) -> (B groups, heads / groups, N, S)``
    """
    batch = distances.shape[0] // groups
    table = repeat(table.to(distances.dtype), "(g heads) h w -> (b g) heads h w", g=groups, b=batch)
    return sample(table, *(distances / 2).unbind(-1))


def ask_network(network: nn.Module, distances: Tensor) -> Tensor:
    """Return what the network says to each distance, log-spaced, in the precision of its parameters.

    ``(B groups, N, S, 2) -> (B groups, heads / groups, N, S)``
    """
    logs = torch.sign(distances) * torch.log2(1 + (4 * distances).abs()) / 3
    (dtype, *_) = [*(parameter.dtype for parameter in network.parameters()), logs.dtype]
    return rearrange(network(logs.to(dtype)), "n q s heads -> n heads q s")


def resize_table(table: Tensor, old: Sequence[Sequence[int]], new: Sequence[Sequence[int]]) -> Tensor:
    """Return the table (heads, query pixels, samples) with each of the two resized as an image from old to new."""
    for (h, w), size in zip(old, new, strict=True):
        # A trace has to hold the resize even where its own example needs none.
        if torch.jit.is_tracing() or tuple(size) != (h, w):
            image = rearrange(table, "heads (h w) other -> heads other h w", h=h, w=w)
            image = F.interpolate(image, tuple(size), mode="bilinear", align_corners=True)
            table = rearrange(image, "heads other h w -> heads (h w) other")
        table = rearrange(table, "heads one other -> heads other one")
    return table


def in_parts(
    function: Callable[[Tensor, Tensor], Tensor], q: Tensor, queries: Tensor, numbers: int, limit: int
) -> Tensor:
    """Call ``function`` with few queries at a time, and forget its numbers until the backward pass.

    It holds ``numbers`` for a query and may hold ``limit``, but at least those of one: ``(B, heads, N, d), (N, 2) ->
    (B, heads, N, d)``. A recorded graph has to serve other sizes, and ``torch.func`` computes nothing twice: all then.
    """
    part = max(1, limit // max(1, numbers))
    if is_recorded() or is_transformed() or part >= queries.shape[0]:
        return function(q, queries)
    parts = zip(q.split(part, 2), queries.split(part), strict=True)
    return torch.cat([checkpoint(function, *each, use_reentrant=False) for each in parts], 2)
