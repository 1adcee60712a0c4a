"""Damaged COCO files through the host's own data path: samples that train, or one DataError."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from yolo_attn.coco import coco_json
from yolo_attn.errors import DataError

pytestmark = pytest.mark.usefixtures("installed")

MUTATIONS = 36


def _mutations() -> ModuleType:
    path = Path(__file__).parents[2] / "coco" / "test_fuzz.py"
    spec = importlib.util.spec_from_file_location("coco_mutations", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FUZZ = _mutations()


@pytest.fixture
def data(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    file = tmp_path / "data.yaml"
    file.write_text("train: damaged.json\nval: damaged.json\nimages: .\n")
    return file


def _samples(file: Path, task: str) -> int:
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    described: dict[str, Any] = check_det_dataset(str(file))
    settings = get_cfg(overrides={"imgsz": 64, "task": task, "mosaic": 0.5})
    dataset = build_yolo_dataset(settings, described["train"], 2, described, mode="train", rect=False)
    batch = dataset.collate_fn([dataset[i] for i in range(len(dataset))])
    assert batch["img"].isfinite().all() and batch["bboxes"].isfinite().all()
    return len(dataset)


@pytest.mark.parametrize("task", ["detect", "segment", "pose"])
@pytest.mark.parametrize("level", list(FUZZ.LEVELS))
def test_a_damaged_file_gives_samples_or_one_error(task: str, level: str, data: Path) -> None:
    rng = random.Random(f"host {task} {level}")
    fine = 0
    for number in range(MUTATIONS):
        said, content = FUZZ.LEVELS[level](rng)
        (data.parent / "damaged.json").write_bytes(content)
        coco_json._held.clear()
        try:
            fine += _samples(data, task) > 0
        except DataError as error:
            assert str(error).isprintable()
        except Exception as error:
            raise AssertionError(f"mutation {number}: {said}\n{content!r}") from error
    assert 0 < fine < MUTATIONS


@pytest.mark.parametrize("suffix", ["", "-seg"])
def test_damaged_files_that_pass_train(suffix: str, data: Path) -> None:
    from ultralytics import YOLO

    rng = random.Random(f"train {suffix}")
    trained = 0
    while trained < 3:
        _, content = FUZZ.LEVELS["values"](rng)
        (data.parent / "damaged.json").write_bytes(content)
        coco_json._held.clear()
        try:
            _samples(data, "segment" if suffix else "detect")
        except DataError:
            continue
        settings = {"epochs": 1, "imgsz": 64, "batch": 2, "workers": 0, "plots": False, "verbose": False}
        where = {"project": str(data.parent / "runs"), "exist_ok": True}
        YOLO(f"yolov8n{suffix}-se.yaml").train(data=str(data), **settings, **where)
        trained += 1
