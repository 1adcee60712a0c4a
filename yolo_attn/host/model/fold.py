"""Layers take part in the host's ``fuse()``: what can be computed once is not computed for every image.

The host folds the batch norms of its own convolutions only. A layer, or any part of one, that can rewrite itself for
inference has a method ``fold_for_inference()``: in place, the same outputs in eval mode, harmless when called again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn


def fuse_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``BaseModel.fuse`` that folds our layers too, first, so that the summary it prints counts what is left."""

    @functools.wraps(original)
    def fuse(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        fold(self)
        return original(self, *args, **kwargs)

    return fuse


def fold(model: nn.Module) -> None:
    """Call ``fold_for_inference()`` of every module of ``model`` that has it."""
    for module in list(model.modules()):
        rewrite = getattr(module, "fold_for_inference", None)
        if callable(rewrite):
            rewrite()
