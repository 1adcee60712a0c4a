"""What a node of a cluster does: one trial, in the study's folder if the node sees it, else in a copy."""

from __future__ import annotations

import io
import os
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import pool, store

# Runs a trial of the study in a folder, on a device with so many threads; None if it was killed.
Work = Callable[[Path, store.Pending, str, int], "dict[str, Any] | None"]


def carry_out(order: Mapping[str, Any], fetch: Callable[[Any], bytes]) -> dict[str, Any]:
    """Run a trial as the driver ordered it.

    Args:
        order: ``variant``, ``seed``, ``device``, ``threads``, ``folder`` (of the study), ``probe`` (a file in it by
            which a node knows it), ``bundle`` (its files, for ``fetch``), ``environment`` and ``work`` (or None).
        fetch: Returns the bytes of the bundle.

    Returns:
        ``found``, which is what ``trial.json`` holds, or None if the trial was killed; ``host``; and ``files``, its
        folder as a zip archive, or None if it is in the study's folder.
    """
    os.environ.update(order["environment"])
    trial = store.Pending(order["seed"], 0, order["variant"])
    with _workplace(order, fetch) as root:
        found = (order["work"] or run_process)(root, trial, order["device"], order["threads"])
        is_copy = root != Path(order["folder"])
        files = pack(root, [store.trial_folder(root, trial.variant, trial.seed)]) if found and is_copy else None
    return {"found": found, "host": socket.gethostname(), "files": files}


@contextmanager
def _workplace(order: Mapping[str, Any], fetch: Callable[[Any], bytes]) -> Iterator[Path]:
    """Yield the folder of the study, or a copy of what the trial needs of it that is gone afterwards."""
    folder = Path(order["folder"])
    if (folder / order["probe"]).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="yolo-attn-") as place:
        unpack(fetch(order["bundle"]), Path(place))
        yield Path(place)


def run_process(root: Path, trial: store.Pending, device: str, threads: int) -> dict[str, Any] | None:
    """Run a trial in a process of its own: if that breaks down, the worker of the cluster does not."""
    words = ["trial", str(root), trial.variant, str(trial.seed), device, "on-node"]
    return pool.run_one(root, trial, words, threads)


def pack(root: Path, paths: Iterable[Path]) -> bytes:
    """Return files, and folders with all that is in them, as a zip archive of their places below a folder."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:  # weights do not shrink
        for path in paths:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    archive.write(file, file.relative_to(root))
    return held.getvalue()


def unpack(files: bytes, root: Path) -> None:
    """Write the files of ``pack`` below a folder."""
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        archive.extractall(root)
