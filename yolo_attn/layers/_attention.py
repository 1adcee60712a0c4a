"""Softmax attention by PyTorch's fused operator, which keeps no weights in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fast import may_be_fast
from ._versions import is_attention_unbatchable, plain_attention


@may_be_fast
def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return ``softmax(scale q k^T + mask) v``; second derivatives need ``torch.nn.attention.sdpa_kernel`` with MATH.

    Args:
        q: Queries.
        k: Keys.
        v: Values. The numbers of a head lie side by side in memory, or the operator falls back to a slow form.
        scale: Factor of the products.
        mask: Added to the scaled products, broadcastable.
        dropout: Probability with which a weight is dropped; takes the weights' memory.

    Shape:
        ``(B, heads, N, d), (B, heads, M, d), (B, heads, M, e) -> (B, heads, N, e)``; O(N M) time, O(N + M) memory.
    """
    if torch.onnx.is_in_onnx_export():  # the operator's own form needs opset 14
        logits = (q * scale) @ k.transpose(-2, -1)
        return (logits if mask is None else logits + mask).softmax(-1) @ v
    width = v.shape[-1]
    if is_attention_unbatchable():
        with plain_attention():
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    if torch.jit.is_tracing() or q.shape[-1] == width:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    # The kernels that hold no weights want one width.
    q, k, v = (F.pad(t, (0, max(q.shape[-1], width) - t.shape[-1])) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)[..., :width]


def attend_with_weights(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what ``attend`` does, and the weights ``(B, heads, N, M)``."""
    logits = (q * scale) @ k.transpose(-2, -1)
    logits = logits if mask is None else logits + mask
    weights = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype)
    return weights @ v, weights
