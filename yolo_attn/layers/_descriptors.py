"""DoubleAttention on the CPU: its result and its gradients with every softmax and product in the order that suits it.

Logits and weights are held pixel by pixel, ``(B, N, n)``: so the products read and write long rows, and the softmax
over the descriptors runs along the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fused import Rule, Tensors
from ._windows import pixel_products


class Descriptors(Rule):
    """The layer with its outer convolutions on the descriptors; the constant says whether it adds the input.

    Tensors: the map, then weight and bias of ``convA``, ``convB``, ``convV`` and perhaps ``conv_reconstruct``.
    """

    def compute(self, residual: bool, *tensors: Tensor) -> tuple[Tensor, Tensors]:
        x, a, a_bias, to_pick, _, to_blend, blend_bias, *reconstruct = tensors
        b, pixels = x.shape[0], x.flatten(2).transpose(1, 2)  # (B, N, C)
        # The softmax over the pixels does not see the bias of its logits.
        pick = torch.bmm(pixels, _batch(to_pick, b).transpose(1, 2)).softmax(1)  # (B, N, n)
        blend = torch.baddbmm(blend_bias, pixels, _batch(to_blend, b).transpose(1, 2)).softmax(2)  # (B, N, n)
        gathered = torch.bmm(pixels.transpose(1, 2), pick)  # (B, C, n)
        features = y = torch.baddbmm(a_bias[:, None], _batch(a, b), gathered)  # (B, m, n)
        if reconstruct:
            y = torch.baddbmm(reconstruct[1][:, None], _batch(reconstruct[0], b), features)  # (B, C, n)
        kept = (pick, blend, gathered, features, y)
        y = _spread(y, blend).view(b, -1, *x.shape[2:])
        return y.add_(x) if residual else y, kept

    def gradients(
        self, residual: bool, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        x, a, _, to_pick, pick_bias, to_blend, _, *reconstruct = tensors
        pick, blend, gathered, features, y = kept
        b, flat, g = x.shape[0], x.flatten(2), grad.flatten(2)  # (B, C, N)
        g_y = torch.bmm(g, blend)  # (B, C, n)
        g_blend = torch.bmm(g.transpose(1, 2), y)  # (B, N, n)
        # In place: the gradient of the logits.
        torch.ops.aten._softmax_backward_data.out(g_blend, blend, 2, blend.dtype, grad_input=g_blend)
        outer: list[Tensor | None] = []
        if reconstruct:
            outer = [pixel_products(g_y, features).view_as(reconstruct[0]), g_y.sum((0, 2))]
            g_y = torch.bmm(_batch(reconstruct[0], b).transpose(1, 2), g_y)  # (B, m, n)
        g_a, g_a_bias = pixel_products(g_y, gathered).view_as(a), g_y.sum((0, 2))
        g_gathered = torch.bmm(_batch(a, b).transpose(1, 2), g_y)  # (B, C, n)
        g_pick = torch.bmm(flat.transpose(1, 2), g_gathered).mul_(pick)  # (B, N, n)
        g_pick.addcmul_(pick, g_pick.sum(1, keepdim=True), value=-1)
        gx = None
        if needs[0]:
            gx = torch.bmm(pick, g_gathered.transpose(1, 2))  # (B, N, C)
            gx = gx.baddbmm_(g_pick, _batch(to_pick, b)).baddbmm_(g_blend, _batch(to_blend, b))
            gx = gx.transpose(1, 2).reshape(x.shape)
            gx = gx.add_(grad) if residual else gx
        g_to_pick, g_to_blend = (
            pixel_products(flat, t.transpose(1, 2)).t().reshape(w.shape)
            for t, w in ((g_pick, to_pick), (g_blend, to_blend))
        )
        return gx, g_a, g_a_bias, g_to_pick, torch.zeros_like(pick_bias), g_to_blend, g_blend.sum((0, 1)), *outer

    def plain(self, residual: bool, *tensors: Tensor) -> Tensor:
        x, *parts = tensors
        features, pick, blend, *reconstruct = (
            F.conv2d(x, *parts[i : i + 2]).flatten(2) if i < 6 else parts[i : i + 2] for i in range(0, len(parts), 2)
        )
        y = (features @ pick.softmax(2).transpose(1, 2) @ blend.softmax(1)).unflatten(2, x.shape[2:])
        y = F.conv2d(y, *reconstruct[0]) if reconstruct else y
        return x + y if residual else y


def _batch(weight: Tensor, b: int) -> Tensor:
    """Return the weight of a 1x1 convolution as a matrix for each image."""
    return weight.flatten(1).expand(b, -1, -1)


def _spread(y: Tensor, blend: Tensor) -> Tensor:
    """Return each pixel's blend of the descriptors: ``(B, C, n), (B, N, n) -> (B, C, N)``."""
    b, c, n = y.shape
    if b > 1 or c % 2:
        return torch.bmm(y, blend.transpose(1, 2))
    return torch.bmm(y.view(2, c // 2, n), blend.transpose(1, 2).expand(2, -1, -1))  # each thread its own product
