"""Training and validation on COCO JSON by function, script and command: the same official numbers from all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from official import FAST, NAMES, check, image_ids, small_model

import yolo_attn
from yolo_attn.coco.evaluation import NUMBERS
from yolo_attn.errors import DataError
from yolo_attn.host.run import train_val

pytestmark = pytest.mark.usefixtures("installed")


def test_training_ends_with_the_official_numbers(demo: Path) -> None:
    record = train_val.train("yolov8n.yaml", demo, epochs=1, **FAST)
    assert Path(record["weights"]).name == "best.pt"
    path = demo.parent / "annotations/val.json"
    if json.loads(Path(record["predictions"]["bbox"]).read_text()):
        check(record, path, image_ids(demo))
    assert set(record["coco"]["bbox"]) == set(NUMBERS)
    assert record["images"] == 24


def test_broken_data_end_before_a_model_is_built(demo: Path) -> None:
    (demo.parent / "annotations/val.json").write_text("{")
    with pytest.raises(DataError, match=r"val\.json: not JSON"):
        train_val.train("no-such-model.yaml", demo)
    with pytest.raises(DataError, match=r"no 'test:'; it names train, val"):
        (demo.parent / "annotations/val.json").write_text((demo.parent / "annotations/train.json").read_text())
        train_val.val("no-such-model.pt", demo, split="test")


def test_an_older_report_in_the_folder_is_not_taken(demo: Path, tmp_path: Path) -> None:

    where = {"project": str(tmp_path / "runs"), "name": "same", "exist_ok": True}
    model = small_model(tmp_path, NAMES)
    record = train_val.val(model, demo, **where, **FAST)
    assert record["images"] == 24
    os.utime(Path(record["save_dir"]) / "coco_metrics.json", (1, 1))
    yolo_data = tmp_path / "plain.yaml"
    for split in ("train", "val"):
        (demo.parent / "labels" / split).mkdir(parents=True)
    yolo_data.write_text(
        f"path: {demo.parent}\ntrain: images/train\nval: images/val\nnames: [circle, square, triangle]\n"
    )
    assert "images" not in train_val.val(model, yolo_data, **where, **FAST)


@pytest.mark.parametrize("form", ["onnx", "torchscript", "openvino"])
def test_exported_models_validate_as_their_checkpoint(demo: Path, tmp_path: Path, form: str) -> None:
    if form == "onnx" and not _host_exports_onnx():
        pytest.skip("this Ultralytics is older than this torch: its ONNX export needs onnxscript")
    pytest.importorskip(form if form != "torchscript" else "torch")
    from ultralytics import YOLO

    model = small_model(tmp_path, NAMES, yaml="yolov8n-cbam.yaml", spread=30.0)
    exported = YOLO(model).export(format=form, imgsz=64)
    settings = {**FAST, "rect": False, "conf": 0.1, "iou": 1.0}  # without suppression, which ties decide
    native, record = (train_val.val(file, demo, **settings) for file in (model, exported))
    theirs, mine = (json.loads(Path(r["predictions"]["bbox"]).read_text()) for r in (native, record))
    assert len(mine) == pytest.approx(len(theirs), rel=0.02) and len(mine) > 20
    table = [
        np.array([[hash(p["image_id"]), p["category_id"], *p["bbox"], p["score"]] for p in x]) for x in (theirs, mine)
    ]
    for row in table[0][table[0][:, -1] > 0.2]:
        same = table[1][(table[1][:, :2] == row[:2]).all(1)]
        # OpenVINO may compute in half precision where the processor does.
        assert (np.abs(same[:, 2:] - row[2:]) <= [1, 1, 1, 1, 0.02]).all(1).any(), row
    assert record["coco"]["bbox"]["AP50"] == pytest.approx(native["coco"]["bbox"]["AP50"], abs=0.01)
    path = demo.parent / "annotations/val.json"
    check(record, path, image_ids(demo))


def _host_exports_onnx() -> bool:
    import importlib.util

    from ultralytics.engine import exporter

    folder = Path(exporter.__file__).parents[1]
    sources = [Path(exporter.__file__), *folder.glob("utils/export/*.py")]
    return bool(importlib.util.find_spec("onnxscript")) or any("dynamo" in file.read_text() for file in sources)


def test_arguments_are_read_as_ultralytics_reads_them() -> None:
    words = [
        "imgsz=320",
        "--model",
        "yolov8n-coordatt.yaml",
        "amp=False",
        "lr0=1e-3",
        "device=None",
        "--data",
        "my.yaml",
    ]
    assert train_val.parse([*words, "name=007"], "train") == {
        "model": "yolov8n-coordatt.yaml",
        "data": "my.yaml",
        "imgsz": 320,
        "amp": False,
        "lr0": 0.001,
        "device": None,
        "name": train_val.parse(["model=m", "name=007"], "train")["name"],
    }
    assert train_val.parse(["model=m.pt", "data=d.yaml"], "val") == {"weights": "m.pt", "data": "d.yaml"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "a", "model=b"], "model is given twice, as b and as a"),
        (["--model", "a", "imgsz:320"], "'imgsz:320' is not key=value"),
        (["--model", "a", "epochs="], "'epochs=' is not key=value"),
        (["--model", "a", "--val-images", "x"], "--val-images x needs --val-json"),
    ],
)
def test_bad_words_are_one_error(words, message) -> None:
    with pytest.raises(DataError, match=message):
        train_val.parse(words, "train")


def test_unknown_keys_give_the_hosts_own_error() -> None:
    with pytest.raises(SyntaxError, match="imgsz"):
        train_val.parse(["--model", "a", "imgzs=320"], "train")


def test_the_scripts_run_from_anywhere(run, demo: Path) -> None:
    scripts = Path(yolo_attn.__file__).parents[1] / "scripts"
    if not scripts.is_dir():
        pytest.skip("the scripts are in the checkout only")
    path = {"PYTHONPATH": str(scripts.parent)}
    folder = demo.parent
    done = run(
        "python", str(scripts / "train.py"), "--model", "yolov8n.yaml",
        "--train-json", str(folder / "annotations/train.json"), "--train-images", str(folder / "images/train"),
        "--val-json", str(folder / "annotations/val.json"), "--val-images", str(folder / "images/val"),
        "epochs=1", "imgsz=64", "workers=0", "plots=False", "name=here", f"project={folder.parent}", **path,
    )  # fmt: skip
    assert "Official COCO numbers (bbox) against" in done.stdout + done.stderr
    weights = next(Path(folder.parent).rglob("best.pt"))
    done = run("python", str(scripts / "val.py"), "--weights", str(weights), f"data={demo}", "imgsz=64", **path)
    assert "COCO, boxes" in done.stdout + done.stderr
    assert '"predictions": ' in done.stdout
    (folder / "annotations/val.json").write_text("{")
    failed = run("python", str(scripts / "val.py"), "--weights", str(weights), f"data={demo}", ok=False, **path)
    assert failed.stderr.splitlines()[-1].startswith(f"error: {folder}/annotations/val.json: not JSON")
    assert "Traceback" not in failed.stderr


def test_resume_goes_on_with_the_data_of_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from yolo_attn.host.run import train_val

    asked: list[dict] = []
    trainer = SimpleNamespace(best=tmp_path / "best.pt", last=tmp_path / "last.pt", save_dir=tmp_path)
    stub = SimpleNamespace(train=lambda **kwargs: asked.append(kwargs), trainer=trainer)
    monkeypatch.setattr(train_val, "_load", lambda model, task: stub)
    train_val.train(**train_val.parse(["--model", "last.pt", "resume=True"], "train"))
    train_val.train(**train_val.parse(["--model", "yolov8n.yaml"], "train"))
    assert "data" not in asked[0] and asked[0]["resume"] is True
    assert asked[1]["data"] == "shapes.yaml"


def test_rt_detr_trains_on_coco_json(demo: Path, run) -> None:
    pytest.importorskip("scipy")  # which only RT-DETR's loss needs, and not every host brings
    words = ("epochs=1", "imgsz=160", "workers=0", "plots=False", "batch=8", "fraction=0.3", "name=rtdetr")
    where = f"project={demo.parent.parent / 'runs'}"
    done = run("yolo", "train", "model=rtdetr-l-se.yaml", f"data={demo}", *words, where)
    assert "Official COCO numbers (bbox) against" in done.stdout + done.stderr
    scripts = Path(yolo_attn.__file__).parents[1] / "scripts"
    if scripts.is_dir():
        weights = demo.parent.parent / "runs/rtdetr/weights/best.pt"
        model = ("--weights", str(weights), "--data", str(demo), "imgsz=160", "workers=0", "plots=False")
        done = run("python", str(scripts / "val.py"), *model, PYTHONPATH=str(scripts.parent))
        assert json.loads(done.stdout[done.stdout.index("\n{") :])["images"] == 24


def test_the_yolo_command_reports_official_numbers(demo: Path, run, tmp_path: Path) -> None:
    model = small_model(tmp_path, NAMES)
    words = ("imgsz=64", "workers=0", "plots=False", f"project={tmp_path / 'runs'}", "name=val", "conf=0.0001")
    done = run("yolo", "val", f"model={model}", f"data={demo}", *words)
    assert "Official COCO numbers (bbox) against" in done.stdout + done.stderr
    report = json.loads((tmp_path / "runs/val/coco_metrics.json").read_text())
    path = demo.parent / "annotations/val.json"
    check(report, path, image_ids(demo))
    (demo.parent / "annotations/val.json").write_text("{")
    failed = run("yolo", "val", f"model={model}", f"data={demo}", *words, ok=False)
    assert failed.stderr.splitlines()[-1].startswith(f"error: {demo.parent}/annotations/val.json: not JSON")
    assert "Traceback" not in failed.stderr
