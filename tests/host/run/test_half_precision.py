"""Weights that fp16 hurts are kept in fp32 beside the checkpoint; others are only compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import yolo_attn
from yolo_attn.host.run import half_precision

tasks = pytest.importorskip("ultralytics.nn.tasks")
KEY = "metrics/mAP50-95(B)"


class Validator:
    """Validates in no time: the accuracy is read from one weight of the model."""

    def __init__(self, half: bool) -> None:
        self.args = SimpleNamespace(half=half, plots=True, save_json=True, save_txt=True)
        self.metrics, self.callbacks, self.plots = {"of": "the trainer", "plot": self.on_plot}, {"on_val_end": [1]}, {}
        self.save_dir = Path("run")
        self.seen: list[Any] = []

    def on_plot(self) -> None: ...

    def __call__(self, model: nn.Module) -> dict[str, float]:
        assert not (self.args.half or self.args.plots or self.args.save_json or self.args.save_txt)
        assert self.save_dir != Path("run") and not self.callbacks["on_val_end"]
        assert self.metrics["plot"].__self__ is self
        self.metrics["of"] = "the check"
        assert next(model.parameters()).dtype == torch.float32
        value = next(model.parameters()).detach().view(-1)[0].item()
        self.seen.append(value)
        with torch.no_grad():
            next(model.parameters()).fill_(0)  # as fusing does, validation changes the model
        return {KEY: value, "fitness": 1.0}


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[float, bool], tuple[SimpleNamespace, dict]]:
    yolo_attn.install()

    def make(weight: float, half: bool) -> tuple[SimpleNamespace, dict]:
        model = tasks.DetectionModel("yolov8n-cbam.yaml", verbose=False)
        with torch.no_grad():
            next(model.parameters()).fill_(weight)
        model.args = {}
        state = half_precision.snapshot(model)
        torch.save({"model": model.half(), "train_args": {"imgsz": 64}, "epoch": -1}, tmp_path / "best.pt")
        stored = float(torch.tensor(weight).half())
        metrics = {KEY: stored, "metrics/recall(B)": 1.0}
        return SimpleNamespace(best=tmp_path / "best.pt", validator=Validator(half), metrics=metrics), state

    return make


FAR = 600.2  # fp16 has 600 and 600.5
NEAR = 0.5002  # fp16 has 0.5


@pytest.mark.parametrize(("half", "runs"), [(False, 1), (True, 2)])
def test_weights_that_fp16_hurts_are_kept(trained, half: bool, runs: int) -> None:
    trainer, state = trained(FAR, half)
    validator = trainer.validator
    result = half_precision.compare(trainer, state)
    assert result == {
        "stored": {KEY: 600.0}, "fp32": {KEY: pytest.approx(FAR)}, "file": str(trainer.best.with_name("best-fp32.pt")),
    }  # fmt: skip
    assert len(validator.seen) == runs and validator.metrics["of"] == "the trainer" and validator.args.plots
    yolo = pytest.importorskip("ultralytics").YOLO(result["file"])
    kept = yolo.model.state_dict()
    assert kept.keys() == state.keys() and all(torch.equal(kept[name], state[name]) for name in state)
    assert kept["model.0.conv.weight"].dtype == torch.float32
    written = torch.load(result["file"], weights_only=False)
    assert written["train_args"] == {"imgsz": 64}
    assert sorted(file.name for file in trainer.best.parent.iterdir()) == ["best-fp32.pt", "best.pt"]


def test_weights_that_fp16_keeps_are_compared_only(trained) -> None:
    trainer, state = trained(NEAR, False)
    trainer.best.with_name("best-fp32.pt").write_bytes(b"of an earlier run")
    result = half_precision.compare(trainer, state)
    assert result["file"] is None and result["fp32"][KEY] == pytest.approx(NEAR) and result["stored"][KEY] < NEAR
    assert [file.name for file in trainer.best.parent.iterdir()] == ["best.pt"]


def test_a_gain_of_fp16_is_no_loss(trained) -> None:
    trainer, state = trained(600.3, False)  # rounded up to 600.5
    assert half_precision.compare(trainer, state)["file"] is None


def test_a_snapshot_does_not_follow_the_model() -> None:
    module = nn.Linear(2, 2)
    state = half_precision.snapshot(module)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(state["weight"], before) and not state["weight"].requires_grad


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, True), ("1", True), ("0", False), ("False", False), ("off", False)]
)
def test_the_switch(monkeypatch, value: str | None, wanted: bool) -> None:
    monkeypatch.delenv(half_precision.SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(half_precision.SWITCH, value)
    assert half_precision.is_wanted() is wanted
