"""Softmax attention that holds few of its weights at a time, at the speed of matrix products on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ._eager import is_eager, is_eager_cpu, without_autocast
from ._precision import no_autocast

# Below this width of the heads, and from this number of weights of a head on, products with columns are fastest.
NARROW = 16
LITTLE = 2**13
FEW = 2**21  # weights that may all be held
CHUNK = 2**20  # weights held at once: they stay in the cache between the products
# Of maps too large for that: heads in a chunk, unless it could not hold enough queries of so many, and enough queries.
ROWS, QUERIES = 8, 32
LANES = 16  # queries that products, powers and maxima work on at once
# While no logit, as a power of two, exceeds this, weights, their sums and reciprocals stay in the range of float32.
SAFE = 32.0


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return ``softmax(scale q k^T + mask) v``.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        scale: Factor of the products.
        mask: Added to the scaled products, broadcastable.
        dropout: Probability with which a weight is dropped.

    Shape:
        ``(B, heads, N, d), (B, heads, M, d), (B, heads, M, e) -> (B, heads, N, e)``; O(N M) time, O(N + M) memory but
        for at most ``FEW`` weights, in full precision only of small heads.
    """
    if mask is None and not dropout and q.is_cpu and is_eager(q) and q.numel() and k.numel():
        is_much = q.shape[-1] < NARROW or q.shape[2] * k.shape[2] >= LITTLE
        if is_much and is_eager_cpu(q):
            return _Chunked.apply(q, k, v, scale)  # type: ignore[no-any-return]
        if q.shape[:3].numel() * k.shape[2] <= FEW:
            # Faster than the fused operator for many small heads and in half precision, where logits stay float32.
            with no_autocast(q):
                dtype = torch.promote_types(q.dtype, torch.float32)
                weights = ((q.to(dtype) * scale) @ k.to(dtype).transpose(2, 3)).softmax(-1)
            return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)


class _Chunked(torch.autograd.Function):
    """Attention chunk by chunk, every product so arranged that its result is wide.

    A product whose result is as narrow as a head runs at a fraction of the speed of the same product transposed, so
    queries, keys and values are columns. Weights are powers of two, which take a third of the time of powers of e, and
    stay unnormalised: dividing the sums of values and, backward, the gradient has the same effect. Backward computes
    the weights again from q and k; sums and shifts are further rows of the factors of its products.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        qt, kt, vt = _columns(q, k, v)
        q1 = qt * (scale * math.log2(math.e))
        norm = qt.new_empty(qt.shape[0], 1, qt.shape[2])
        shift = None if _is_safe(q1, kt) else torch.empty_like(norm)
        y = qt.new_empty(*vt.shape[:2], qt.shape[2])  # (B heads, e, N)
        for rows, queries, (weights,) in _chunks(qt, kt, 1):
            torch.bmm(kt[rows].transpose(1, 2), q1[rows, :, queries], out=weights)
            if shift is not None:
                shift[rows, :, queries] = most = weights.amax(1, keepdim=True)
                weights -= most
            y[rows, :, queries] = vt[rows] @ weights.exp2_()
            norm[rows, :, queries] = weights.sum(1, keepdim=True)
        y /= norm
        y = y.unflatten(0, q.shape[:2]).transpose(2, 3)
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, y, norm, shift)
        return y

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, norm, shift = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_plain_gradients(q, k, v, grad, ctx.scale), None
        qt, kt, vt, yt, gt = _columns(q, k, v, y, grad)
        gt = gt / norm
        g1 = _with_row(gt, -(gt * yt).sum(1, keepdim=True)).mul_(ctx.scale)
        q1, k1, v1 = qt * (ctx.scale * math.log2(math.e)), kt, _with_row(vt, 1.0)
        if shift is not None:
            q1, k1 = _with_row(q1, -shift), _with_row(kt, 1.0)
        gq, gk, gv = (torch.empty_like(t) for t in (qt, kt, vt))
        for rows, queries, (weights, logits) in _chunks(qt, kt, 2):
            torch.bmm(k1[rows].transpose(1, 2), q1[rows, :, queries], out=weights)
            weights.exp2_()
            torch.bmm(v1[rows].transpose(1, 2), g1[rows, :, queries], out=logits)
            logits *= weights  # the gradient of the logits
            add = min(1, queries.start)
            gv[rows].baddbmm_(gt[rows, :, queries], weights.transpose(1, 2), beta=add)
            gk[rows].baddbmm_(qt[rows, :, queries], logits.transpose(1, 2), beta=add)
            gq[rows, :, queries] = kt[rows] @ logits
        return *(t.unflatten(0, q.shape[:2]).transpose(2, 3) for t in (gq, gk, gv)), None


def _plain_gradients(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients such that they can be differentiated again, all weights held."""
    weights = (scale * q @ k.transpose(2, 3)).softmax(-1)
    g_weights = grad @ v.transpose(2, 3)
    g_logits = scale * weights * (g_weights - (g_weights * weights).sum(-1, keepdim=True))
    return g_logits @ k, g_logits.transpose(2, 3) @ q, weights.transpose(2, 3) @ grad


def _columns(*tensors: Tensor) -> Iterator[Tensor]:
    """Return (B, heads, N, d) as (B heads, d, N), contiguous."""
    return (t.transpose(2, 3).flatten(0, 1).contiguous() for t in tensors)


def _with_row(x: Tensor, last: Tensor | float) -> Tensor:
    """Return (rows, d, N) as (rows, d + 1, N) with ``last`` as the last one."""
    y = x.new_empty(x.shape[0], x.shape[1] + 1, x.shape[2])
    y[:, :-1], y[:, -1:] = x, last
    return y


def _is_safe(q: Tensor, k: Tensor) -> bool:
    """Tell whether no product of a column of ``q`` and one of ``k`` can exceed ``SAFE``."""
    squares = [(t * t).sum(1).amax(1) for t in (q, k)]
    return bool((squares[0] * squares[1] < SAFE**2).all())


def _chunks(q: Tensor, k: Tensor, count: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield slices of the rows and of the queries, and ``count`` places for numbers of all their pairs."""
    (rows, _, n), m = q.shape, k.shape[2]
    queries = n
    if 2 * n * m > CHUNK:
        queries = max(1, CHUNK // (min(rows, ROWS) * m), min(QUERIES, CHUNK // m))
        queries = min(n, _even(n, queries, LANES))
    together = _even(rows, max(1, CHUNK // (queries * m)))
    # Used again and again: fresh memory costs more than the products.
    buffers = q.new_empty(count, together * queries * m)
    for row in range(0, rows, together):
        for query in range(0, n, queries):
            size = (min(together, rows - row), m, min(queries, n - query))
            places = buffers[:, : size[0] * size[1] * size[2]].view(count, *size)
            yield slice(row, row + together), slice(query, query + queries), places


def _even(n: int, most: int, unit: int = 1) -> int:
    """Return a size of at most ``most`` that cuts ``n`` into even parts, a multiple of ``unit`` where that can be."""
    most = most - most % unit or most
    size = -(-n // -(-n // most))
    return min(most, -(-size // unit) * unit)
