"""Leaving autocast for the few computations that must not be rounded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast on the device of ``x``; older PyTorch has none for some devices and raises."""
    try:
        return torch.autocast(x.device.type, enabled=False)
    except RuntimeError:
        return nullcontext()
