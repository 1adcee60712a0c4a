"""Batch norms taken into the linear maps before them, for inference."""

from __future__ import annotations

import torch
from torch import nn

Norm = nn.modules.batchnorm._BatchNorm


def fold_norm(parent: nn.Module, linear: str, norm: str) -> None:
    """Give ``parent``'s convolution or linear map the running statistics of its batch norm, which becomes the identity.

    Modules of another type are left alone: quantisers and parametrisations put theirs in the place of ours.

    Args:
        parent: Holds both.
        linear: Name of the ``Conv2d`` or ``Linear``.
        norm: Name of the batch norm behind it; there may be None.
    """
    module, bn = getattr(parent, linear), getattr(parent, norm)
    if type(module) not in (nn.Conv2d, nn.Linear) or not isinstance(bn, Norm) or bn.running_var is None:
        return
    with torch.no_grad():
        # In float64: the quotient of two roundings would show in the outputs.
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        bias = 0.0 if module.bias is None else module.bias.double()
        bias = bn.bias.double() + (bias - bn.running_mean.double()) * scale
        weight = module.weight.double() * scale.reshape(-1, *[1] * (module.weight.dim() - 1))
        grad = module.weight.requires_grad
        module.weight, module.bias = (nn.Parameter(t.to(module.weight.dtype), grad) for t in (weight, bias))
    setattr(parent, norm, nn.Identity().train(bn.training))
