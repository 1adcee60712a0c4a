"""A process of its own: ``trial FOLDER VARIANT SEED DEVICE [on-node]`` or ``measure FOLDER VARIANT DEVICE``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Run one verb; return 0 if it did its work."""
    _die_with_parent()
    verb, folder, variant, *rest = argv
    if verb == "trial":
        from .trial import run_trial

        return int(run_trial(folder, variant, int(rest[0]), rest[1], rest[2:] == ["on-node"])["state"] != "finished")
    from .plan import measure_variant

    measure_variant(Path(folder), variant, *rest)
    return 0


def _die_with_parent() -> None:
    """End this process when the one that holds the other end of its input ends."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
