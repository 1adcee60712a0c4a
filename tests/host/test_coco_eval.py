"""Validation on COCO JSON: the official numbers are pycocotools' own on the written predictions and the user's file."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import yolo_attn
from yolo_attn import shapes
from yolo_attn.coco_eval import NUMBERS
from yolo_attn.errors import DataError
from yolo_attn.host import coco_run

DATA = Path(os.environ.get("YOLO_ATTN_DATA", Path(__file__).parents[3] / "shared" / "data"))
FAST = {"imgsz": 64, "workers": 0, "plots": False, "batch": 8, "verbose": False}


@pytest.fixture(scope="module", autouse=True)
def installed():
    was = yolo_attn.installed()
    yolo_attn.install()
    yield
    if not was:
        yolo_attn.uninstall()


@pytest.fixture
def oracle(monkeypatch):
    """Let every box the model 'predicts' be a disturbed true one, with coarse scores, so that the numbers say much."""
    from yolo_attn.host.coco_trainer import COCOValidator

    def replace(categories: int) -> None:
        import torch

        rng = np.random.default_rng(0)
        plain = COCOValidator.update_metrics

        def update_metrics(self, preds, batch):
            # Ground truth that a newer host builds of its own would cost time and mean other ids.
            assert not getattr(self, "gdict", None)
            h, w = batch["img"].shape[2:]
            made = []
            for i in range(len(batch["im_file"])):
                mine = batch["batch_idx"] == i
                xywh = batch["bboxes"][mine].cpu().numpy().repeat(3, 0) * (w, h, w, h)
                cls = batch["cls"][mine].cpu().numpy().ravel().repeat(3)
                flip = rng.uniform(size=len(cls)) < 0.2
                cls[flip] = rng.integers(0, categories, flip.sum())
                xywh = xywh * rng.normal(1, 0.08, xywh.shape)
                score = rng.uniform(0.1, 1, len(cls)).round(1)
                order = np.argsort(-score)
                xyxy = np.concatenate([xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2], 1)
                rows = torch.tensor(np.column_stack([xyxy, score, cls])[order], dtype=torch.float32)
                made.append(rows)
            if preds and isinstance(preds[0], dict):
                made = [{"bboxes": x[:, :4], "conf": x[:, 4], "cls": x[:, 5], "extra": x[:, 6:]} for x in made]
            plain(self, made, batch)

        monkeypatch.setattr(COCOValidator, "update_metrics", update_metrics)

    return replace


def small_model(folder: Path, names: dict[int, str]) -> Path:
    """Write a checkpoint of an untrained yolov8n with these classes, whose default data no test relies on."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", nc=len(names), verbose=False)
    model.names, model.args, model.task = names, {}, "detect"
    path = folder / "model.pt"
    torch.save({"model": model, "train_args": {}, "date": "", "version": ""}, path)
    return path


def by_pycocotools(path: Path, predictions: Path, image_ids: list[Any], **parameters: Any) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        judge = COCOeval(truth, truth.loadRes(json.loads(predictions.read_text())), "bbox")
        judge.params.imgIds = image_ids
        vars(judge.params).update(parameters)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def check(record: dict[str, Any], path: Path, image_ids: list[Any], **parameters: Any) -> None:
    numbers = [record["coco"][name] for name in NUMBERS]
    np.testing.assert_allclose(
        numbers, by_pycocotools(path, Path(record["predictions"]), image_ids, **parameters), atol=1e-6
    )


@pytest.fixture
def demo(tmp_path: Path, monkeypatch) -> Path:
    """Shapes with string image ids, crowd regions, other category ids and a box outside, as a user's own data."""
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shapes.write_shapes(tmp_path / "data", {"train": 16, "val": 24})
    for split in ("train", "val"):
        path = tmp_path / "data/annotations" / f"{split}.json"
        document = json.loads(path.read_text())
        for image in document["images"]:
            image["id"] = f"pic-{image['id']}"
        for number, note in enumerate(document["annotations"]):
            note["image_id"] = f"pic-{note['image_id']}"
            note["category_id"] = note["category_id"] * 1000 + 1
            note["iscrowd"] = int(number % 7 == 0)
        for category in document["categories"]:
            category["id"] = category["id"] * 1000 + 1
        path.write_text(json.dumps(document))
    file = tmp_path / "data/data.yaml"
    images = {"train": "images/train", "val": "images/val"}
    file.write_text(
        yaml.safe_dump({"train": "annotations/train.json", "val": "annotations/val.json", "images": images})
    )
    return file


