"""What the host's trainer offers works on COCO JSON with an attention layer: none of it is ours, all must hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from yolo_attn.coco import shapes

pytestmark = pytest.mark.usefixtures("installed")

BASE = {"epochs": 2, "imgsz": 64, "batch": 8, "workers": 0, "plots": False, "verbose": False, "val": False}


@pytest.fixture
def train(tmp_path: Path, monkeypatch):
    """Return a function that trains yolov8n-cbam on 24 images of a COCO JSON and returns the trainer."""
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shapes.write_shapes(tmp_path / "data", {"train": 24, "val": 8})
    data = tmp_path / "data/data.yaml"
    data.write_text(
        "train: annotations/train.json\nval: annotations/val.json\nimages: {train: images/train, val: images/val}\n"
    )

    def train(callbacks: dict[str, Any] | None = None, **arguments: Any) -> Any:
        from ultralytics import YOLO

        yolo = YOLO("yolov8n-cbam.yaml")
        for event, callback in (callbacks or {}).items():
            yolo.add_callback(event, callback)
        where = {"project": str(tmp_path / "runs"), "name": "run", "exist_ok": True}
        yolo.train(data=str(data), **{**BASE, **where, **arguments})
        return yolo.trainer

    return train


def test_schedule_accumulation_freezing_and_averaging_are_the_hosts(train) -> None:
    rates: list[float] = []
    frozen: list[Any] = []

    def begin(trainer: Any) -> None:
        frozen.extend(p.detach().clone() for p in trainer.model.model[0].parameters())

    trainer = train(
        {"on_train_start": begin, "on_train_epoch_end": lambda t: rates.append(t.scheduler.get_last_lr()[0])},
        epochs=4, cos_lr=True, lrf=0.1, lr0=0.01, optimizer="SGD", warmup_epochs=0, nbs=24, freeze=1, amp=True,
    )  # fmt: skip
    assert trainer.accumulate == 3
    wanted = [0.01 * (1 - (1 - math.cos(math.pi * epoch / 4)) / 2 * 0.9) for epoch in range(1, 5)]
    assert rates == pytest.approx(wanted) or rates == pytest.approx([0.01, *wanted[:-1]])
    assert all((p == was).all() for p, was in zip(trainer.model.model[0].parameters(), frozen, strict=True))
    assert not any(p.requires_grad for p in trainer.model.model[0].parameters())
    assert trainer.ema.updates == 4  # one step for three batches of an epoch


def test_it_stops_early(train) -> None:
    def begin(trainer: Any) -> None:
        original = trainer.validate
        # The host waits as long as the fitness is 0, which it is for this model.
        trainer.validate = lambda: (original()[0], 0.5)

    trainer = train({"on_train_start": begin}, epochs=9, patience=2, val=True, imgsz=32)
    assert trainer.epoch == 2 and trainer.stop


def test_sizes_change_and_images_are_cached(train, tmp_path: Path) -> None:
    sizes = set()

    def look(trainer: Any) -> None:
        original = trainer.preprocess_batch

        def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
            batch = original(batch)
            sizes.add(batch["img"].shape[-1])
            return batch

        trainer.preprocess_batch = preprocess

    # Newer hosts take a range, older ones a switch that stands for half.
    multi_scale = 0.5 if isinstance(_default("multi_scale"), float) else True
    trainer = train({"on_train_start": look}, epochs=3, multi_scale=multi_scale, cache="ram")
    assert len(sizes) > 1
    assert trainer.train_loader.dataset.ims[0] is not None
    before = set((tmp_path / "data").rglob("*"))
    train(epochs=1, cache="disk")
    assert len(list((tmp_path / "cache/yolo-attn/images").glob("*.npy"))) == 32
    assert set((tmp_path / "data").rglob("*")) == before


def test_batch_size_is_found(train) -> None:
    assert train(epochs=1, batch=-1).batch_size == 16  # what the host takes where there is no GPU to fill


def test_plots_appear(train) -> None:
    trainer = train(epochs=1, plots=True, val=True)
    there = {path.name for path in Path(trainer.save_dir).iterdir()}
    wanted = {"labels.jpg", "train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "results.png"}
    assert wanted | {"confusion_matrix.png", "confusion_matrix_normalized.png"} <= there
    assert any(name.endswith("PR_curve.png") for name in there)
    assert {"coco_metrics.json", "coco_per_class.csv", "results.csv", "args.yaml", "run.json"} <= there


@pytest.mark.slow
def test_a_compiled_model_trains(train) -> None:
    if "compile" not in _defaults():
        pytest.skip("this Ultralytics does not compile")
    trainer = train(epochs=1, compile=True, fraction=0.7)
    assert Path(trainer.best).exists() and (Path(trainer.save_dir) / "coco_metrics.json").exists()


def _defaults() -> dict[str, Any]:
    from ultralytics.utils import DEFAULT_CFG_DICT

    return DEFAULT_CFG_DICT


def _default(name: str) -> Any:
    return _defaults()[name]
