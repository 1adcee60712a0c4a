"""Memory formats of maps: what a layer computes in, and what it hands back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._eager import is_eager


def channels_last(x: Tensor) -> Tensor:
    """Return the map ``x`` with its channels last in memory where eager CPU kernels run; elsewhere as it is.

    Products and depthwise convolutions there are up to six times as fast in this format. The layer ends with ``like``.
    """
    return as_format(x, torch.channels_last) if x.device.type == "cpu" and is_eager(x) else x


def like(y: Tensor, x: Tensor) -> Tensor:
    """Return the map ``y`` in the memory format of ``x``.

    Tokens seen as a map are channels-last in memory. Handed on as they are, they would change the format of every layer
    behind, which some convolution backends punish.
    """
    format = format_of(x)
    return as_format(y, format) if is_eager(y) else y.contiguous(memory_format=format)


def as_format(x: Tensor, format: torch.memory_format) -> Tensor:
    """Return the map in a memory format."""
    if x.is_contiguous(memory_format=format):
        return x
    if x.requires_grad and torch.is_grad_enabled():
        return _Format.apply(x, format)  # type: ignore[no-any-return]
    return x.contiguous(memory_format=format)


def format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format of a map: contiguous, or channels last where only that fits."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class _Format(Function):
    """Change the format; the gradient gets that of the input, where ``contiguous`` would leave it in the other one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, format: torch.memory_format) -> Tensor:
        ctx.format = format_of(x)
        return x.contiguous(memory_format=format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return as_format(grad, ctx.format), None
