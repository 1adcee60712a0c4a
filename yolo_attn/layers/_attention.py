"""Softmax attention that never holds all its weights, also fast on a CPU where heads are narrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ._eager import is_eager_cpu

# Heads of this width and more fill the registers of the fused kernel.
NARROW = 16
# Weights held at once: they stay in the cache between the product, the softmax and the next product.
CHUNK = 2**19
# Products in a batch, so that every thread has one of its own.
ROWS = 4


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
        ``(B, heads, N, d), (B, heads, M, d), (B, heads, M, e) -> (B, heads, N, e)``; O(N M) time, O(N + M) memory.
    """
    if is_eager_cpu(q) and q.shape[-1] < NARROW and mask is None and not dropout:
        return _NarrowHeads.apply(q, k, v, scale)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)


class _NarrowHeads(torch.autograd.Function):
    """Attention chunk by chunk, every product so arranged that its result is wide.

    A product whose result is as narrow as a head runs at a fraction of the speed of the same product transposed. The
    fused kernel has one of them forward and three backward. Backward computes the weights again from q and k.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        qt, kt, vt = _columns(q * scale, k, v)
        y = vt.new_empty(vt.shape[0], vt.shape[1], qt.shape[2])  # (B heads, e, N)
        for rows, queries, (weights, logits) in _chunks(qt, kt):
            torch.bmm(qt[rows, :, queries].transpose(1, 2), kt[rows], out=logits)
            torch.softmax(logits, -1, out=weights)
            y[rows, :, queries] = vt[rows] @ weights.transpose(1, 2)
        return y.unflatten(0, q.shape[:2]).transpose(2, 3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.scale = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_plain_gradients(q, k, v, grad, ctx.scale), None
        qt, kt, vt, gt = _columns(q * ctx.scale, k, v, grad)
        gq, gk, gv = torch.empty_like(qt), torch.zeros_like(kt), torch.zeros_like(vt)
        for rows, queries, (weights, logits) in _chunks(qt, kt):
            part, g = qt[rows, :, queries], gt[rows, :, queries]
            torch.bmm(part.transpose(1, 2), kt[rows], out=logits)
            torch.softmax(logits, -1, out=weights)
            gv[rows] += g @ weights
            torch.bmm(g.transpose(1, 2), vt[rows], out=logits)  # the gradient of the weights
            # In place: the gradient of the logits.
            torch.ops.aten._softmax_backward_data.out(logits, weights, -1, weights.dtype, grad_input=logits)
            gk[rows] += part @ logits
            gq[rows, :, queries] = kt[rows] @ logits.transpose(1, 2)
        gq *= ctx.scale
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


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield slices of the rows and of the queries, and two buffers for their weights, at most about ``CHUNK`` each."""
    (rows, _, n), m = q.shape, k.shape[2]
    queries = min(n, max(1, CHUNK // (m * min(rows, ROWS))))
    together = min(rows, max(1, CHUNK // (queries * m)))
    buffers = q.new_empty(2, together * queries * m)  # used again and again: fresh memory costs more than the products
    for row in range(0, rows, together):
        for query in range(0, n, queries):
            size = (min(together, rows - row), min(queries, n - query), m)
            chunk = buffers[:, : size[0] * size[1] * m].view(2, *size)
            yield slice(row, row + together), slice(query, query + queries), chunk
