"""Writes ``run.json``, as ``schema`` describes it; a resumed run goes on with the record of the first."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._version import __version__
from ...cache import write_text
from ...errors import DataError
from ..model import transfer
from ..model.check import warnings_of
from ..model.ours import describe_layers
from .freeze import frozen
from .schema import FILE, SCHEMA

COCO_REPORT = "coco_metrics.json"


class RunRecord:
    """The record of one run.

    Attributes:
        fields: What ``run.json`` holds.
        file: Where it is written.
    """

    def __init__(self, trainer: Any, model: nn.Module) -> None:
        """Describe a run that is about to start; ``model`` is the trainer's, without its wrappers."""
        self.file = Path(trainer.save_dir) / FILE
        if os.path.lexists(self.file) and not _is_record(self.file):
            raise DataError(
                f"{self.file} is no record of yolo-attn and stays as it is; name another folder for the run"
            )
        self._is_coco = "coco" in trainer.data
        self.fields: dict[str, Any] = {
            "schema": SCHEMA, "state": "running", "reason": None, "name": Path(trainer.save_dir).name,
            "folder": str(trainer.save_dir), "task": trainer.args.task, "command": list(sys.argv),
            "versions": versions(), "model": _model(trainer, model), "settings": _settings(trainer),
            "data": _data(trainer), "epochs": [], "best_epoch": None, "resumed_at": [],
            "metrics": {"ultralytics": {}, "coco": None, "fp16": None},
            "times": {"started": _now()}, "memory": {}, "problems": [],
        }  # fmt: skip
        if trainer.start_epoch:
            self._go_on(trainer.start_epoch)

    def problem(self, epoch: int, what: str) -> None:
        """Keep what went wrong in an epoch, counted from 1."""
        self.fields["problems"].append({"epoch": epoch, "what": what})

    def epoch(self, trainer: Any, seconds: float, train_seconds: float) -> None:
        """Keep a finished epoch."""
        fitness = None if trainer.fitness is None else float(trainer.fitness)
        epoch = trainer.epoch + 1
        row = {"epoch": epoch, "seconds": seconds, "train_seconds": train_seconds, "fitness": fitness}
        self.fields["epochs"].append({k: round(v, 3) if k.endswith("seconds") else v for k, v in row.items()})
        if fitness is not None and fitness == trainer.best_fitness:
            self.fields["best_epoch"] = epoch
        self.measure(trainer)

    def measure(self, trainer: Any) -> None:
        """Bring metrics, times and memory up to date."""
        rows = self.fields["epochs"]
        metrics = {key: float(value) for key, value in (trainer.metrics or {}).items()}
        self.fields["metrics"]["ultralytics"] = metrics
        train = statistics.median(row["train_seconds"] for row in rows) if rows else None
        images = self.fields["data"]["images"]["train"]
        self.fields["times"] = {
            "started": self.fields["times"]["started"],
            "total_seconds": round(sum(row["seconds"] for row in rows), 3),
            "epoch_seconds_median": statistics.median(row["seconds"] for row in rows) if rows else None,
            "train_images_per_second": round(images / train, 2) if train and images else None,
        }
        self.fields["memory"] = _memory(trainer.device, self.fields["memory"])

    def finish(self, state: str, reason: str | None = None) -> None:
        """Say how the run ended and read the official COCO numbers of its final validation."""
        self.fields["state"], self.fields["reason"] = state, reason
        report = self.file.with_name(COCO_REPORT)
        if state == "finished" and self._is_coco and report.is_file():
            self.fields["metrics"]["coco"] = json.loads(report.read_text(encoding="utf-8")).get("coco")

    def write(self) -> None:
        """Write ``run.json``."""
        self.fields["times"]["updated"] = _now()
        write_text(self.file, json.dumps(without_nan(self.fields), indent=1, allow_nan=False, default=str) + "\n")

    def _go_on(self, epochs: int) -> None:
        """Take over the history of the process that trained the first ``epochs`` epochs."""
        try:
            old = json.loads(self.file.read_text(encoding="utf-8"))
            rows = [row for row in old["epochs"] if row["epoch"] <= epochs]
            problems = [problem for problem in old["problems"] if problem["epoch"] <= epochs]
            times, memory = {"started": old["times"]["started"]}, dict(old["memory"])
            best, resumed = old["best_epoch"], list(old["resumed_at"])
            transferred = old["model"]["transferred"]
        except (OSError, ValueError, KeyError, TypeError):
            rows, problems, times, memory, best, resumed, transferred = [], [], {"started": None}, {}, None, [], None
        fitness = {row["epoch"]: row["fitness"] for row in rows if row["fitness"] is not None}
        if best not in fitness:  # the epoch that was lost was the best
            best = max(fitness, key=lambda epoch: fitness[epoch], default=None)
        # What a resumed process transfers is its own checkpoint.
        self.fields["model"]["transferred"] = transferred
        self.fields.update(
            epochs=rows, problems=problems, times=times, memory=memory, best_epoch=best,
            resumed_at=[*resumed, epochs + 1],
        )  # fmt: skip


