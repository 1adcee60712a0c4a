"""Trials of a small model on a few images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_study

from yolo_attn.graft import graft, to_yaml, without_gates
from yolo_attn.host.study import models
from yolo_attn.host.study.start import write_start
from yolo_attn.host.study.trainer import Trial

NAMES = ["circle", "square", "triangle"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of a few images with YOLO's text labels."""
    return tiny_study.write_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def base() -> dict[str, Any]:
    """Return the dictionary of a narrow YOLOv8 for the classes of the data."""
    model = models.of_one_scale(models.load("yolov8n"), len(NAMES), 3)
    return {**model, "scales": {"n": [0.33, 0.125, 256]}}


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, base: dict[str, Any]) -> Path:
    """Return the start that trials with seed 0 share."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "yolov8n.yaml").write_text(to_yaml(base, "plain"), encoding="utf-8")
    write_start(folder / "yolov8n.yaml", 0, NAMES, None, folder / "n-seed0.pt")
    return folder / "n-seed0.pt"


@pytest.fixture
def make_trial(tmp_path: Path, tiny: Path, base: dict[str, Any], start: Path) -> Callable[..., Trial]:
    """Return a function that describes a trial with a layer at the neck, or of the plain model."""

    def make(folder: str, layer: str = "", **arguments: Any) -> Trial:
        model = without_gates(graft(base, layer, "neck")) if layer else base
        file = tmp_path / "models" / f"yolov8n-{layer.lower() or 'plain'}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(to_yaml(model, layer), encoding="utf-8")
        given = {**tiny_study.TRAINING, "data": str(tiny), "epochs": 3, "close_mosaic": 1, "nbs": 20, **arguments}
        return Trial(tmp_path / folder, file, start, seed=0, device="cpu", arguments=given)

    return make
