"""Training speed on a COCO JSON against stock Ultralytics on the same data converted to YOLO labels.

Each run is a process of its own; the stock one takes our joints out before Ultralytics is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from yolo_attn.coco.data_yaml import describe
from yolo_attn.coco.index import load_index

METRICS = {"mAP50-95": "metrics/mAP50-95(B)", "mAP50": "metrics/mAP50(B)"}


def write_yolo_labels(data: str | Path, folder: Path) -> Path:
    """Copy the images of a COCO-format data set, write a label file for each, and return the data YAML.

    Args:
        data: Data YAML that names COCO JSON files.
        folder: Empty or missing folder to write to.

    Raises:
        DataError: If the data cannot be used.
    """
    found = describe(data)
    categories = [(id_, found["names"][i]) for i, id_ in enumerate(found["category_ids"])]
    content: dict[str, Any] = {"path": str(folder.absolute()), "names": found["names"]}
    for split, parts in found["coco"].items():
        index = load_index(parts["json"], parts["images"], categories)
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i, file in enumerate(index.files):
            shutil.copy(file, images)
            cls, boxes = index.labels(i)
            lines = [f"{int(c)} " + " ".join(map(repr, box)) for (c,), box in zip(cls, boxes.tolist(), strict=True)]
            (labels / f"{Path(file).stem}.txt").write_text("\n".join(lines), encoding="utf-8")
        content[split] = f"images/{split}"
    description = folder / "data.yaml"
    description.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return description


def measure(arguments: dict[str, Any], stock: bool = False) -> dict[str, Any]:
    """Train in this process and return what it took.

    Args:
        arguments: Training arguments of Ultralytics.
        stock: Take our joints out first; Ultralytics must not have been imported yet for this to mean anything.

    Returns:
        ``images/s``: images trained per second in the fastest epoch, validation left out; ``images/cpu s``: the same by
        the processor time of this process, which other work on the machine disturbs less (without workers and GPU);
        ``epochs``: seconds of each epoch's training; ``seconds``: of the whole run; ``memory``: peak GB, on CUDA what
        is reserved, else resident; and the mAPs of the last epoch.
    """
    import yolo_attn

    if stock:
        yolo_attn.uninstall()
    import torch
    from ultralytics import YOLO

    from yolo_attn.host.run.record import peak_process_memory

    begun = time.perf_counter()
    marks: list[tuple[float, float]] = []

    def mark(trainer: Any) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        marks.append((time.perf_counter(), time.process_time()))

    yolo: Any = YOLO(arguments["model"])
    yolo.add_callback("on_train_epoch_start", mark)
    yolo.add_callback("on_train_epoch_end", mark)
    yolo.train(**arguments)
    trainer = yolo.trainer
    images = len(trainer.train_loader.dataset)
    epochs, busy = ([b[i] - a[i] for a, b in zip(marks[::2], marks[1::2], strict=True)] for i in (0, 1))
    on_gpu = trainer.device.type == "cuda"
    peak = torch.cuda.max_memory_reserved(trainer.device) if on_gpu else peak_process_memory()
    return {
        "images/s": images / min(epochs),
        "images/cpu s": images / min(busy),
        "epochs": epochs,
        "seconds": time.perf_counter() - begun,
        "memory": peak / 1e9,
        **{name: float(trainer.metrics[key]) for name, key in METRICS.items()},
    }


def study(
    models: Sequence[str],
    data: str,
    stock_data: str,
    rounds: int,
    settings: dict[str, Any],
    folder: Path,
    done: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Train each model on the JSON and the first one also as stock on the converted data, in turns.

    Args:
        models: Model YAMLs; the first is a plain one.
        data: Data YAML of the JSON.
        stock_data: Data YAML of the same data as YOLO labels.
        rounds: How often everything is trained.
        settings: Training arguments.
        folder: Where runs are written.
        done: Takes the runs made so far, after each round.
    """
    runs: list[dict[str, Any]] = []
    for turn in range(rounds):
        todo = [(models[0], True), *((model, False) for model in models)]
        for model, stock in todo if turn % 2 == 0 else reversed(todo):
            name = f"{Path(model).stem}-{'stock' if stock else 'coco'}-{turn}"
            where = {"project": str(folder), "name": name, "exist_ok": True}
            arguments = {**settings, **where, "model": model, "data": stock_data if stock else data}
            code = (
                "import json, sys; from experiments.speed_study import measure; "
                "json.dump(measure(json.loads(sys.argv[1]), json.loads(sys.argv[2])), open(sys.argv[3], 'w'))"
            )
            result = folder / f"{name}.json"
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-c", code, json.dumps(arguments), json.dumps(stock), str(result)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
            runs.append({"model": model, "stock": stock, "round": turn, **json.loads(result.read_text())})
        done(runs)


def summarise(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a model and side: medians, and the ratio of speeds to the stock run of the same round."""
    clocks = {"ratio": "images/s", "cpu ratio": "images/cpu s"}
    base = {run["round"]: run for run in runs if run["stock"]}
    rows = []
    for model, stock in dict.fromkeys((run["model"], run["stock"]) for run in runs):
        mine = [run for run in runs if (run["model"], run["stock"]) == (model, stock)]
        ratios = {
            name: sorted(run[clock] / base[run["round"]][clock] for run in mine) for name, clock in clocks.items()
        }
        rows.append(
            {
                "model": Path(model).stem,
                "side": "Ultralytics, YOLO labels" if stock else "yolo-attn, COCO JSON",
                **{key: statistics.median(run[key] for run in mine) for key in ("images/s", "memory", *METRICS)},
                **{name: statistics.median(values) for name, values in ratios.items()},
                **{f"{name} range": [values[0], values[-1]] for name, values in ratios.items()},
                "rounds": len(mine),
            }
        )
    return rows
