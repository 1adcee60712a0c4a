"""The cache folder, where everything goes that must not be written beside the user's data; files that are whole."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "YOLO_ATTN_CACHE"
FOLDER = "yolo-attn"
# The first line is what backup programs look for.
MARK = """Signature: 8a477f597d28d172789f06886806bc55
# Made by yolo-attn, which deletes old files of its own here. Everything in this folder can be made again.
"""


def cache_folder() -> Path:
    """Return the cache folder: ``yolo-attn`` in ``$YOLO_ATTN_CACHE``, or in the platform's cache folder.

    The folder is named, not made. Whatever else the variable's folder holds, a data set for instance, is not ours.
    """
    if os.environ.get(VARIABLE):
        base = os.environ[VARIABLE]
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / FOLDER


def make_folder(*parts: str) -> Path:
    """Return a folder of the cache folder, made if it is not there.

    Raises:
        OSError: If it cannot be made, or it or the cache folder is a link: what lies behind one is not ours.
    """
    folder = cache_folder()
    for part in ("", *parts):
        folder /= part
        if folder.is_symlink():
            raise OSError(errno.ELOOP, f"it is a link, and yolo-attn follows none there ({folder})")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_marked_folder(name: str) -> Path:
    """Return a folder of the cache folder in which we may delete: it was empty once and bears our marker since.

    Raises:
        OSError: As ``make_folder``, or if it has no marker and somebody's files.
    """
    folder = make_folder(name)
    marker = folder / "CACHEDIR.TAG"
    if not marker.exists() and not marker.is_symlink() and not any(folder.iterdir()):
        write_text(marker, MARK)
    if marker.is_symlink() or not marker.is_file() or marker.read_text(encoding="utf-8", errors="replace") != MARK:
        raise OSError(errno.EEXIST, f"{folder} was not made by yolo-attn")
    return folder


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
