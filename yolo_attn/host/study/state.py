"""All that a training goes on with, in full precision: the host's checkpoints hold half of it, rounded.

One file an epoch, written before the host's ``last.pt`` of that epoch and removed after the next one: whenever a
process is killed, the state of the epoch in ``last.pt`` is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...cache import replacing
from ...errors import CheckpointError
from ..opening import open_checkpoint

_NAME = "state-{}.pt"


def write(folder: Path, epoch: int, kept: dict[str, Any]) -> None:
    """Write the state after an epoch, whole or not at all."""
    with replacing(folder / _NAME.format(epoch)) as draft:
        torch.save(kept, draft)


def read(folder: Path, epoch: int) -> dict[str, Any]:
    """Return the state after an epoch.

    Raises:
        CheckpointError: If it is not there, or cannot be read.
    """
    file = folder / _NAME.format(epoch)
    if not file.is_file():
        raise CheckpointError(
            f"{file} is gone, and without it the trial cannot go on as if nothing had happened. Delete "
            f"{folder.parent} to train it from the start"
        )
    return open_checkpoint(file)


def latest(folder: Path) -> dict[str, Any] | None:
    """Return the state of the last epoch, or None if there is none."""
    files = sorted(folder.glob(_NAME.format("*")), key=lambda file: int(file.stem.rpartition("-")[2]))
    return open_checkpoint(files[-1]) if files else None


def drop(folder: Path, epoch: int) -> None:
    """Remove the state of an epoch of which no checkpoint was written."""
    (folder / _NAME.format(epoch)).unlink(missing_ok=True)


def forget(folder: Path, but: int | None = None) -> None:
    """Remove the states of all epochs but one, and what a killed process left half written."""
    for file in (*folder.glob(_NAME.format("*")), *folder.glob(f".{_NAME.format('*')}.*")):
        if but is None or file.name != _NAME.format(but):
            file.unlink(missing_ok=True)
