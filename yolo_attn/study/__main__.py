"""A process of its own: ``trial FOLDER VARIANT SEED DEVICE [on-node]`` or ``measure FOLDER VARIANT DEVICE``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def main(argv: Sequence[str]) -> int:
    """Run one verb; return 0 if it did its work."""
    _die_with_parent()
    verb, folder, variant, *rest = argv
    if verb == "trial":
        from .trial import run_trial

        seed, device, *where = rest
        found = run_trial(folder, variant, int(seed), _take(device), where == ["on-node"])
        return int(found["state"] != "finished")
    from .plan import measure_variant

    measure_variant(Path(folder), variant, _take(*rest))
    return 0


def _take(device: str) -> str:
    """Make a GPU the only one that this process sees, and return the name that it has then.

    To older Ultralytics ``0`` is the first GPU of the machine and not of ``CUDA_VISIBLE_DEVICES``, by which a user, a
    queue or Ray says which GPUs are theirs.
    """
    shown = os.environ.get(_VISIBLE)
    gpus = None if shown is None else [gpu.strip() for gpu in shown.split(",") if gpu.strip()]
    if not device.isdecimal() or (gpus is not None and int(device) >= len(gpus)):
        return device
    import torch

    os.environ[_VISIBLE] = device if gpus is None else gpus[int(device)]
    if not torch.cuda.is_available():
        return device
    torch.cuda.init()  # from now on it does not matter what the host writes there
    return "0"


def _die_with_parent() -> None:
    """End this process when the one that holds the other end of its input ends."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
