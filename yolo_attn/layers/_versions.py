"""What differs between versions of PyTorch, 2.1 and later; no other file asks for one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

# PyTorch 2.3 gave the first its public place; both are what the compiler takes for true.
is_compiling: Callable[[], bool] = getattr(torch.compiler, "is_compiling", torch._utils.is_compiling)
# How many modes watch every operation.
count_watchers: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", int)
# The fused attention for CPUs cannot be batched before PyTorch 2.3.
_BATCHES_ATTENTION = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")


def is_transformed() -> bool:
    """Return whether operations run under a transform of ``torch.func``."""
    return torch._C._are_functorch_transforms_active()


def is_attention_unbatchable() -> bool:
    """Return whether ``torch.func`` is at work and has no rule for the fused attention."""
    return not (_BATCHES_ATTENTION or is_compiling() or torch.jit.is_tracing()) and is_transformed()


def plain_attention() -> AbstractContextManager[Any]:
    """Return a context in which ``scaled_dot_product_attention`` is made of operations that can be batched."""
    return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_math=True, enable_mem_efficient=False)


def autocast_dtype() -> torch.dtype | None:
    """Return what autocast computes products in on the CPU, or None if it is off."""
    try:
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    except (AttributeError, TypeError):  # before PyTorch 2.4
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
