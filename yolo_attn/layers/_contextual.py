"""CoT on the CPU: its result and its gradients on maps with their channels last, each read and written seldom.

Sums of products add up in one buffer, rectifiers and their gradients run in place, and the softmax over the pixels and
its gradient keep to the order of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fused import Rule, Tensors
from ._norm import Normaliser

Norms = tuple[Normaliser, Normaliser, Normaliser]
# Pixels from which on a sum of products over them runs faster in parts.
TALL = 3200


class Contextual(Rule):
    """The whole layer; the constants are the batch norms of the keys, the values and the mixture.

    Tensors: the map; weight of the key, value and mixing convolutions, each followed by weight and bias of its batch
    norm; weight and bias of the last convolution.
    """

    def compute(self, norms: Norms, *tensors: Tensor) -> tuple[Tensor, Tensors]:
        x, key, *key_affine = tensors[:4]
        value, *value_affine = tensors[4:7]
        mix, *mix_affine = tensors[7:10]
        last = tensors[10]
        b, c, h, w = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        t = _tokens(x)  # (B N, C)
        of_keys, of_x = mix.flatten(1).split(c, 1)
        key = key.contiguous(memory_format=torch.channels_last)
        k0 = F.conv2d(x, key, None, 1, key.shape[2] // 2, 1, c // key.shape[1])
        keys, *key_statistics = norms[0](k0, *key_affine)
        h0 = _map((_tokens(keys.relu_()) @ of_keys.t()).addmm_(t, of_x.t()), x)  # (B, C / 2, H, W)
        hidden, *mix_statistics = norms[2](h0, *mix_affine)
        # The mean of k * k outputs of a 1x1 convolution is one 1x1 convolution with the mean weights.
        weight = last.view(c, -1, last.shape[1]).mean(1)
        # The softmax over the pixels does not see the bias of its logits.
        weights = (_tokens(hidden.relu_()) @ weight.t()).view(b, h * w, c).softmax(1).view(-1, c)
        v0 = _map(t @ value.flatten(1).t(), x)
        values, *value_statistics = norms[1](v0, *value_affine)
        y = torch.addcmul(_tokens(keys), weights, _tokens(values))
        statistics = (*key_statistics, *value_statistics, *mix_statistics)
        return _map(y, x).contiguous(), (x, key, k0, keys, v0, values, h0, hidden, weights, weight, *statistics)

    def gradients(
        self, norms: Norms, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        _, _, key_weight, _, value, value_weight, _, mix, mix_weight, _, last, bias = tensors
        x, key, k0, keys, v0, values, h0, hidden, weights, weight, *statistics = kept
        b, c = x.shape[:2]
        t, g = _tokens(x), _tokens(grad.contiguous(memory_format=torch.channels_last))
        of_keys, of_x = mix.flatten(1).split(c, 1)

        g_values = g * weights
        share = (g_values * _tokens(values)).view(b, -1, c)
        g_logits = share.addcmul_(weights.view(b, -1, c), share.sum(1, keepdim=True), value=-1).view(-1, c)
        g_last = (_sum(g_logits, _tokens(hidden)) / (last.shape[0] // c)).unsqueeze(1)  # (C, 1, C / 2)
        g_last = g_last.expand(-1, last.shape[0] // c, -1).reshape(last.shape)

        g_hidden = _rectified(_map(g_logits @ weight, x), hidden)
        g_h0, *g_mix_affine = norms[2].backward(g_hidden, h0, mix_weight, *statistics[4:])
        g_h0 = _tokens(g_h0)
        g_mix = torch.cat([_sum(g_h0, _tokens(keys)), _sum(g_h0, t)], 1).view_as(mix)

        g_keys = _rectified(_map(torch.addmm(g, g_h0, of_keys), x), keys)
        g_k0, *g_key_affine = norms[0].backward(g_keys, k0, key_weight, *statistics[:2])
        side = key.shape[2] // 2
        gx, g_key, _ = torch.ops.aten.convolution_backward(
            g_k0, x, key, None, (1, 1), (side, side), (1, 1), False, (0, 0), c // key.shape[1], (needs[0], True, False)
        )

        g_v0, *g_value_affine = norms[1].backward(_map(g_values, x), v0, value_weight, *statistics[2:4])
        g_v0 = _tokens(g_v0)
        g_value = _sum(g_v0, t).view_as(value)
        if needs[0]:
            gx = _map(_tokens(gx).addmm_(g_h0, of_x).addmm_(g_v0, value.flatten(1)), x).contiguous()
        return (
            *(gx, g_key, *g_key_affine, g_value, *g_value_affine, g_mix, *g_mix_affine, g_last),
            torch.zeros_like(bias),
        )

    def plain(self, norms: Norms, *tensors: Tensor) -> Tensor:
        x, key, *key_affine = tensors[:4]
        value, *value_affine = tensors[4:7]
        mix, *mix_affine = tensors[7:10]
        last, bias = tensors[10:]
        c = x.shape[1]
        keys = F.conv2d(x, key, None, 1, key.shape[2] // 2, 1, c // key.shape[1])
        keys = norms[0].plain(keys, *key_affine).relu()
        hidden = norms[2].plain(F.conv2d(torch.cat([keys, x], 1), mix), *mix_affine).relu()
        logits = F.conv2d(hidden, last.unflatten(0, (c, -1)).mean(1), bias.unflatten(0, (c, -1)).mean(1))
        weights = logits.flatten(2).softmax(2).view_as(keys)
        return keys + weights * norms[1].plain(F.conv2d(x, value), *value_affine)


def _tokens(x: Tensor) -> Tensor:
    """Return a map with its channels last in memory as ``(B N, C)``, a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(y: Tensor, x: Tensor) -> Tensor:
    """Return ``(B N, C)`` as a map of the size of ``x``, channels last in memory."""
    return y.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """Return the products summed over the pixels: ``(B N, C), (B N, D) -> (C, D)``."""
    if a.shape[0] < TALL or a.shape[0] % 4:
        return a.t() @ b
    return (a.view(4, -1, a.shape[1]).transpose(1, 2) @ b.view(4, -1, b.shape[1])).sum(0)


def _rectified(grad: Tensor, y: Tensor) -> Tensor:
    """Turn the gradient of the rectified features ``y``, in place, into that of the features before."""
    return torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
