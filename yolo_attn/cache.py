"""The cache folder, where everything goes that must not be written beside the user's data; files that are whole."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "YOLO_ATTN_CACHE"


def cache_folder() -> Path:
    """Return the cache folder: ``$YOLO_ATTN_CACHE``, or ``yolo-attn`` in the platform's cache folder.

    The folder is named, not made.
    """
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "yolo-attn"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Lend a path beside ``file`` to write to; what stands there takes the place of ``file`` when the block ends.

    Readers see the old file or the new one, never half of one, and several processes may write at once. If the block
    or the move fails, the old file stays and nothing else does.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        yield draft
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with replacing(file) as draft:
        draft.write_text(text, encoding="utf-8")
