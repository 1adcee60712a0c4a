"""Recorded graphs: traces, exported programs and compiled ones, which have to serve other maps than their example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._versions import is_compiling


def is_recorded() -> bool:
    """Return whether the computation is written down now, by a trace, ``torch.export`` or ``torch.compile``."""
    return torch.jit.is_tracing() or is_compiling()


def at_least(n: Any, least: int) -> Any:
    """Return the larger of a side of a map and a number, in a trace too, where ``max`` would keep one of them."""
    return n.clamp(min=least) if isinstance(n, Tensor) else max(n, least)
