"""Train one variant under one seed, judge it, and measure what its training costs."""

from __future__ import annotations

import csv
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import DataError, StudyError
from ..data.validators import REPORT
from ..install import install
from ..model.surgery import silence
from ..opening import open_checkpoint
from ..run.record import peak_process_memory
from ..run.schema import FILE
from . import state
from .trainer import Progress, Trial, paired

_JUDGING = (
    "imgsz", "conf", "iou", "max_det", "single_cls", "classes", "half", "agnostic_nms", "augment", "rect",
)  # fmt: skip
_STEPS = 4  # training steps that are timed, the first apart


class _Enough(Exception):
    """Ends a training whose first steps have been timed."""


def train(trial: Trial) -> dict[str, Any]:
    """Train a trial to its end, from where it stands.

    Returns:
        What is known when the training is over: ``start``, ``batches`` (hashes), ``seconds``, ``epochs``,
        ``best_epoch``, ``parameters``, ``gflops``, ``memory``, ``device`` and ``versions``.

    Raises:
        StudyError: If the trial is no pair of the others of its seed, or ends without a checkpoint.
    """
    weights = trial.folder / "weights"
    last = weights / "last.pt"
    begun = last.is_file()
    progress = None
    if begun and open_checkpoint(last).get("optimizer") is None:  # trained to the end
        kept = state.latest(weights)
        progress = Progress(**kept["progress"]) if kept else Progress()
    else:
        trainer = make_trainer(trial, {"resume": str(last)} if begun else {})
        trainer.train()
        progress = trainer.progress
        progress.seconds = trainer.seconds()
    if not (weights / "best.pt").is_file():
        raise StudyError(f"{trial.folder}: the training ended without a checkpoint")
    record = json.loads((trial.folder / FILE).read_text(encoding="utf-8"))
    memory = record["memory"]
    return {
        "start": f"sha256:{progress.start}",
        "batches": progress.batches,
        "seconds": progress.seconds,
        "epochs": _epochs(trial.folder / "results.csv", record),
        "best_epoch": record["best_epoch"],
        "parameters": record["model"]["parameters"],
        "gflops": record["model"]["gflops"],
        "memory": memory.get("cuda_reserved") or memory.get("process"),
        "device": ", ".join(record["settings"]["devices"]),
        "versions": record["versions"],
    }


def clean(folder: Path) -> None:
    """Remove what a finished trial no longer needs: everything to go on with, but for the best weights."""
    state.forget(folder / "weights")
    if (folder / "weights" / "best.pt").is_file():
        (folder / "weights" / "last.pt").unlink(missing_ok=True)


def judge(trial: Trial, judged: str) -> dict[str, Any]:
    """Validate the best weights of a trial; return ``ultralytics``, ``coco`` and ``per_class``.

    Args:
        trial: The trial.
        judged: Data YAML of COCO's numbers; that of the training, or its labels as COCO JSON.
    """
    arguments = trial.arguments
    options = {key: arguments[key] for key in _JUDGING if key in arguments}
    options |= {"batch": 2 * arguments["batch"], "device": trial.device or None, "workers": arguments.get("workers", 8)}
    options |= {"plots": False, "verbose": False, "project": str(trial.folder), "exist_ok": True}
    metrics = _validate(trial, {**options, "data": arguments["data"], "name": "val"})
    box = metrics.box
    names = list(metrics.names.values()) if isinstance(metrics.names, Mapping) else list(metrics.names)
    per_class: dict[str, dict[str, float | None]] = {name: {"map": None, "map50": None} for name in names}
    for index, cls in enumerate(box.ap_class_index):
        per_class[names[int(cls)]] = {"map": float(box.ap[index]), "map50": float(box.ap50[index])}
    folder = trial.folder / "val"
    if judged != arguments["data"]:
        _validate(trial, {**options, "data": judged, "name": "val-coco"})
        folder = trial.folder / "val-coco"
    coco = json.loads((folder / REPORT).read_text(encoding="utf-8")).get("coco") if (folder / REPORT).is_file() else {}
    numbers = (coco or {}).get("bbox")
    return {
        "ultralytics": {
            "map50": float(box.map50), "map": float(box.map), "precision": float(box.mp), "recall": float(box.mr),
        },
        "coco": numbers and {key: None if value < 0 else value for key, value in numbers.items()},
        "per_class": per_class,
    }  # fmt: skip


