"""``freeze=`` means rows of the base: what stays as it was after real trainings, and what a checkpoint remembers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from yolo_attn.coco import shapes
from yolo_attn.errors import RowError
from yolo_attn.layers.gated import Gated

detect = pytest.importorskip("ultralytics.models.yolo.detect")
tasks = pytest.importorskip("ultralytics.nn.tasks")
LOGGER = pytest.importorskip("ultralytics.utils").LOGGER
pytestmark = pytest.mark.usefixtures("installed")
Train = Callable[..., Any]
# Two rows of ours within the first four: 1 SE and 3 CBAM.
OURS = """
nc: 3
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, SE, [{gate: GATE}]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, CBAM, [4, {gate: GATE}]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, SE, [4]]
head:
  - [-1, 1, Conv, [16, 3, 1]]
  - [[6], 1, Detect, [nc]]
"""
GATED, OPEN = OURS.replace("GATE", "true"), OURS.replace("GATE", "false")
PLAIN = "\n".join(line for line in OURS.splitlines() if "GATE" not in line and "SE" not in line).replace("[6]", "[3]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    shapes.write_shapes(folder, {"train": 8, "val": 4})
    file = folder / "data.yaml"
    images = {"train": "images/train", "val": "images/val"}
    document = {"train": "annotations/train.json", "val": "annotations/val.json", "images": images}
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def train(data: Path, tmp_path: Path, monkeypatch) -> Train:
    """Return a function that trains ``tmp_path/run`` and returns the trainer and what the host's logger said."""
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("YOLO_ATTN_FP16_CHECK", "0")
    monkeypatch.chdir(tmp_path)

    def train(model: str | Path, epochs: int = 1, stop: int | None = None, **arguments: Any) -> tuple[Any, list[str]]:
        if isinstance(model, str):
            (tmp_path / "small.yaml").write_text(model, encoding="utf-8")
            model = tmp_path / "small.yaml"
        overrides = {
            "model": str(model), "data": str(data), "epochs": epochs, "imgsz": 32, "batch": 4, "nbs": 4, "workers": 0,
            "plots": False, "device": "cpu", "optimizer": "SGD", "lr0": 0.1, "warmup_epochs": 0, "exist_ok": True,
            "project": str(tmp_path), "name": "run", "mosaic": 0, "val": False,
        }  # fmt: skip
        said: list[str] = []
        with monkeypatch.context() as patch:
            for level in ("info", "warning"):
                patch.setattr(LOGGER, level, lambda text="", *args: said.append(str(text)))
            trainer = detect.DetectionTrainer(overrides={**overrides, **arguments})
            if stop is not None:
                trainer.add_callback("on_train_epoch_start", lambda t: _interrupt() if t.epoch == stop else None)
            try:
                trainer.train()
            except InterruptedError:
                assert stop is not None
        return trainer, [line for line in said if line.startswith("freeze=")]

    return train


def _interrupt() -> None:
    raise InterruptedError


def frozen(trainer: Any) -> set[int]:
    """Return the rows with parameters none of which learns."""
    return {
        index
        for index, layer in enumerate(trainer.model.model)
        if (parameters := list(layer.parameters())) and not any(p.requires_grad for p in parameters)
    }


def record(folder: Path) -> Any:
    return json.loads((folder / "run" / "run.json").read_text())["settings"]["freeze"]


@pytest.mark.parametrize(
    ("freeze", "rows", "said"),
    [
        (1, [0], "row 0 is frozen; 1 SE is not"),
        (3, [0, 2, 4], "rows 0, 2, 4 are frozen; 1 SE, 3 CBAM, 5 SE are not"),
        ("backbone", [0, 2, 4], "rows 0, 2, 4 are frozen; 1 SE, 3 CBAM, 5 SE are not"),
        ("Backbone", [0, 2, 4], "rows 0, 2, 4 are frozen; 1 SE, 3 CBAM, 5 SE are not"),
        (4, [0, 2, 4, 6], "rows 0, 2, 4, 6 are frozen; 1 SE, 3 CBAM, 5 SE are not"),
    ],
)  # fmt: skip
def test_a_number_and_the_word_freeze_rows_of_the_base(
    freeze: int | str, rows: list[int], said: str, train: Train, tmp_path: Path
) -> None:
    trainer, lines = train(GATED, freeze=freeze)
    assert frozen(trainer) == set(rows) and lines == [f"freeze={freeze} counts rows of the base: {said}"]
    assert record(tmp_path) == {"asked": freeze, "rows": rows}
    assert trainer.args.freeze == freeze == yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())["freeze"]
    assert all(part.openness() for part in trainer.model.modules() if isinstance(part, Gated))
    stored = torch.load(trainer.last, map_location="cpu", weights_only=False)
    assert stored["train_args"]["freeze"] == freeze


