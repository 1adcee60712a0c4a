"""Checkpoints that are whole or not there: written in a folder of drafts and moved over the old file when complete.

The host writes into the file itself, so a process killed in the middle leaves half a checkpoint and no old one.
"""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cache import write_text
from ...errors import HostError

DRAFTS = ".yolo-attn-unfinished"


@dataclass(frozen=True)
class Draft:
    """A file that is written at ``path`` and moved to ``final``."""

    path: Path
    final: Path


def draft_of(file: Path) -> Draft:
    """Return the draft of a checkpoint; its folder is made.

    Raises:
        HostError: If the folder is a link: what lies behind it is not ours.
    """
    folder = file.parent / DRAFTS
    if folder.is_symlink():
        raise HostError(f"{folder} is a link; yolo-attn writes its drafts there and follows none: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    return Draft(folder / file.name, file)


def publish(draft: Draft) -> None:
    """Move a complete draft over the old file; the folder of drafts goes when it is empty."""
    draft.path.replace(draft.final)
    if not any(draft.path.parent.iterdir()):
        draft.path.parent.rmdir()


def sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished in a folder of checkpoints."""
    shutil.rmtree(folder / DRAFTS, ignore_errors=True)


@contextmanager
def redirected(trainer: Any) -> Iterator[None]:
    """Let ``trainer`` write its checkpoints as drafts; publish them when the block ends, ``last.pt`` after the others.

    In this order a process killed in between leaves a ``last.pt`` from before, and the resumed run repeats the epoch.
    If the block fails, the old files stay.
    """
    folder, last, best = trainer.wdir, trainer.last, trainer.best
    finals = {file.name: file for file in (best, last)}
    drafts = draft_of(last).path.parent
    trainer.wdir, trainer.last, trainer.best = drafts, drafts / last.name, drafts / best.name
    try:
        yield
    except BaseException:
        sweep(last.parent)
        raise
    finally:
        trainer.wdir, trainer.last, trainer.best = folder, last, best
    for file in sorted(drafts.iterdir(), key=lambda file: file.name == last.name):
        publish(Draft(file, finals.get(file.name, folder / file.name)))


def strip(original: Callable[..., Any], file: Path, updates: Any, hold: bool) -> tuple[Any, Draft]:
    """Strip a checkpoint with the host's function into a draft.

    Args:
        original: The host's ``strip_optimizer``.
        file: The checkpoint.
        updates: What the host adds to it.
        hold: Leave the draft for the caller to publish.

    Returns:
        What the host returns, and the draft.
    """
    draft = draft_of(file)
    with _printed_as_final(draft):
        result = original(file, draft.path, updates)
    if draft.path.exists() and not hold:
        publish(draft)
    return result, draft


@contextmanager
def _printed_as_final(draft: Draft) -> Iterator[None]:
    """Let the host's log name the file that the user will find."""
    from ultralytics.utils import LOGGER

    def rename(record: logging.LogRecord) -> bool:
        record.msg = str(record.msg).replace(str(draft.path), str(draft.final))
        return True

    LOGGER.addFilter(rename)
    try:
        yield
    finally:
        LOGGER.removeFilter(rename)


def trim_rows(file: Path, epochs: int) -> list[int]:
    """Keep one complete row for each of the first ``epochs`` epochs of a ``results.csv``.

    The host appends the row of an epoch before it writes the checkpoint: killed in between, it would append it again.

    Returns:
        The epochs up to ``epochs`` that have no row.
    """
    if not file.exists():
        return list(range(1, epochs + 1))
    text = file.read_text(encoding="utf-8")
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    by_epoch = {int(float(row[0])): row for row in rows if len(row) == len(header) and _is_number(row[0])}
    kept = [by_epoch[epoch] for epoch in sorted(by_epoch) if epoch <= epochs]
    # A last line without an end may be cut inside its last number.
    if kept and not text.endswith("\n") and kept[-1] == rows[-1]:
        kept.pop()
    if kept != rows or not text.endswith("\n"):
        write_text(file, "".join(",".join(row) + "\n" for row in [header, *kept]))
    there = {int(float(row[0])) for row in kept}
    return [epoch for epoch in range(1, epochs + 1) if epoch not in there]


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdigit()