def measure(trial: Trial) -> dict[str, Any]:
    """Train a few steps as the trial would.

    Returns:
        ``seconds_per_epoch``; ``seconds_around``, which a trial takes beside its epochs; ``memory`` in bytes.
    """
    import psutil

    trainer = make_trainer(trial, {"plots": False, "val": False, "save": False})
    times: list[float] = []
    begun: list[float] = []

    def note(_: Any) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        times.append(time.perf_counter())
        if len(times) > _STEPS or len(times) >= len(trainer.train_loader):
            raise _Enough

    trainer.add_callback("on_train_start", lambda _: begun.append(time.time()))
    trainer.add_callback("on_train_epoch_start", lambda _: times.append(time.perf_counter()))
    trainer.add_callback("on_train_batch_end", note)
    try:
        with silence():
            trainer.train()
    except _Enough:
        pass
    steps = [after - before for before, after in itertools.pairwise(times)]
    step = statistics.median(steps[1:] or steps)  # the first one allocates
    validation = _validation_seconds(trainer)
    seconds = step * len(trainer.train_loader) + validation
    around = begun[0] - psutil.Process().create_time() + 3 * validation
    cuda = trainer.device.type == "cuda"
    memory = torch.cuda.max_memory_reserved(trainer.device) if cuda else peak_process_memory()
    return {"seconds_per_epoch": seconds, "seconds_around": around, "memory": memory}


def make_trainer(trial: Trial, more: Mapping[str, Any]) -> Any:
    """Return the trainer of the host for a trial, paired.

    Raises:
        DataError: If the model is none that a study can train.
    """
    install()
    from ultralytics import YOLO
    from ultralytics.nn import tasks

    head = tasks.yaml_model_load(trial.model)["head"][-1][2]
    if head == "RTDETRDecoder":
        from ultralytics.models.rtdetr import train as rtdetr

        cls: Any = rtdetr.RTDETRTrainer
    else:
        with silence():
            yolo = YOLO(str(trial.model))
        if yolo.task != "detect":
            raise DataError(f"{trial.model.stem} is a {yolo.task} model; a study compares detection models")
        cls = yolo._smart_load("trainer")
    given = {
        **trial.arguments, "task": "detect", "mode": "train", "model": str(trial.model), "seed": trial.seed,
        "device": trial.device or None, "deterministic": True, "exist_ok": True, "save_dir": str(trial.folder),
        "project": str(trial.folder.parent), "name": trial.folder.name,
        "pretrained": str(trial.start) if trial.start else False, **more,
    }  # fmt: skip
    return paired(cls)(trial, given)


def _validate(trial: Trial, options: Mapping[str, Any]) -> Any:
    from ultralytics import YOLO

    install()
    with silence():
        return YOLO(str(trial.folder / "weights" / "best.pt")).val(**options)


def _validation_seconds(trainer: Any) -> float:
    """Return about how long a validation takes: forward passes in its precision, and a quarter for the rest."""
    model = trainer.model.eval()
    size = trainer.args.imgsz
    images = torch.zeros(min(trainer.batch_size * 2, 16), 3, size, size, device=trainer.device)
    channels = trainer.data.get("channels", 3)
    images = images[:, :1].expand(-1, channels, -1, -1).contiguous()
    is_cuda = trainer.device.type == "cuda"
    with torch.no_grad(), torch.autocast("cuda", torch.float16, enabled=is_cuda and trainer.amp):
        for _ in range(2):
            begun = time.perf_counter()
            model(images)
            if is_cuda:
                torch.cuda.synchronize(trainer.device)
            passed = time.perf_counter() - begun
    return 1.25 * passed * len(trainer.test_loader.dataset) / len(images)


def _epochs(file: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return number, both mAPs and seconds of each epoch."""
    seconds = {row["epoch"]: row["seconds"] for row in record["epochs"]}
    rows = []
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, skipinitialspace=True):
            values = {key.strip(): value for key, value in row.items() if key}
            epoch = int(float(values["epoch"]))
            maps = {"map50": "metrics/mAP50(B)", "map": "metrics/mAP50-95(B)"}
            found = {name: _number(values.get(column)) for name, column in maps.items()}
            rows.append({"epoch": epoch, **found, "seconds": seconds.get(epoch)})
    return rows


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
