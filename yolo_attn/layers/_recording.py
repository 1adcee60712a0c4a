"""Recorded graphs: traces, exported programs and compiled ones, which have to serve other maps than their example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_recorded() -> bool:
    """Return whether the computation is written down now, by a trace, ``torch.export`` or ``torch.compile``."""
    return torch.jit.is_tracing() or getattr(torch.compiler, "is_compiling", bool)()  # PyTorch 2.1 has none


def at_least(n: Any, least: int) -> Any:
    """Return the larger of a side of a map and a number, in a trace too, where ``max`` would keep one of them."""
    return n.clamp(min=least) if isinstance(n, Tensor) else max(n, least)
