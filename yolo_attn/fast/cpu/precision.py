"""Autocast as the forms see it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

FULL = (torch.float32, torch.float64)


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the backward pass of a function: its operations on kept tensors must not be cast if autocast is on."""

    @functools.wraps(backward)
    def call(*args: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return backward(*args)

    return call
