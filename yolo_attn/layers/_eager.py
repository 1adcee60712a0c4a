"""When a computation may be chosen for what the eager CPU kernels do well.

Exporters and compilers record what they see and choose kernels themselves, so they get the plain form.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FULL = (torch.float32, torch.float64)
_is_compiling = getattr(torch.compiler, "is_compiling", bool)  # PyTorch 2.1 has none: False


def is_eager(x: Tensor) -> bool:
    """Tell whether operations on ``x`` run at once, rather than being traced, compiled or only simulated."""
    return type(x) is Tensor and not (_is_compiling() or torch.jit.is_tracing())


def is_eager_cpu(x: Tensor) -> bool:
    """Tell whether operations on ``x`` run at once, on the CPU and in its precision, float32 or float64."""
    return x.is_cpu and x.dtype in _FULL and is_eager(x) and not _is_autocast()


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
