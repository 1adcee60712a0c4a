"""Batch normalisation that also trains on a batch with one value per channel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._fold import Norm


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm`` to ``x``.

    In train mode the variance of a single value per channel is undefined and PyTorch raises. Such a batch (one image
    with a 1x1 map: the last batch of an epoch can be one) is normalised with the running statistics, which it leaves
    alone.

    Args:
        norm: The batch norm module, or the identity that ``fold_norm`` left of it. ``eps`` and ``momentum`` are read at
            run time because the host changes them.
        x: The features.

    Shape:
        ``(B, C)`` or ``(B, C, H, W)`` -> same.
    """
    if isinstance(norm, Norm) and norm.training and x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    return norm(x)


class Normaliser(NamedTuple):
    """What a batch norm does to one batch, for layers that write their gradients by hand.

    Attributes:
        mean: Running mean, if there is one.
        var: Running variance.
        is_batch: Normalise with the statistics of the batch, and move the running ones towards them.
        momentum: How far.
        eps: Added to the variance.
    """

    mean: Tensor | None
    var: Tensor | None
    is_batch: bool
    momentum: float
    eps: float

    def __call__(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalised features, which the caller may overwrite, and two tensors for ``backward``."""
        y, mean, scale = torch.native_batch_norm(x, weight, bias, *self[:2], self.is_batch, self.momentum, self.eps)
        if self.is_batch:
            return y, mean, scale
        return y, self.mean, self.var  # type: ignore[return-value]

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor) -> list[Tensor]:
        """Return the gradients of the features, the weight and the bias."""
        statistics = (None, None, mean, scale) if self.is_batch else (mean, scale, None, None)
        return torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, *statistics, self.is_batch, self.eps, [True, weight is not None, weight is not None]
        )

    def plain(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return the normalised features in operations that autograd knows; statistics stay as they are."""
        mean, var = (None, None) if self.is_batch else self[:2]
        return F.batch_norm(x, mean, var, weight, bias, self.is_batch, 0.0, self.eps)


def normaliser(norm: nn.Module, count: int) -> Normaliser | None:
    """Return what ``batch_norm`` would do to a batch with ``count`` values per channel; None for the identity.

    A batch that moves the running statistics is counted here.
    """
    if not isinstance(norm, Norm):
        return None
    mean, var, batches = (norm._buffers.get(name) for name in ("running_mean", "running_var", "num_batches_tracked"))
    if norm.training and not norm.track_running_stats and count > 1:
        mean = var = None
    moves = norm.training and mean is not None and count > 1
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if moves and batches is not None:
        batches.add_(1)
        if norm.momentum is None:
            momentum = 1 / batches.item()
    return Normaliser(mean, var, moves or mean is None, momentum, norm.eps)