NAMES = dict(enumerate(shapes.CATEGORIES.values()))


def test_official_numbers_equal_pycocotools_with_the_users_ids(demo: Path, tmp_path: Path, oracle, caplog) -> None:
    oracle(3)
    before = {str(p): p.stat().st_mtime_ns for p in demo.parent.rglob("*")}
    record = coco_run.val(small_model(tmp_path, NAMES), demo, **FAST)
    path = demo.parent / "annotations/val.json"
    ids = [image["id"] for image in json.loads(path.read_text())["images"]]
    check(record, path, ids)
    assert 0.05 < record["coco"]["AP"] < 0.95
    assert 0.05 < record["ultralytics"]["mAP50-95"] < 0.95
    predictions = json.loads(Path(record["predictions"]).read_text())
    assert {p["image_id"] for p in predictions} <= set(ids)
    assert {p["category_id"] for p in predictions} == {1001, 3001, 7001}
    assert Path(record["predictions"]).parent == Path(record["save_dir"]).absolute()
    assert {str(p): p.stat().st_mtime_ns for p in demo.parent.rglob("*")} == before


def test_classes_that_are_asked_for_are_the_ones_evaluated(demo: Path, tmp_path: Path, oracle) -> None:
    oracle(3)
    path = demo.parent / "annotations/val.json"
    ids = [image["id"] for image in json.loads(path.read_text())["images"]]
    record = coco_run.val(small_model(tmp_path, NAMES), demo, classes=[1], **FAST)
    assert record["coco"]["AP"] > 0.05
    check(record, path, ids, catIds=[3001])
    single = coco_run.val(small_model(tmp_path, NAMES), demo, single_cls=True, **FAST)
    assert single["coco"]["AP50"] > 0.05
    check(single, path, ids, useCats=0)


def test_a_model_that_predicts_nothing_gets_zeros(demo: Path, tmp_path: Path) -> None:
    record = coco_run.val(small_model(tmp_path, NAMES), demo, conf=0.999, **FAST)
    assert json.loads(Path(record["predictions"]).read_text()) == []
    assert record["coco"]["AP"] == 0


def test_models_of_other_classes_are_refused(demo: Path, tmp_path: Path) -> None:
    swapped = {0: "square", 1: "circle", 2: "triangle"}
    with pytest.raises(DataError, match=r"the model predicts 3 classes \(square, circle.*their order must be the same"):
        coco_run.val(small_model(tmp_path, swapped), demo, **FAST)
    with pytest.raises(DataError, match=r"the model predicts 2 classes \(a, b\)"):
        coco_run.val(small_model(tmp_path, {0: "a", 1: "b"}), demo, **FAST)


def test_training_ends_with_the_official_numbers(demo: Path) -> None:
    record = coco_run.train("yolov8n.yaml", demo, epochs=1, **FAST)
    assert Path(record["weights"]).name == "best.pt"
    path = demo.parent / "annotations/val.json"
    if json.loads(Path(record["predictions"]).read_text()):
        check(record, path, [image["id"] for image in json.loads(path.read_text())["images"]])
    assert set(record["coco"]) == set(NUMBERS)
    assert record["images"] == 24


def test_broken_data_end_before_a_model_is_built(demo: Path) -> None:
    (demo.parent / "annotations/val.json").write_text("{")
    with pytest.raises(DataError, match=r"val\.json: not JSON"):
        coco_run.train("no-such-model.yaml", demo)
    with pytest.raises(DataError, match=r"no 'test:'; it names train, val"):
        (demo.parent / "annotations/val.json").write_text((demo.parent / "annotations/train.json").read_text())
        coco_run.val("no-such-model.pt", demo, split="test")


