"""The same seed gives the same numbers, with and without attention, and ``args.yaml`` repeats a run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from yolo_attn.host.opening import open_checkpoint

SETTINGS = "data=data/data.yaml imgsz=64 epochs=2 batch=4 plots=False amp=False seed=7"


def _numbers(folder: Path) -> list[dict[str, str]]:
    """Return what ``results.csv`` holds but for the times."""
    with (folder / "results.csv").open(encoding="utf-8") as file:
        rows = [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(file)]
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return open_checkpoint(folder / "weights/last.pt")["model"].state_dict()


@pytest.mark.parametrize(
    ("model", "workers"),
    [
        ("yolov8n-cbam-biformer-neck.yaml", 0),
        pytest.param("yolov8n.yaml", 0, marks=pytest.mark.slow),
        pytest.param("yolov8n-cbam-biformer-neck.yaml", 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_repeated_to_the_last_digit(model: str, workers: int, run, demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("yolo", "train", f"model={model}", *SETTINGS.split(), f"workers={workers}", f"project={out}", "name=one")
    run("yolo", "train", f"cfg={out / 'one/args.yaml'}", f"save_dir={out / 'two'}")
    one, two = _weights(out / "one"), _weights(out / "two")
    assert len(_numbers(out / "one")) == 2 and _numbers(out / "one") == _numbers(out / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    run("yolo", "train", f"cfg={out / 'one/args.yaml'}", f"save_dir={out / 'other'}", "seed=8")
    assert _numbers(out / "one") != _numbers(out / "other")
