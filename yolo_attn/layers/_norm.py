"""Norms: applied to any batch; batch norms also taken into the linear maps before them for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = nn.modules.batchnorm._BatchNorm


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm`` to ``x``.

    In train mode the variance of a single value per channel is undefined and PyTorch raises. Such a batch (one image
    with a 1x1 map: the last batch of an epoch can be one) is normalised with the running statistics, which it leaves
    alone.

    ``norm`` may be the identity that ``fold_norm`` left. ``eps`` is read at run time because the host changes it.
    """
    if isinstance(norm, Norm) and norm.training and x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    return norm(x)


def group_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm`` to ``x``.

    A single value is the mean of its group, so the norm's bias remains of it; PyTorch refuses it, in eval mode too.
    """
    if type(norm) is nn.GroupNorm and x.numel() == norm.num_groups:
        return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return norm(x)


def fold_norm(parent: nn.Module, linear: str, norm: str) -> None:
    """Give ``parent``'s convolution or linear map the running statistics of its batch norm, which becomes the identity.

    Modules of another type are left alone: quantisers and parametrisations put theirs in the place of ours. There may
    be no norm.
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
