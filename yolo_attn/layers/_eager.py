"""When a computation may be chosen for what the eager CPU kernels do well.

Exporters and compilers record what they see and choose kernels themselves, so they get the plain form.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

_FULL = (torch.float32, torch.float64)
_is_compiling = getattr(torch.compiler, "is_compiling", bool)  # PyTorch 2.1 has none: False


def is_eager(x: Tensor) -> bool:
    """Tell whether operations on ``x`` run at once, rather than being traced, compiled, transformed or only simulated.

    Forward-mode derivatives and the transforms of ``torch.func`` go through the plain operations.
    """
    if type(x) is not Tensor or _is_compiling() or torch.jit.is_tracing():
        return False
    return forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()


def is_eager_cpu(x: Tensor) -> bool:
    """Tell whether operations on ``x`` run at once, on the CPU and in its precision, float32 or float64."""
    return x.is_cpu and x.dtype in _FULL and is_eager(x) and not _is_autocast()


def is_unhooked(module: nn.Module) -> bool:
    """Tell whether nobody hooked a module, as counters of operations do, and so wants it called."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not (hooked or modules._has_any_global_hook())


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the backward pass of a function: its operations on kept tensors must not be cast if autocast is on."""

    @functools.wraps(backward)
    def call(*args: Any) -> Any:
        if not _is_autocast():
            return backward(*args)
        with torch.autocast("cpu", enabled=False):
            return backward(*args)

    return call


def autocast_dtype() -> torch.dtype | None:
    """Return what autocast computes products in on the CPU, or None if it is off."""
    if not _is_autocast():
        return None
    try:
        return torch.get_autocast_dtype("cpu")
    except AttributeError:  # before PyTorch 2.4
        return torch.get_autocast_cpu_dtype()


def _is_autocast() -> bool:
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # before PyTorch 2.4
        return torch.is_autocast_cpu_enabled()
