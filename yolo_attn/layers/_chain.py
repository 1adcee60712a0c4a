"""Chains of linear maps, batch norms and ReLUs, forward and backward by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fused import Tensors
from ._norm import Normaliser
from ._windows import convolve_windows, convolve_windows_backward, pixel_products, times

# Per link: weight and bias of the linear map, weight and bias of its norm; at the end those of the last linear map.
_LINK = 4


def run_chain(a: Tensor, tensors: Tensors, norms: Iterable[Normaliser | None], dilation: int) -> tuple[Tensor, list]:
    """Return the last linear map's result, and the features between all steps for ``chain_gradients``.

    A link is a linear map, a batch norm and a ReLU. A weight of two dimensions maps vectors, (B, C); one of four is a
    convolution of maps, 1x1 or dilated.
    """
    kept: list[Any] = [a]
    for i, norm in enumerate(norms):
        weight, bias, gamma, beta = tensors[_LINK * i : _LINK * i + _LINK]
        z = _linear(a, weight, bias, dilation)
        if norm is None:
            a, statistics = z.relu_(), (None, None, None)
        else:
            a, *rest = norm(z, gamma, beta)
            a, statistics = a.relu_(), (z, *rest)
        kept += [*statistics, a]
    return _linear(a, *tensors[-2:], dilation), kept


def chain_gradients(
    grad: Tensor, tensors: Tensors, norms: Sequence[Normaliser | None], kept: Tensors, dilation: int
) -> tuple[Tensor, list[Any]]:
    """Return the gradients of the first link's result before its norm, and of ``tensors`` but for the first weight.

    The first linear map reads the layer's own map, which has other gradients to join: the caller goes on.
    """
    grads: list[Any] = []
    weight = tensors[-2]
    for i in reversed(range(len(norms))):
        z, mean, scale, a = kept[_LINK * i + 1 : _LINK * i + 5]
        bias = tensors[_LINK * i + 5]
        grads[:0] = [None, None if bias is None else _bias_gradient(grad)]
        grad, grads[0] = _linear_backward(grad, a, weight, dilation)
        grad = torch.ops.aten.threshold_backward(grad, a, 0)
        norm, gamma = norms[i], tensors[_LINK * i + 2]
        dgamma = dbeta = None
        if norm is not None:
            grad, dgamma, dbeta = norm.backward(grad, z, gamma, mean, scale)
        grads[:0] = [dgamma, dbeta]
        weight = tensors[_LINK * i]
    grads[:0] = [None, None if tensors[1] is None else _bias_gradient(grad)]
    return grad, grads


def plain_chain(a: Tensor, tensors: Tensors, norms: Iterable[Normaliser | None], dilation: int) -> Tensor:
    """Return the same result in operations that autograd knows."""
    for i, norm in enumerate(norms):
        weight, bias, gamma, beta = tensors[_LINK * i : _LINK * i + _LINK]
        z = _plain_linear(a, weight, bias, dilation)
        a = (z if norm is None else norm.plain(z, gamma, beta)).relu()
    return _plain_linear(a, *tensors[-2:], dilation)


def _linear(a: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    if weight.dim() == 2:
        return F.linear(a, weight, bias)
    if weight.shape[2] > 1:
        return convolve_windows(a, weight, bias, dilation)
    y = times(weight.flatten(1), a.flatten(2)).unflatten(2, a.shape[2:])
    return y if bias is None else y.add_(bias.view(-1, 1, 1))


def _linear_backward(grad: Tensor, a: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
    if weight.dim() == 2:
        return grad.mm(weight), grad.t().mm(a)
    if weight.shape[2] > 1:
        return convolve_windows_backward(grad, a, weight, dilation)
    return times(weight.flatten(1).t(), grad.flatten(2)).view_as(a), pixel_products(
        grad.flatten(2), a.flatten(2)
    ).view_as(weight)


def _bias_gradient(grad: Tensor) -> Tensor:
    return grad.sum((0, *range(2, grad.dim())))


def _plain_linear(a: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    if weight.dim() == 2:
        return F.linear(a, weight, bias)
    return F.conv2d(a, weight, bias, 1, weight.shape[2] // 2 * dilation, dilation)
