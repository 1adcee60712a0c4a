"""Small models on COCO data, and pycocotools on what they predict."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from yolo_attn.coco import shapes
from yolo_attn.coco.evaluation import MEASURES

DATA = Path(os.environ.get("YOLO_ATTN_DATA", Path(__file__).parents[3] / "shared" / "data"))

FAST = {"imgsz": 64, "workers": 0, "plots": False, "batch": 8, "verbose": False}

NAMES = dict(enumerate(shapes.CATEGORIES.values()))


def small_model(
    folder: Path, names: dict[int, str], task: str = "detect", yaml: str = "", spread: float = 0, **options: Any
) -> Path:
    """Write a checkpoint of an untrained yolov8n with these classes, whose default data no test relies on.

    With a spread its scores differ from place to place.
    """
    import torch
    from ultralytics.nn import tasks

    kind = {"detect": "DetectionModel", "segment": "SegmentationModel", "pose": "PoseModel"}[task]
    suffix = {"detect": "", "segment": "-seg", "pose": "-pose"}[task]
    model = getattr(tasks, kind)(yaml or f"yolov8n{suffix}.yaml", nc=len(names), verbose=False, **options)
    for branch in model.model[-1].cv3 if spread else ():
        torch.nn.init.normal_(branch[-1].weight, std=spread, generator=torch.Generator().manual_seed(0))
        torch.nn.init.constant_(branch[-1].bias, -1.0)
    model.names, model.args, model.task = names, {}, task
    path = folder / "model.pt"
    torch.save({"model": model, "train_args": {"task": task}, "date": "", "version": ""}, path)
    return path


def by_pycocotools(path: Path, file: str, image_ids: list[Any], kind: str = "bbox", **parameters: Any) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        judge = COCOeval(truth, truth.loadRes(json.loads(Path(file).read_text())), kind)
        judge.params.imgIds = image_ids
        vars(judge.params).update(parameters)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def check(record: dict[str, Any], path: Path, image_ids: list[Any], kind: str = "bbox", **parameters: Any) -> None:
    numbers = [record["coco"][kind][measure.name] for measure in MEASURES[kind]]
    theirs = by_pycocotools(path, record["predictions"][kind], image_ids, kind, **parameters)
    np.testing.assert_allclose(numbers, theirs, atol=1e-6)


def image_ids(data: Path) -> list[Any]:
    return [image["id"] for image in json.loads((data.parent / "annotations/val.json").read_text())["images"]]
