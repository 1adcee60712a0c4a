"""What an old checkpoint holds: a model of rows as shells, or a bare state dict, and the plain data beside it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import CheckpointError
from ..opening import open_as_shells
from ..shells import Shell

# Where training scripts put a model or its tensors, the better ones first.
_PARTS = ("ema", "ema_state_dict", "model", "model_state_dict", "state_dict", "net", "weights", "params")
_WRAPPERS = ("module", "_orig_mod")  # of data parallel and compiled models
_ROW = re.compile(r"(.*?)(\d+\..+)")


@dataclass(frozen=True)
class Old:
    """An old checkpoint.

    Attributes:
        file: Where it lies.
        content: Its plain data: arguments of the training, metrics, date.
        tensors: Its tensors, under the keys of a model of rows.
        model: The model's shell; None for a bare state dict.
    """

    file: Path
    content: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    model: Shell | None

    @property
    def config(self) -> dict[str, Any]:
        """The model's own YAML, as data."""
        return plain(vars(self.model)["yaml"]) if self.model else {}

    def row(self, index: int) -> Shell | None:
        """Return the module of a row."""
        rows = self.model.children().get("model") if self.model else None
        return rows.children().get(str(index)) if rows else None


def read_old(file: str | Path) -> Old:
    """Read a checkpoint without running anything that it names.

    Raises:
        CheckpointError: If it is no checkpoint of a model of rows.
        FileNotFoundError: If it is not there.
    """
    content = open_as_shells(file)
    parts = [content, *(content.get(name) for name in _PARTS)] if isinstance(content, Mapping) else [content]
    for part in parts:
        model = _unwrapped(part)
        if isinstance(model, Shell):
            _check_kin(file, model)
            beside = {key: plain(value) for key, value in content.items()} if isinstance(content, dict) else {}
            return Old(Path(file), beside, model.tensors(), model)
        if isinstance(part, Mapping) and part and all(isinstance(value, torch.Tensor) for value in part.values()):
            return Old(Path(file), {}, _as_rows(file, part), None)
    found = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(f"{file} holds no model and no state dict that yolo-attn can find; it holds {found or '{}'}")


def plain(value: Any) -> Any:
    """Return data without the objects in it: a namespace is a dictionary, any other shell None."""
    if isinstance(value, Shell):
        return plain(dict(vars(value))) if value.class_name.endswith("Namespace") else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(plain(item) for item in value)
    kept = (bool, int, float, str, bytes, torch.Tensor, np.ndarray, np.generic, datetime.date)
    return value if isinstance(value, kept) else None


def _unwrapped(part: Any) -> Any:
    """Return the shell of a model of rows in what a file holds."""
    while isinstance(part, Shell) and not isinstance(vars(part).get("yaml"), Mapping):
        inner = next((child for name, child in part.children().items() if name in (*_WRAPPERS, "model")), None)
        if inner is None:
            return None
        part = inner
    return part


def _check_kin(file: str | Path, model: Shell) -> None:
    if model.path.startswith("models."):
        raise CheckpointError(
            f"{file} was saved by YOLOv5 or one of its kin ({model.path}), not by Ultralytics' yolo; its blocks are "
            "other ones, and yolo-attn cannot take its weights"
        )
    config = vars(model)["yaml"]
    if not all(isinstance(config.get(part), (list, tuple)) for part in ("backbone", "head")):
        raise CheckpointError(f"{file}: the model in it, {model.path}, has no rows (backbone and head)")


def _as_rows(file: str | Path, state: Mapping[Any, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict under the keys of a model of rows, whatever stands before the row's number."""
    found = {key: _ROW.fullmatch(str(key)) for key in state}
    before = {match[1] for match in found.values() if match}
    if len(before) != 1 or re.search(r"\d", next(iter(before))):
        raise CheckpointError(
            f"{file} holds tensors, but not those of a model of rows: {', '.join(map(str, list(state)[:4]))}, ..."
        )
    return {f"model.{match[2]}" if match else str(key): state[key] for key, match in found.items()}
