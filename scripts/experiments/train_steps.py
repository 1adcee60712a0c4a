"""Real training steps of Ultralytics' own trainer, timed one by one, in a process of its own.

``python train_steps.py <request.json> <result.json>``. The request holds the training ``arguments``, whether it is
``stock``, and how many steps ``warmup`` and ``counted`` take. yolo-attn is imported only where it is not stock: for a
stock run also set ``YOLO_ATTN_AUTOLOAD=0``, or the start-up hook brings it in.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any


class _Enough(Exception):
    """Ends a training whose steps have been counted."""


def measure(arguments: dict[str, Any], stock: bool, warmup: int, counted: int) -> dict[str, Any]:
    """Train for some steps and return what each took, in seconds.

    Returns:
        ``step``: median from the arrival of a batch to the end of its step; ``interval``: median from the end of a step
        to that of the next, so waiting for data counts; ``images/s`` by that interval; ``allocated`` and ``reserved``:
        peak bytes on a GPU, else ``resident``; ``ours``: whether yolo-attn was there.
    """
    if not stock:
        import yolo_attn

        yolo_attn.install()
    import torch
    from ultralytics import YOLO
    from ultralytics.engine import trainer as host

    host.check_amp = lambda model: True  # type: ignore[assignment]  # the check would fetch weights
    begins: list[float] = []
    ends: list[float] = []
    found: dict[str, Any] = {"ours": "yolo_attn" in sys.modules}

    def now(trainer: Any) -> float:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        return time.perf_counter()

    def begin(trainer: Any) -> None:
        begins.append(now(trainer))

    def end(trainer: Any) -> None:
        ends.append(now(trainer))
        if len(ends) == warmup + counted:
            found.update(_memory(trainer.device), amp=bool(trainer.amp), batch=trainer.batch_size)
            raise _Enough

    yolo: Any = YOLO(arguments["model"])
    yolo.add_callback("on_train_batch_start", begin)
    yolo.add_callback("on_train_batch_end", end)
    with contextlib.suppress(_Enough):
        yolo.train(**arguments)
    steps = [b - a for a, b in zip(begins, ends, strict=True)][warmup:]
    interval = statistics.median(b - a for a, b in zip(ends[warmup - 1 :], ends[warmup:], strict=False))
    return {
        **found, "step": statistics.median(steps), "steps": steps, "interval": interval,
        "images/s": found["batch"] / interval,
    }  # fmt: skip


def _memory(device: Any) -> dict[str, int]:
    import torch

    if device.type == "cuda":
        cuda = torch.cuda
        return {"allocated": cuda.max_memory_allocated(device), "reserved": cuda.max_memory_reserved(device)}
    import resource

    return {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose names are not for others to find
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(measure(**request)), encoding="utf-8")
