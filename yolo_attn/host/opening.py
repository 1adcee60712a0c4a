"""The one place where we open a checkpoint: opening one may run code that its author wrote.

``ULTRALYTICS_SAFE_LOAD=1`` restricts it to the layers of Ultralytics, PyTorch and yolo-attn, here as in the host.
"""

from __future__ import annotations

import inspect
import os
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, LayerFileError
from . import shells

VARIABLE = "ULTRALYTICS_SAFE_LOAD"
_ON = ("1", "true", "yes", "on", "y", "t")  # as the host reads it
_UNREADABLE = (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError)


def is_restricted() -> bool:
    """Return whether the user restricts what a checkpoint may hold."""
    import ultralytics  # not above: the joints that its import puts in place need this module

    return os.environ.get(VARIABLE, "").strip().lower() in _ON or bool(getattr(ultralytics.utils, "SAFE_LOAD", False))


def open_checkpoint(file: str | Path) -> Any:
    """Return what a checkpoint file holds, on the CPU.

    Raises:
        CheckpointError: If it cannot be read, or loading is restricted and it holds more than known layers.
        FileNotFoundError: If it is not there.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} does not exist")
    if is_restricted():
        return _open_restricted(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=False)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error
    except LayerFileError as error:
        raise CheckpointError(f"{file} cannot be opened: {error}") from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{file} holds a class that cannot be imported here: {error}. If it is a pasted attention layer: "
            f"yolo-attn convert {file} -o new.pt"
        ) from error


def open_model(file: str | Path) -> nn.Module:
    """Return the model that a checkpoint file holds.

    Raises:
        CheckpointError: If it cannot be read, or holds none.
        FileNotFoundError: If it is not there.
    """
    held = open_checkpoint(file)
    model = (held.get("ema") or held.get("model")) if isinstance(held, dict) else None
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"{file} holds no model; give the best.pt or last.pt of a training")
    return model


def open_as_shells(file: str | Path) -> Any:
    """Return what a checkpoint file holds, on the CPU, with an empty shell for every object that is no plain data.

    Nothing that the file names is imported or called.

    Raises:
        CheckpointError: If it cannot be read, it asks for a call, or loading is restricted and it holds more than
            known layers.
        FileNotFoundError: If it is not there.
    """
    path = Path(file)
    if path.is_dir():
        raise CheckpointError(f"{file} is a folder; give a checkpoint file such as best.pt")
    if not path.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    if _is_torchscript(path):
        raise CheckpointError(f"{file} is an exported TorchScript model, no checkpoint; give the .pt of the training")
    if is_restricted():
        _open_restricted(file)
    try:
        return torch.load(file, map_location="cpu", pickle_module=shells, weights_only=False)
    except CheckpointError as error:
        raise CheckpointError(f"{file} is not opened: {error}") from error
    except Exception as error:  # a damaged or hostile file raises anything
        raise _unreadable(file, error) from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _open_restricted(file: str | Path) -> Any:
    import ultralytics
    from ultralytics.nn import tasks

    can_restrict = "safe_only" in inspect.signature(tasks.torch_safe_load).parameters
    if not (can_restrict and hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")):
        raise CheckpointError(
            f"{file} is not opened: {VARIABLE} is set, but Ultralytics {ultralytics.__version__} with torch "
            f"{torch.__version__} cannot restrict loading. Update them (Ultralytics 8.4.120, torch 2.6, or later), "
            f"or unset {VARIABLE} if you trust the file: opening it runs its code"
        )
    try:
        return tasks.torch_safe_load(file, safe_only=True)[0]
    except (TypeError, AssertionError, *_UNREADABLE) as error:
        cause = error.__cause__ if isinstance(error.__cause__, UnpicklingError) else ""
        refused = next(
            (line for line in str(cause).splitlines() if re.search(r"unsupported (?!operand)", line, re.I)), ""
        )
        if not refused:
            raise _unreadable(file, error) from error
        raise CheckpointError(
            f"{file} is not opened: {VARIABLE} is set, and it holds more than layers of Ultralytics, PyTorch and "
            f"yolo-attn: {refused.partition('. Please')[0].strip(' .')}. Unset {VARIABLE} only if you trust the file: "
            "opening it runs its code"
        ) from error


def _unreadable(file: str | Path, error: Exception) -> CheckpointError:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return CheckpointError(f"{file} is no checkpoint that torch can read: {first}")