@pytest.mark.parametrize(("freeze", "rows"), [("backbone", {0, 1, 2}), (2, {0, 1}), ([1], {1}), (None, set())])
def test_plain_models(freeze: Any, rows: set[int], train: Train, tmp_path: Path) -> None:
    trainer, lines = train(PLAIN, freeze=freeze)
    assert frozen(trainer) == rows
    assert lines == (["freeze=backbone counts rows of the base: rows 0-2 are frozen"] if freeze == "backbone" else [])
    assert record(tmp_path) == (None if freeze is None else {"asked": freeze, "rows": sorted(rows)})


def test_a_list_is_taken_literally_with_a_warning_of_closed_gates(train: Train, tmp_path: Path) -> None:
    trainer, lines = train(GATED, freeze=[0, 1, 2, 3])
    assert frozen(trainer) == {0, 1, 2, 3} and record(tmp_path) == {"asked": [0, 1, 2, 3], "rows": [0, 1, 2, 3]}
    assert len(lines) == 1 and lines[0].startswith(
        "freeze=[0, 1, 2, 3] freezes 1 SE, 3 CBAM at gate 0: they stay without effect."
    )
    assert train(OPEN, freeze=[0, 1, 2, 3])[1] == []  # the paper's start takes part
    assert train(GATED, freeze=[0, 2, "6"])[1] == []
    _, (nothing, closed) = train(GATED, freeze=[3, 12, "backbone"])
    assert nothing == "freeze=[3, 12, 'backbone']: 12, 'backbone' names no row of 0 to 7"
    assert "freezes 3 CBAM at gate 0" in closed


@pytest.mark.parametrize("model", [GATED, PLAIN], ids=["ours", "plain"])
@pytest.mark.parametrize("freeze", ["bakbone", "10", "head"])
def test_another_word_is_an_error(freeze: str, model: str, train: Train) -> None:
    with pytest.raises(
        RowError, match=rf"freeze='{freeze}'.* give a number of rows of the base \(freeze=10\)"
    ) as raised:
        train(model, freeze=freeze)
    assert ("did you mean 'backbone'?" in str(raised.value)) == (freeze == "bakbone")


def test_words_that_mean_nothing_freeze_nothing(train: Train) -> None:
    for freeze in ("", "None"):
        assert frozen(train(GATED, freeze=freeze)[0]) == set()


@pytest.mark.parametrize(("freeze", "rows"), [(3, {0, 2, 4}), ("backbone", {0, 2, 4}), ([0, 2], {0, 2})])
def test_a_resumed_run_freezes_the_same_rows(freeze: Any, rows: set[int], train: Train, tmp_path: Path) -> None:
    train(GATED, epochs=3, stop=1, freeze=freeze)
    last = tmp_path / "run" / "weights" / "last.pt"
    for _ in range(2):  # and one that is interrupted again
        trainer = detect.DetectionTrainer(overrides={"resume": str(last)})
        trainer.add_callback("on_train_epoch_start", lambda trainer: _interrupt() if trainer.epoch == 2 else None)
        with pytest.raises(InterruptedError):
            trainer.train()
        assert frozen(trainer) == rows and trainer.args.freeze == freeze
        assert record(tmp_path) == {"asked": freeze, "rows": sorted(rows)}


def test_fine_tuning_a_grafted_checkpoint(train: Train, tmp_path: Path) -> None:
    first, _ = train(GATED)
    before = {key: value.clone() for key, value in _weights(first.last).items()}
    trainer, _ = train(Path(first.last), freeze=3, name="again")
    assert frozen(trainer) == {0, 2, 4}
    after = _weights(trainer.last)
    moved = {key.split(".")[1] for key, value in after.items() if not torch.equal(value, before[key])}
    assert {"1", "3"} <= moved and not {"0", "2", "4"} & moved


def _weights(file: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    return (checkpoint.get("ema") or checkpoint["model"]).state_dict()


def test_the_command_and_the_worker_of_several_gpus(run, tmp_path: Path) -> None:
    words = ("data=shapes.yaml", "epochs=1", "imgsz=32", "batch=16", "fraction=0.1", "workers=0", "plots=False")
    said = "freeze=backbone counts rows of the base: rows 0-9 are frozen; 10 CBAM is not"
    done = run("yolo", "train", "model=yolov8n-cbam.yaml", *words, "val=False", "freeze=backbone")
    assert (done.stdout + done.stderr).count(said) == 1
    wrong = run("yolo", "train", "model=yolov8n-cbam.yaml", *words, "freeze=stem", ok=False)
    assert wrong.stderr.strip().splitlines()[-1].startswith("error: freeze='stem':") and "Traceback" not in wrong.stderr
    arguments = ", ".join(words).replace("shapes.yaml", "'shapes.yaml'")
    code = f"""
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.dist import generate_ddp_file
arguments = dict({arguments}, val=False, model="yolov8n-cbam.yaml", device="cpu", freeze="backbone", name="ddp")
print("FILE", generate_ddp_file(DetectionTrainer(overrides=arguments)))
"""
    worker = run("python", "-c", code).stdout.split("FILE", 1)[1].strip()
    done = run("python", worker)
    Path(worker).unlink()
    assert said in done.stdout + done.stderr
