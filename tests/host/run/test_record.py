"""What a training leaves in ``run.json``, and what it does when numbers go wrong: real trainings of a tiny data set."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import yolo_attn
from yolo_attn.graft import graft_all
from yolo_attn.host.model.ours import describe_layers
from yolo_attn.host.run import checkpoints, events, record

tasks = pytest.importorskip("ultralytics.nn.tasks")
detect = pytest.importorskip("ultralytics.models.yolo.detect")
LOGGER = pytest.importorskip("ultralytics.utils").LOGGER
EPOCHS = 3
MODEL = """
nc: 1
backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, CBAM, [4]]]
head: [[[3], 1, Detect, [nc]]]
"""
Train = Callable[..., Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of the host's own format: six images with one box each, the same for training and validation."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        for name in ("images", "labels"):
            (folder / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        (folder / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.6 0.6\n")
    file = folder / "tiny.yaml"
    file.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {{0: a}}\n")
    return file


@pytest.fixture
def train(data: Path, tmp_path: Path) -> Train:
    """Return a function that trains ``tmp_path/run`` with callbacks and returns the trainer."""
    yolo_attn.install()

    def train(model: str = MODEL, **callbacks: Callable[[Any], None]) -> Any:
        file = tmp_path / "small.yaml"
        file.write_text(model, encoding="utf-8")
        overrides = {
            "model": str(file), "data": str(data), "epochs": EPOCHS, "imgsz": 32, "batch": 2, "nbs": 2, "workers": 0,
            "plots": False, "device": "cpu", "warmup_epochs": 0, "optimizer": "SGD", "lr0": 1e-4, "exist_ok": True,
            "project": str(tmp_path), "name": "run", "mosaic": 0,
        }  # fmt: skip
        trainer = detect.DetectionTrainer(overrides=overrides)
        for event, callback in callbacks.items():
            trainer.add_callback(event, callback)
        train.trainer = trainer
        trainer.train()
        return trainer

    return train


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))


def weights(file: Path) -> torch.nn.Module:
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    return (checkpoint.get("ema") or checkpoint["model"]).float()


def finite(model: torch.nn.Module) -> bool:
    return all(torch.isfinite(value).all() for value in model.state_dict().values())


def listening(trainer: Any) -> bool:
    ours = {events.begin, *events.events().values()}
    return any(callback in ours for callbacks in trainer.callbacks.values() for callback in callbacks)


def test_a_finished_run_is_recorded(train: Train, data: Path, tmp_path: Path, monkeypatch) -> None:
    states: list[Any] = []
    said: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", lambda text, *args: said.append(str(text)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "coco_metrics.json").write_text('{"coco": {"AP": 1.0}}')  # of an earlier run on other data
    trainer = train(on_fit_epoch_end=lambda trainer: states.append(read(tmp_path)["state"]))
    made = read(tmp_path)
    assert set(states) == {"running"} and made["state"] == "finished" and made["reason"] is None
    assert made["schema"] == record.SCHEMA and made["problems"] == [] and made["resumed_at"] == []
    assert made["versions"]["torch"] == torch.__version__ and made["command"]
    model = made["model"]
    assert model["file"] == str(tmp_path / "small.yaml")
    assert model["parameters"] == sum(parameter.numel() for parameter in trainer.model.parameters())
    assert model["layers"] == [{"index": 3, "name": "CBAM", "arguments": [4], "place": "neck-p3", "gated": False}]
    assert made["data"]["file"] == str(data) and made["data"]["fingerprint"].startswith("sha256:")
    assert made["data"]["images"] == {"train": 6, "val": 6} == made["data"]["instances"]
    settings = made["settings"]
    assert (settings["batch"], settings["imgsz"], settings["epochs"], settings["world_size"]) == (2, 32, EPOCHS, 1)
    assert [row["epoch"] for row in made["epochs"]] == [1, 2, 3]
    assert all(0 < row["train_seconds"] < row["seconds"] for row in made["epochs"])
    assert made["times"]["total_seconds"] == pytest.approx(sum(row["seconds"] for row in made["epochs"]))
    rate = 6 / sorted(row["train_seconds"] for row in made["epochs"])[1]
    assert made["times"]["train_images_per_second"] == pytest.approx(rate, rel=0.02)
    assert made["memory"]["process"] > 10**8 and made["memory"]["cuda_reserved"] is None
    assert made["metrics"]["coco"] is None
    fp16 = made["metrics"]["fp16"]
    assert fp16["file"] is None and fp16["stored"].keys() == fp16["fp32"].keys() == {"metrics/mAP50-95(B)"}
    assert fp16["stored"]["metrics/mAP50-95(B)"] == made["metrics"]["ultralytics"]["metrics/mAP50-95(B)"]
    best = [row["epoch"] for row in made["epochs"] if row["fitness"] == trainer.best_fitness]
    assert made["best_epoch"] == best[-1]
    assert sorted(file.name for file in (tmp_path / "run" / "weights").iterdir()) == ["best.pt", "last.pt"]
    assert not listening(trainer) and "preprocess_batch" not in vars(trainer)
    assert not [text for text in said if "yolo-attn" in text]


@pytest.mark.skipif(sys.platform != "linux", reason="others begin at 0")
def test_the_peak_of_memory_is_not_that_of_the_parent() -> None:
    held = np.ones(2**30, dtype=np.uint8)
    code = "from yolo_attn.host.run.record import peak_process_memory; print(peak_process_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10**8 < int(child.stdout) < held.nbytes < record.peak_process_memory()


def test_a_run_that_is_not_ours_is_left_alone(train: Train, tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(trainer: Any) -> None:
        ours = set(events.events().values())
        seen.append(any(callback in ours for callbacks in trainer.callbacks.values() for callback in callbacks))

    trainer = train(MODEL.replace("[-1, 1, CBAM, [4]]", "[-1, 1, Conv, [16]]"), on_train_start=look)
    assert seen == [False] and not listening(trainer)
    assert not (tmp_path / "run" / "run.json").exists()
    assert sorted(file.name for file in (tmp_path / "run" / "weights").iterdir()) == ["best.pt", "last.pt"]


def test_a_run_that_breaks_is_recorded_as_failed(train: Train, tmp_path: Path) -> None:
    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise KeyError("the user's own mistake")

    with pytest.raises(KeyError, match="own mistake"):
        train(on_train_epoch_start=stop)
    made = read(tmp_path)
    assert made["state"] == "failed" and made["reason"].startswith("KeyError: ") and "own mistake" in made["reason"]
    assert len(made["epochs"]) == 1 and not listening(train.trainer)


def test_recording_that_fails_does_not_end_the_training(train: Train, tmp_path: Path, monkeypatch, caplog) -> None:
    said: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", lambda text, *args: said.append(str(text)))

    def broken(self: Any, *args: Any) -> None:
        raise OSError("disk full")

    def break_it(trainer: Any) -> None:
        monkeypatch.setattr(record.RunRecord, "write", broken)

    trainer = train(on_train_start=break_it)
    assert trainer.epoch == EPOCHS - 1
    about = [text for text in said if "disk full" in text]
    assert len(about) == len({text.partition("(")[0] for text in about}) and about


def poison(trainer: Any) -> None:
    """Let the second epoch's first batch go through a layer that gives NaN."""
    layer = trainer.model.model[3]
    conv = layer.spatial_attention.conv
    if trainer.epoch == 1 and not hasattr(trainer, "poisoned"):
        trainer.poisoned = conv.register_forward_hook(lambda module, inputs, output: output * float("nan"))


