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
from torch.autograd import Function

from ._eager import is_eager_cpu, is_unhooked, without_autocast

Type = type | tuple[type, ...]
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


def is_fusible(x: Tensor, parts: Sequence[nn.Module], types: Sequence[Type]) -> bool:
    """Tell whether a layer may compute its result from its parts' tensors instead of calling them.

    Not if somebody replaced a part or hooked it, as counters of operations do, and so wants it called.

    Args:
        x: The map.
        parts: The layer's modules.
        types: What each of them must be.
    """
    if not (is_eager_cpu(x) and x.is_contiguous() and x.numel() and len(parts) == len(types)):
        return False
    for part, wanted in zip(parts, types, strict=True):
        kind = type(part)
        if kind is not wanted and (type(wanted) is not tuple or kind not in wanted):
            return False
        weight = part._parameters.get("weight")
        if (weight is not None and weight.dtype is not x.dtype) or not is_unhooked(part):
            return False
        if kind is nn.Conv2d and part.padding_mode != "zeros":
            return False
    return True


def children(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return the modules in a module, whatever it is."""
    return tuple(child for child in module._modules.values() if child is not None)


class _Fused(Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, constants: Any, *tensors: Any) -> Tensor:
        y, kept = rule.compute(constants, *tensors)
        ctx.rule, ctx.constants, ctx.count = rule, constants, len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        return y

    @staticmethod
    @without_autocast
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
