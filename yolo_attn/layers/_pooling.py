"""Maps summed up with weights that depend on them: over the pixels and over the channels."""

from __future__ import annotations

import torch
from einops import einsum
from torch import Tensor

from ._precision import no_autocast


def softmax_mean(x: Tensor, logits: Tensor) -> Tensor:
    """Return the mean of the pixels weighted by the softmax of their logits: ``(B, C, H, W) -> (B, C, 1, 1)``.

    A weight is about 1 / N, so weights and sum stay in float32.

    Args:
        x: The map.
        logits: One of each pixel, ``(B, 1, H, W)``.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with no_autocast(x):
        weights = logits.flatten(2).softmax(2, dtype=dtype)  # (B, 1, N)
        mean = x.flatten(2).to(dtype) @ weights.transpose(1, 2)  # (B, C, 1)
    return mean[..., None].to(x.dtype)


def channel_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the channels in float32: ``(B, C, H, W), (B, C, 1, 1) -> (B, 1, H, W)``."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    with no_autocast(x):
        return einsum(x.to(dtype), weights.flatten(1).to(dtype), "b c h w, b c -> b h w")[:, None]