def cure(trainer: Any) -> None:
    if hasattr(trainer, "poisoned"):
        trainer.poisoned.remove()


def test_nan_is_reported_by_layer_and_epoch_and_never_saved(train: Train, tmp_path: Path) -> None:
    kept: list[bool] = []

    def look(trainer: Any) -> None:
        kept.append(finite(weights(tmp_path / "run" / "weights" / "last.pt")))

    trainer = train(on_train_epoch_start=poison, on_train_epoch_end=cure, on_fit_epoch_end=look)
    problems = read(tmp_path)["problems"]
    assert problems[0]["epoch"] == 2
    what = problems[0]["what"]
    assert what.startswith("loss is nan; first non-finite value: output of model.3 CBAM.spatial_attention.conv, with ")
    assert "weights of last.pt (epoch 1)" in what and ".png" in what
    recovers = hasattr(trainer, "_handle_nan_recovery")
    if not recovers:
        assert [problem["epoch"] for problem in problems] == [2, 2, 3, 3]
        assert "no checkpoint written" in problems[1]["what"] and "last.pt keeps epoch 1" in problems[1]["what"]
    assert len(kept) >= EPOCHS and all(kept)
    assert all(finite(weights(tmp_path / "run" / "weights" / name)) for name in ("last.pt", "best.pt"))
    assert read(tmp_path)["state"] == "finished"