@pytest.mark.skipif(not (DATA / "coco128").is_dir(), reason=f"no coco128 in {DATA}")
def test_real_coco_data_give_pycocotools_numbers_and_stay_as_they_are(tmp_path: Path, oracle, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    path = DATA / "coco128/annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    names = [c["name"] for c in sorted(document["categories"], key=lambda c: c["id"])]
    oracle(80)
    before = {str(p): p.stat().st_mtime_ns for p in (DATA / "coco128").rglob("*")}
    model = small_model(tmp_path, dict(enumerate(names)))
    arguments = coco_run.parse(["--weights", str(model), "--val-json", str(path), "imgsz=64"], "val")
    record = coco_run.val(**{**FAST, **arguments})
    check(record, path, [image["id"] for image in document["images"]])
    assert 0.05 < record["coco"]["AP"] < 0.95
    assert {p["category_id"] for p in json.loads(Path(record["predictions"]).read_text())} > {1, 90}
    assert {str(p): p.stat().st_mtime_ns for p in (DATA / "coco128").rglob("*")} == before


# The command line of the scripts.


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
    assert coco_run.parse([*words, "name=007"], "train") == {
        "model": "yolov8n-coordatt.yaml",
        "data": "my.yaml",
        "imgsz": 320,
        "amp": False,
        "lr0": 0.001,
        "device": None,
        "name": coco_run.parse(["model=m", "name=007"], "train")["name"],
    }
    assert coco_run.parse(["model=m.pt", "data=d.yaml"], "val") == {"weights": "m.pt", "data": "d.yaml"}


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
        coco_run.parse(words, "train")


def test_unknown_keys_give_the_hosts_own_error() -> None:
    with pytest.raises(SyntaxError, match="imgsz"):
        coco_run.parse(["--model", "a", "imgzs=320"], "train")


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
    assert "Official COCO numbers against" in done.stdout + done.stderr
    weights = next(Path(folder.parent).rglob("best.pt"))
    done = run("python", str(scripts / "val.py"), "--weights", str(weights), f"data={demo}", "imgsz=64", **path)
    assert "They differ because" in done.stdout + done.stderr
    assert '"predictions": ' in done.stdout
    (folder / "annotations/val.json").write_text("{")
    failed = run("python", str(scripts / "val.py"), "--weights", str(weights), f"data={demo}", ok=False, **path)
    assert failed.stderr.splitlines()[-1].startswith(f"error: {folder}/annotations/val.json: not JSON")
    assert "Traceback" not in failed.stderr


def test_resume_goes_on_with_the_data_of_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from yolo_attn.host import coco_run

    asked: list[dict] = []
    trainer = SimpleNamespace(best=tmp_path / "best.pt", last=tmp_path / "last.pt", save_dir=tmp_path)
    stub = SimpleNamespace(train=lambda **kwargs: asked.append(kwargs), trainer=trainer)
    monkeypatch.setattr(coco_run, "_load", lambda model: stub)
    coco_run.train(**coco_run.parse(["--model", "last.pt", "resume=True"], "train"))
    coco_run.train(**coco_run.parse(["--model", "yolov8n.yaml"], "train"))
    assert "data" not in asked[0] and asked[0]["resume"] is True
    assert asked[1]["data"] == "shapes.yaml"


def test_models_of_other_families_get_one_clear_error(run) -> None:
    scripts = Path(yolo_attn.__file__).parents[1] / "scripts"
    if not scripts.is_dir():
        pytest.skip("the scripts are in the checkout only")
    done = run("python", str(scripts / "train.py"), "--model", "rtdetr-l-cbam.yaml", "epochs=1", ok=False)
    assert "rtdetr-l-cbam.yaml is no YOLO model" in done.stderr and "Traceback" not in done.stderr
