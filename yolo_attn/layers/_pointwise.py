"""Linear maps of every pixel as matrix products, where that is faster than the modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._eager import is_eager_cpu, is_unhooked

# Pixels from which on the change of layout costs more than it gains.
LARGE_MAP = 1024
# Pixels of a batch up to which a matrix product beats a convolution on a map with its channels last.
FEW_PIXELS = 8192


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution of stride 1 and one group.

    On a CPU the backward pass of a convolution changes the layout of whole maps, that of a product does not. Forward
    alone a map with its channels first takes the same time either way, so the module itself runs.

    Shape:
        ``(B, C, H, W) -> (B, C', H, W)``.
    """
    if is_bare(conv) and (is_recorded(x, conv.weight) or _is_tokens(x, conv.weight)):
        return project(conv.weight, conv.bias, x)
    return conv(x)


def project(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Convolve ``x`` with ``weight``, (C', C, 1, 1); see ``pointwise``."""
    if _is_tokens(x, weight):
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    if not (is_recorded(x, weight) and x.is_contiguous() and x.shape[2] * x.shape[3] >= LARGE_MAP):
        return F.conv2d(x, weight, bias)
    weight = weight.flatten(1).expand(x.shape[0], -1, -1)
    y = weight @ x.flatten(2) if bias is None else torch.baddbmm(bias[:, None], weight, x.flatten(2))
    return y.unflatten(2, x.shape[2:])


def linear(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a linear layer or a 1x1 convolution (stride 1, one group) to every pixel; the same as calling the module.

    On a CPU a product of matrices needs no change of the layout, forward or backward.

    Shape:
        ``(B, C, N) -> (B, C', N)`` with a linear layer, ``(B, C, H, W) -> (B, C', H, W)`` with a convolution.
    """
    if not (is_eager_cpu(x) and x.dtype == module.weight.dtype and is_bare(module)):
        return module(x) if isinstance(module, nn.Conv2d) else module(x.transpose(1, 2)).transpose(1, 2)
    weight, bias, pixels = module.weight.flatten(1), module.bias, x.flatten(2)
    if x.shape[0] == 1:  # a batch would cost a copy of the weight's gradient
        pixels = pixels.squeeze(0)
        y = weight @ pixels if bias is None else torch.addmm(bias[:, None], weight, pixels)
    else:
        weight = weight.expand(x.shape[0], -1, -1)
        y = weight @ pixels if bias is None else torch.baddbmm(bias[:, None], weight, pixels)
    return y.view(x.shape[0], weight.shape[-2], *x.shape[2:])


def _is_tokens(x: Tensor, weight: Tensor) -> bool:
    """Tell whether the map is a matrix of few pixels in memory, so that its product beats the convolution."""
    few = x.shape[0] * x.shape[2] * x.shape[3] <= FEW_PIXELS and not x.is_contiguous()
    is_matrix = few and x.is_contiguous(memory_format=torch.channels_last)
    return is_matrix and x.dtype == weight.dtype and is_eager_cpu(x)


def is_bare(module: nn.Module) -> bool:
    """Tell whether nobody replaced or hooked the module, as counters of operations do, and so wants it called."""
    return type(module) in (nn.Conv2d, nn.Linear) and is_unhooked(module)


def is_recorded(x: Tensor, weight: Tensor) -> bool:
    """Tell whether a backward pass on a CPU may follow."""
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return recorded and x.dtype == weight.dtype and is_eager_cpu(x)
