"""Linear maps of all pixels, on maps as they lie in memory: a row of pixels per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._eager import is_eager_cpu


def linear(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a linear layer or a 1x1 convolution (stride 1, one group) to every pixel; the same as calling the module.

    On a CPU a product of matrices needs no change of the layout, forward or backward.

    Shape:
        ``(B, C, N) -> (B, C', N)`` with a linear layer, ``(B, C, H, W) -> (B, C', H, W)`` with a convolution.
    """
    if not (is_eager_cpu(x) and x.dtype == module.weight.dtype and _is_bare(module)):
        return module(x) if isinstance(module, nn.Conv2d) else module(x.transpose(1, 2)).transpose(1, 2)
    weight, bias, pixels = module.weight.flatten(1), module.bias, x.flatten(2)
    if x.shape[0] == 1:  # a batch would cost a copy of the weight's gradient
        pixels = pixels.squeeze(0)
        y = weight @ pixels if bias is None else torch.addmm(bias[:, None], weight, pixels)
    else:
        weight = weight.expand(x.shape[0], -1, -1)
        y = weight @ pixels if bias is None else torch.baddbmm(bias[:, None], weight, pixels)
    return y.view(x.shape[0], -1, *x.shape[2:])


def _is_bare(module: nn.Module) -> bool:
    """Tell whether nobody replaced or hooked the module, as counters of operations do, and so wants it called."""
    return type(module) in (nn.Linear, nn.Conv2d) and not (module._forward_hooks or module._forward_pre_hooks)
