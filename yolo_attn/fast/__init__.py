"""Faster forms of what ``yolo_attn.layers`` computes. Optional: with this folder deleted everything still runs.

A form is a function without state that gives the same result, or ``NotImplemented`` where it does not apply. ``FORMS``
lists them all. Only ``yolo_attn.layers._fast`` asks for one, and only for operations that run at once: what traces,
compiles, exports, transforms or counts sees the plain forms. ``YOLO_ATTN_FAST=0`` or ``with plain():`` turns all off.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..layers._versions import count_watchers, is_compiling, is_transformed
from ..switches import is_off

# What is computed, below ``yolo_attn.layers`` -> device -> the form, below this package.
FORMS: dict[str, dict[str, str]] = {
    "_attention.attend": {"cpu": "cpu.attention:attend"},
    "_depthwise.depthwise": {"cpu": "cpu.depthwise:depthwise"},
    "caa.box_mean": {"cpu": "cpu.box_mean:box_mean"},
    "cpca.CPCA.forward": {"cpu": "cpu.cpca:forward"},
    "criss_cross.CrissCross._attend": {"cpu": "cpu.criss_cross:attend"},
}

_is_on = ContextVar("fast", default=not is_off("YOLO_ATTN_FAST"))


@contextmanager
def plain() -> Iterator[None]:
    """Compute every layer by its own forward in this block (and thread).

    The backward pass of a checkpointed part computes it again, so it belongs into the block too.

    Example:
        >>> with plain():
        ...     y = layer(x)
    """
    token = _is_on.set(False)
    try:
        yield
    finally:
        _is_on.reset(token)


def find(name: str, args: Sequence[Any]) -> Callable[..., Any] | None:
    """Return the form that may stand in for ``name`` called with ``args``, or None.

    Args:
        name: A key of ``FORMS``.
        args: The positional arguments; the first tensor among them says where the computation runs.
    """
    forms = FORMS.get(name)
    if forms is None or is_compiling() or not _is_on.get():
        return None
    x = next((a for a in args if isinstance(a, Tensor)), None)
    path = None if x is None else forms.get(x.device.type)
    return _load(path) if path and is_immediate(x) and x.numel() else None


def is_immediate(x: Tensor) -> bool:
    """Tell whether operations on ``x`` run at once and unwatched.

    Not so while they are traced, compiled, transformed, simulated, counted, or differentiated forward.
    """
    if type(x) not in (Tensor, nn.Parameter) or is_compiling() or torch.jit.is_tracing() or count_watchers():
        return False
    return forward_ad._current_level < 0 and not is_transformed()


@functools.cache
def _load(path: str) -> Callable[..., Any]:
    module, _, function = path.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)
