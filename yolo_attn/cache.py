"""The cache folder: where everything goes that must not be written beside the user's data."""

from __future__ import annotations

import os
import sys
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