def _is_record(file: Path) -> bool:
    """Tell whether a file is a record of ours, of any schema; a link is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not file.is_symlink() and isinstance(found, dict) and {"schema", "state", "epochs"} <= found.keys()


def without_nan(value: Any) -> Any:
    """Return a copy of nested JSON values with null for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Return the versions of what a training is made with."""
    import ultralytics

    names = {"yolo-attn": __version__, "ultralytics": ultralytics.__version__}
    return {**names, "torch": str(torch.__version__), "python": platform.python_version()}


def _model(trainer: Any, model: nn.Module) -> dict[str, Any]:
    from ultralytics.utils.torch_utils import get_flops

    report = transfer.reports.get(model)
    pretrained = trainer.args.pretrained
    return {
        "file": str(trainer.args.model),
        "pretrained": pretrained if isinstance(pretrained, bool) else str(pretrained),
        "layers": describe_layers(model),
        "warnings": warnings_of(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflops": round(float(get_flops(model, trainer.args.imgsz)), 2) or None,
        "transferred": None if report is None else {"arrived": report.arrived, "total": report.total},
    }


def _settings(trainer: Any) -> dict[str, Any]:
    from ultralytics.utils.torch_utils import get_cpu_info

    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    world_size = torch.distributed.get_world_size() if distributed else 1
    if trainer.device.type == "cuda":
        first = trainer.device.index or 0
        numbers = range(torch.cuda.device_count()) if world_size > 1 else [first]
        devices = [torch.cuda.get_device_name(number) for number in numbers][:world_size]
    else:
        devices = [get_cpu_info()] if trainer.device.type == "cpu" else [trainer.device.type]
    args = trainer.args
    return {
        "seed": args.seed, "devices": devices, "world_size": world_size, "amp": bool(trainer.amp),
        "batch": trainer.batch_size, "imgsz": args.imgsz, "epochs": trainer.epochs, "freeze": frozen.get(trainer),
    }  # fmt: skip


def _data(trainer: Any) -> dict[str, Any]:
    sets = {"train": trainer.train_loader.dataset, "val": trainer.test_loader.dataset}
    file = Path(str(trainer.args.data))
    coco = trainer.data.get("coco")
    fingerprint: Any = None
    if isinstance(coco, Mapping):
        split = {name: part.get("fingerprint") for name, part in coco.items() if isinstance(part, Mapping)}
        fingerprint = split if any(split.values()) else None
    if fingerprint is None and file.is_file():
        fingerprint = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        "file": str(file),
        "fingerprint": fingerprint,
        "images": {name: len(dataset) for name, dataset in sets.items()},
        "instances": {name: _instances(dataset) for name, dataset in sets.items()},
    }


def _instances(dataset: Any) -> int | None:
    labels = getattr(dataset, "labels", None)
    return None if labels is None else sum(len(label["cls"]) for label in labels)


def _memory(device: torch.device, before: Mapping[str, int | None]) -> dict[str, int | None]:
    cuda = device.type == "cuda"
    now = {
        "cuda_reserved": torch.cuda.max_memory_reserved(device) if cuda else None,
        "cuda_allocated": torch.cuda.max_memory_allocated(device) if cuda else None,
        "process": peak_process_memory(),
    }
    return {key: max(value, before.get(key) or 0) if value is not None else None for key, value in now.items()}


def peak_process_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    with suppress(OSError):  # Linux; what ``getrusage`` says there begins at the peak of the parent
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB here


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