def ruin(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * float("nan")


def test_nan_in_validation_alone_is_reported_by_layer(train: Train, tmp_path: Path) -> None:
    handles: list[Any] = []

    def spoil(trainer: Any) -> None:
        if trainer.epoch == 1:
            handles.append(trainer.ema.ema.model[3].spatial_attention.conv.register_forward_hook(ruin))

    def mend(trainer: Any) -> None:
        while handles:
            handles.pop().remove()

    train(on_train_epoch_end=spoil, on_train_epoch_start=mend)
    (problem,) = read(tmp_path)["problems"]
    assert problem["epoch"] == 2 and problem["what"].startswith("validation gives val/box_loss, val/cls_loss, ")
    assert problem["what"].endswith("output of model.3 CBAM.spatial_attention.conv (weights finite)")


def test_a_search_that_fails_still_reports_the_nan(train: Train, tmp_path: Path, monkeypatch) -> None:
    def no_memory(*args: Any) -> str:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(events.nonfinite, "diagnose", no_memory)
    train(on_train_epoch_start=poison, on_train_epoch_end=cure)
    what = read(tmp_path)["problems"][0]["what"]
    assert what.startswith("loss is nan; its layer could not be looked for: ") and "out of memory" in what


def test_a_passing_nan_leaves_the_average(train: Train, tmp_path: Path) -> None:
    name = "model.3.spatial_attention.conv.weight"

    def spoil(trainer: Any) -> None:
        if trainer.epoch == 1:
            trainer.ema.ema.state_dict()[name].fill_(float("nan"))

    train(on_train_epoch_end=spoil)
    problems = read(tmp_path)["problems"]
    assert [problem["epoch"] for problem in problems][-1] == 2
    what = problems[-1]["what"]
    assert what.startswith("1 averaged tensors were non-finite and are taken from the model, first model.3 CBAM.")
    assert finite(weights(tmp_path / "run" / "weights" / "last.pt"))


def test_a_buffer_that_holds_inf_from_the_start_is_no_problem(train: Train, tmp_path: Path) -> None:
    def mask(trainer: Any) -> None:
        for model in (trainer.model, trainer.ema.ema):
            model.model[3].register_buffer("mask", torch.full((2,), float("-inf")))

    file = tmp_path / "run" / "weights" / "last.pt"
    seen: list[int] = []
    look = lambda trainer: seen.append(torch.load(file, weights_only=False)["epoch"])  # noqa: E731
    train(on_pretrain_routine_end=mask, on_model_save=look)
    assert read(tmp_path)["problems"] == [] and (seen == [0, 1, 2] or not seen)


def test_values_beyond_fp16_are_reported_and_clamped_in_the_file(train: Train, tmp_path: Path) -> None:
    name = "model.1.bn.running_var"
    in_training: list[float] = []
    in_file: list[float] = []

    def enlarge(trainer: Any) -> None:
        trainer.ema.ema.state_dict()[name][0] = 1e6

    def look(trainer: Any) -> None:
        in_training.append(float(trainer.ema.ema.state_dict()[name][0]))
        in_file.append(float(weights(tmp_path / "run" / "weights" / "last.pt").state_dict()[name][0]))

    train(on_train_epoch_end=enlarge, on_model_save=look)
    assert in_training == [1e6] * EPOCHS and in_file == [65504.0] * EPOCHS
    problems = read(tmp_path)["problems"]
    assert len(problems) == 1
    assert (
        problems[0]["what"]
        == "1 tensors exceed fp16 and are clamped in the checkpoint, first model.1 Conv.bn.running_var 1e+06"
    )


def test_a_resumed_run_goes_on_with_its_record(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            # As if killed between the row of the second epoch and its checkpoint.
            with trainer.csv.open("a") as file:
                file.write("2," + ",".join("9" for _ in trainer.csv.read_text().splitlines()[0].split(",")[1:]) + "\n3")
            (trainer.wdir / checkpoints.DRAFTS).mkdir()
            (trainer.wdir / checkpoints.DRAFTS / "epoch7.pt").write_bytes(b"half")
            lost = read(tmp_path)
            lost["epochs"].append(lost["epochs"][0] | {"epoch": 2, "fitness": 2.0})
            lost["problems"] = [{"epoch": 1, "what": "kept"}, {"epoch": 2, "what": "lost"}]
            events.runs[trainer].record.fields.update(epochs=lost["epochs"], problems=lost["problems"], best_epoch=2)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(on_train_epoch_start=stop)
    before = read(tmp_path)
    trainer = detect.DetectionTrainer(overrides={"resume": str(folder / "weights" / "last.pt")})
    best: list[int] = []
    trainer.add_callback("on_train_start", lambda trainer: best.append(trainer.stopper.best_epoch))
    trainer.train()
    after = read(tmp_path)
    assert after["state"] == "finished" and after["reason"] is None and after["resumed_at"] == [2]
    assert [row["epoch"] for row in after["epochs"]] == [1, 2, 3] and after["epochs"][0] == before["epochs"][0]
    assert after["times"]["started"] == before["times"]["started"]
    assert best == [1] and [problem["what"] for problem in after["problems"]] == ["kept"]
    with (folder / "results.csv").open() as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["epoch", "1", "2", "3"] and rows[2][1] != "9"
    assert sorted(file.name for file in (folder / "weights").iterdir()) == ["best.pt", "last.pt"]


def test_the_fp16_comparison_can_be_switched_off(train: Train, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_FP16_CHECK", "0")
    train()
    assert "YOLO_ATTN_FP16_CHECK" in read(tmp_path)["metrics"]["fp16"]


def test_layers_have_the_place_that_graft_gave_them() -> None:
    yolo_attn.install()
    config = tasks.yaml_model_load("yolov8n.yaml")
    grafted = graft_all(config, [("CBAM", "neck", []), ("SE", "backbone-p4", [4]), ("CBAM", 17, [{"gate": True}])])
    model = tasks.DetectionModel(grafted, verbose=False)
    found = [(row["name"], row["place"], row["gated"]) for row in describe_layers(model)]
    neck = [("CBAM", f"neck-p{level}", False) for level in (3, 4, 5)]
    assert found == [("SE", "backbone-p4", False), neck[0], ("CBAM", None, True), *neck[1:]]
    rows = [*grafted["backbone"], *grafted["head"]]
    assert all(rows[row["index"]][2] == row["name"] for row in describe_layers(model))


def test_json_has_no_nan() -> None:
    value = {"a": [float("nan"), (float("inf"), 1.5)], 2: {"b": None}}
    assert record.without_nan(value) == {"a": [None, [None, 1.5]], "2": {"b": None}}
