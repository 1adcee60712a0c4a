"""Whole layers as one autograd node, for eager CPU runs.

On maps that fit into the cache, autograd's nodes and the passes over the map between them take most of a gate's time.
A rule says a layer's function three times: fast, with gradients written by hand, and in plain operations. The plain
form serves exporters, compilers and other devices, and second derivatives; the other two equal it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad

from ._eager import is_eager_cpu

Tensors = Sequence[Any]  # of tensors; an absent bias is None


class Rule:
    """A function of some tensors, the first of which is the map, and of constants that fit no tensor."""

    def compute(self, constants: Any, *tensors: Any) -> tuple[Tensor, Tensors]:
        """Return the result and what ``gradients`` needs beside ``tensors``, none of which changes later."""
        raise NotImplementedError

    def gradients(
        self, constants: Any, grad: Tensor, tensors: Tensors, kept: Tensors, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """Return the gradient of each of ``tensors``: None for None, and anything where ``needs`` is False.

        Args:
            constants: As in ``compute``.
            grad: Gradient of the result, contiguous.
            tensors: As in ``compute``.
            kept: What ``compute`` returned.
            needs: For each tensor, whether its gradient is wanted.
        """
        raise NotImplementedError

    def plain(self, constants: Any, *tensors: Any) -> Tensor:
        """Return the result in operations that autograd knows, without side effects."""
        raise NotImplementedError


def fused(rule: Rule, constants: Any, *tensors: Any) -> Tensor:
    """Return ``rule``'s result as one node of the graph; call it only if ``is_fusible``."""
    if torch.is_grad_enabled():
        return _Fused.apply(rule, constants, *tensors)
    return rule.compute(constants, *tensors)[0]


def weights_and_biases(modules: Iterable[nn.Module]) -> list[Tensor | None]:
    """Return the weight and the bias of each module in turn, None for what is not there."""
    return [_attribute(module, name) for module in modules for name in ("weight", "bias")]


def _attribute(module: nn.Module, name: str) -> Tensor | None:
    # A module's own way to its attributes is slow, and a layer may read dozens.
    return module._parameters[name] if name in module._parameters else getattr(module, name, None)


PARTS = frozenset((nn.Sequential, nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.Sigmoid))


def is_fusible(x: Tensor, weight: Tensor, parts: Iterable[nn.Module], types: frozenset[type] = PARTS) -> bool:
    """Tell whether a layer may compute its result from its parts' tensors instead of calling them.

    Not if somebody replaced a part or hooked it, as counters of operations do, and so wants it called; and not for
    derivatives other than those of the graph.

    Args:
        x: The map.
        weight: One of the layer's weights.
        parts: The layer's modules.
        types: What they may be.
    """
    if not (is_eager_cpu(x) and x.dtype is weight.dtype and x.is_contiguous() and x.numel()):
        return False
    for part in parts:
        if type(part) not in types or part._forward_hooks or part._forward_pre_hooks:
            return False
        if part._backward_hooks or part._backward_pre_hooks:
            return False
    return not torch._C._are_functorch_transforms_active() and forward_ad.unpack_dual(x).tangent is None


class _Fused(Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, constants: Any, *tensors: Any) -> Tensor:
        y, kept = rule.compute(constants, *tensors)
        ctx.rule, ctx.constants, ctx.count = rule, constants, len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[2:]
        tensors, kept = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():  # a second derivative may follow
            return None, None, *_differentiable(ctx.rule, ctx.constants, grad, tensors, needs)
        grads = ctx.rule.gradients(ctx.constants, grad.contiguous(), tensors, kept, needs)
        return None, None, *grads


def _differentiable(
    rule: Rule, constants: Any, grad: Tensor, tensors: Tensors, needs: Sequence[bool]
) -> list[Tensor | None]:
    # One tensor may have been computed from another: through the views only this layer's own paths count.
    views = [t if t is None else t.view_as(t) for t in tensors]
    wanted = [view for view, need in zip(views, needs, strict=True) if need]
    found = iter(torch.autograd.grad(rule.plain(constants, *views), wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needs]
