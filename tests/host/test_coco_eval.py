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
from yolo_attn.coco.evaluation import MEASURES, NUMBERS
from yolo_attn.errors import DataError
from yolo_attn.host import coco_run

pytestmark = pytest.mark.usefixtures("installed")

DATA = Path(os.environ.get("YOLO_ATTN_DATA", Path(__file__).parents[3] / "shared" / "data"))
FAST = {"imgsz": 64, "workers": 0, "plots": False, "batch": 8, "verbose": False}


@pytest.fixture
def oracle(monkeypatch):
    """Let every object the model 'predicts' be a disturbed true one with a coarse score, so that numbers say much."""
    from ultralytics.models.yolo.detect import DetectionValidator

    def replace(categories: int) -> None:
        import torch

        rng = np.random.default_rng(0)
        plain = DetectionValidator.update_metrics

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
                if preds and isinstance(preds[0], dict):
                    rows = {"bboxes": rows[:, :4], "conf": rows[:, 4], "cls": rows[:, 5], "extra": rows[:, 6:]}
                if self.args.task == "segment":
                    number = torch.arange(1, int(mine.sum()) + 1).view(-1, 1, 1)
                    masks = (batch["masks"][i] == number).float()[None]
                    masks = torch.nn.functional.interpolate(masks, (h, w))[0] if mine.any() else torch.zeros(0, h, w)
                    rows["masks"] = torch.roll(masks.repeat_interleave(3, 0)[order], int(rng.integers(-1, 2)), 2).byte()
                if self.args.task == "pose":
                    points = batch["keypoints"][mine].cpu() * torch.tensor([w, h, 1])
                    noise = torch.tensor(rng.normal(0, 1, (3 * len(points), *points.shape[1:])), dtype=torch.float32)
                    rows["keypoints"] = (points.repeat_interleave(3, 0) + noise)[order]
                made.append(rows)
            plain(self, made, batch)

        monkeypatch.setattr(DetectionValidator, "update_metrics", update_metrics)

    return replace


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


def _ids(data: Path) -> list[Any]:
    return [image["id"] for image in json.loads((data.parent / "annotations/val.json").read_text())["images"]]


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
    ids = _ids(demo)
    check(record, path, ids)
    assert 0.05 < record["coco"]["bbox"]["AP"] < 0.95
    assert 0.05 < record["ultralytics"]["bbox"]["mAP50-95"] < 0.95
    predictions = json.loads(Path(record["predictions"]["bbox"]).read_text())
    assert {p["image_id"] for p in predictions} <= set(ids)
    assert {p["category_id"] for p in predictions} == {1001, 3001, 7001}
    assert Path(record["predictions"]["bbox"]).parent == Path(record["save_dir"]).absolute()
    assert {str(p): p.stat().st_mtime_ns for p in demo.parent.rglob("*")} == before


def test_classes_that_are_asked_for_are_the_ones_evaluated(demo: Path, tmp_path: Path, oracle) -> None:
    oracle(3)
    path = demo.parent / "annotations/val.json"
    ids = _ids(demo)
    record = coco_run.val(small_model(tmp_path, NAMES), demo, classes=[1], **FAST)
    assert record["coco"]["bbox"]["AP"] > 0.05
    check(record, path, ids, catIds=[3001])
    single = coco_run.val(small_model(tmp_path, NAMES), demo, single_cls=True, **FAST)
    assert single["coco"]["bbox"]["AP50"] > 0.05
    check(single, path, ids, useCats=0)


def test_a_model_that_predicts_nothing_gets_zeros(demo: Path, tmp_path: Path) -> None:
    record = coco_run.val(small_model(tmp_path, NAMES), demo, conf=0.999, **FAST)
    assert json.loads(Path(record["predictions"]["bbox"]).read_text()) == []
    assert record["coco"]["bbox"]["AP"] == 0


def test_classes_are_matched_by_name_where_their_order_differs(demo: Path, tmp_path: Path, oracle) -> None:
    oracle(3)
    path = demo.parent / "annotations/val.json"
    ids = _ids(demo)
    swapped = {0: "Square", 1: "zebra", 2: "circle", 3: "triangle"}
    record = coco_run.val(small_model(tmp_path, swapped), demo, **FAST)
    check(record, path, ids)
    assert 0.03 < record["coco"]["bbox"]["AP"] < 0.95
    # The host's own mAP sees the same matching: it would be near 0 if labels kept the numbers of the data.
    assert record["ultralytics"]["bbox"]["mAP50-95"] == pytest.approx(record["coco"]["bbox"]["AP"], abs=0.15)
    assert any("of classes that" in note and "(zebra)" in note for note in record["notes"])


def test_categories_that_the_model_lacks_count_as_zero(demo: Path, tmp_path: Path, oracle) -> None:
    oracle(2)
    path = demo.parent / "annotations/val.json"
    ids = _ids(demo)
    record = coco_run.val(small_model(tmp_path, {0: "triangle", 1: "square"}), demo, **FAST)
    check(record, path, ids)
    assert any("the model cannot predict circle" in note for note in record["notes"])


def test_labels_of_a_smaller_model_are_cut_by_name_and_not_by_number(demo: Path, tmp_path: Path, oracle) -> None:
    oracle(2)
    own = []
    for names in ({0: "circle", 1: "square"}, {0: "square", 1: "triangle"}):
        record = coco_run.val(small_model(tmp_path, names), demo, **FAST)
        check(record, demo.parent / "annotations/val.json", _ids(demo))
        own.append(record["ultralytics"]["bbox"]["mAP50"])
    # Whichever two the model knows, the third counts as missed: about two thirds of what it finds are left.
    assert own[1] > 0.05 and own[0] > 0.05


def test_names_decide_as_soon_as_one_is_shared(demo: Path, tmp_path: Path, oracle) -> None:
    oracle(3)
    record = coco_run.val(small_model(tmp_path, {0: "circle", 1: "square", 2: "stain"}), demo, **FAST)
    assert any("predictions are left out" in note and "(stain)" in note for note in record["notes"])
    assert any("cannot predict triangle" in note for note in record["notes"])


def test_a_split_without_annotations_has_nothing_to_compare(demo: Path, tmp_path: Path) -> None:
    path = demo.parent / "annotations/val.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "annotations": []}))
    record = coco_run.val(small_model(tmp_path, NAMES, "segment"), demo, **FAST)
    assert "coco" not in record and set(record["predictions"]) == {"bbox", "segm"}


def test_an_older_report_in_the_folder_is_not_taken(demo: Path, tmp_path: Path) -> None:
    import os

    where = {"project": str(tmp_path / "runs"), "name": "same", "exist_ok": True}
    model = small_model(tmp_path, NAMES)
    record = coco_run.val(model, demo, **where, **FAST)
    assert record["images"] == 24
    os.utime(Path(record["save_dir"]) / "coco_metrics.json", (1, 1))
    yolo_data = tmp_path / "plain.yaml"
    for split in ("train", "val"):
        (demo.parent / "labels" / split).mkdir(parents=True)
    yolo_data.write_text(
        f"path: {demo.parent}\ntrain: images/train\nval: images/val\nnames: [circle, square, triangle]\n"
    )
    assert "images" not in coco_run.val(model, yolo_data, **where, **FAST)


def test_models_without_a_name_in_common_are_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the model predicts 2 classes \(a, b\).*no name is in both"):
        coco_run.val(small_model(tmp_path, {0: "a", 1: "b"}), demo, **FAST)
    record = coco_run.val(small_model(tmp_path, {0: "a", 1: "b", 2: "c"}), demo, **FAST)
    assert any("matched by their position" in note for note in record["notes"])


@pytest.mark.skipif(not (DATA / "coco128").is_dir(), reason=f"no coco128 in {DATA}")
def test_masks_are_judged_as_pycocotools_does(tmp_path: Path, oracle, monkeypatch) -> None:
    _needs_dict_predictions()
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    path = DATA / "coco128/annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    names = [c["name"] for c in sorted(document["categories"], key=lambda c: c["id"])]
    oracle(80)
    model = small_model(tmp_path, dict(enumerate(names)), "segment")
    arguments = coco_run.parse(["--weights", str(model), "--val-json", str(path)], "val")
    record = coco_run.val(**{**FAST, **arguments, "imgsz": 128})
    for kind in ("bbox", "segm"):
        check(record, path, [image["id"] for image in document["images"]], kind)
        assert 0.05 < record["coco"][kind]["AP"] < 0.95
    assert Path(record["per_class"]).read_text().count("segm,") == 81


def test_keypoints_are_judged_as_pycocotools_does(demo: Path, tmp_path: Path, oracle) -> None:
    _needs_dict_predictions()
    oracle(3)
    rng = np.random.default_rng(5)
    for split in ("train", "val"):
        path = demo.parent / "annotations" / f"{split}.json"
        document = json.loads(path.read_text())
        for category in document["categories"]:
            category["keypoints"] = [f"p{i}" for i in range(17)]
        for note in document["annotations"]:
            x, y, w, h = note["bbox"]
            seen = rng.integers(0, 3, 17)
            points = np.column_stack([x + rng.uniform(0, w, 17), y + rng.uniform(0, h, 17), seen]) * (seen > 0)[:, None]
            note["keypoints"] = points.round(2).ravel().tolist()
            note["num_keypoints"] = int((seen > 0).sum())
        path.write_text(json.dumps(document))
    record = coco_run.val(small_model(tmp_path, NAMES, "pose", data_kpt_shape=(17, 3)), demo, **FAST)
    path = demo.parent / "annotations/val.json"
    ids = _ids(demo)
    for kind in ("bbox", "keypoints"):
        check(record, path, ids, kind)
        assert 0.05 < record["coco"][kind]["AP"] < 0.99
    trained = coco_run.train("yolov8n-pose.yaml", demo, epochs=1, **FAST)
    assert set(trained["coco"]) == {"bbox", "keypoints"}


def test_a_category_that_only_the_training_split_has_changes_no_number(demo: Path, tmp_path: Path, oracle) -> None:
    oracle(4)
    path = demo.parent / "annotations/train.json"
    document = json.loads(path.read_text())
    document["categories"].append({"id": 2001, "name": "hexagon"})
    path.write_text(json.dumps(document))
    record = coco_run.val(small_model(tmp_path, {0: "circle", 1: "hexagon", 2: "square", 3: "triangle"}), demo, **FAST)
    path = demo.parent / "annotations/val.json"
    check(record, path, _ids(demo))
    assert 0.03 < record["coco"]["bbox"]["AP"] < 0.95


def test_keypoints_without_visibility_are_written_as_triples(monkeypatch) -> None:
    from types import SimpleNamespace

    from ultralytics.models.yolo.pose import PoseValidator

    from yolo_attn.host import coco_validator

    for name, number in (("two", 2), ("three", 3)):
        validator = coco_validator._official(PoseValidator).__new__(coco_validator._official(PoseValidator))
        # Three points: neither 6 nor 9 numbers say by themselves how many belong to a point.
        written = [float(n) for n in range(3 * number)]
        row = {"image_id": "", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5, "keypoints": written}
        monkeypatch.setattr(PoseValidator, "pred_to_json", lambda self, *_, row=row: self.jdict.append(dict(row)))
        dataset = SimpleNamespace(image_ids={"a/b.png": (7,)})
        validator.jdict, validator._foreign, validator.data = [], 0, {"kpt_shape": [3, number]}
        validator.dataloader = SimpleNamespace(dataset=dataset)
        validator.pred_to_json(None, "a/b.png")
        (made,) = validator.jdict
        assert made["keypoints"] == ([0, 1, 1, 2, 3, 1, 4, 5, 1] if number == 2 else written), name
        assert (made["image_id"], made["file_name"]) == (7, "b.png")


def test_a_pose_model_needs_keypoints(demo: Path, tmp_path: Path) -> None:
    from ultralytics import YOLO

    with pytest.raises((DataError, RuntimeError), match="keypoints") as caught:
        YOLO("yolov8n-pose.yaml").train(data=str(demo), epochs=1, **FAST)
    assert isinstance(caught.value.__cause__ or caught.value, DataError)
    with pytest.raises(DataError, match=r"(train|val)\.json.*keypoints"):
        coco_run.val(small_model(tmp_path, NAMES, "pose", data_kpt_shape=(17, 3)), demo, **FAST)


def test_images_without_annotations_get_predictions_to_submit(demo: Path, tmp_path: Path, oracle) -> None:
    path = demo.parent / "annotations/val.json"
    document = json.loads(path.read_text())
    del document["annotations"]
    (demo.parent / "annotations/test.json").write_text(json.dumps(document))
    content = yaml.safe_load(demo.read_text())
    content |= {"test": "annotations/test.json", "images": {**content["images"], "test": "images/val"}}
    demo.write_text(yaml.safe_dump(content))
    record = coco_run.val(small_model(tmp_path, NAMES), demo, split="test", conf=0.0001, **FAST)
    assert "coco" not in record
    predictions = json.loads(Path(record["predictions"]["bbox"]).read_text())
    assert predictions and {p["image_id"] for p in predictions} <= {image["id"] for image in document["images"]}


@pytest.mark.parametrize("form", ["onnx", "torchscript", "openvino"])
def test_exported_models_validate_as_their_checkpoint(demo: Path, tmp_path: Path, form: str) -> None:
    if form == "onnx" and not _host_exports_onnx():
        pytest.skip("this Ultralytics is older than this torch: its ONNX export needs onnxscript")
    pytest.importorskip(form if form != "torchscript" else "torch")
    from ultralytics import YOLO

    model = small_model(tmp_path, NAMES, yaml="yolov8n-cbam.yaml", spread=30.0)
    exported = YOLO(model).export(format=form, imgsz=64)
    settings = {**FAST, "rect": False, "conf": 0.1, "iou": 1.0}  # without suppression, which ties decide
    native, record = (coco_run.val(file, demo, **settings) for file in (model, exported))
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
    check(record, path, _ids(demo))


def _host_exports_onnx() -> bool:
    import importlib.util

    from ultralytics.engine import exporter

    folder = Path(exporter.__file__).parents[1]
    sources = [Path(exporter.__file__), *folder.glob("utils/export/*.py")]
    return bool(importlib.util.find_spec("onnxscript")) or any("dynamo" in file.read_text() for file in sources)


def _needs_dict_predictions() -> None:
    import inspect

    from ultralytics.models.yolo.detect import DetectionValidator

    if '"conf"' not in inspect.getsource(DetectionValidator.postprocess):
        pytest.skip("the predictions that this test makes up are those of newer hosts")


def test_training_ends_with_the_official_numbers(demo: Path) -> None:
    record = coco_run.train("yolov8n.yaml", demo, epochs=1, **FAST)
    assert Path(record["weights"]).name == "best.pt"
    path = demo.parent / "annotations/val.json"
    if json.loads(Path(record["predictions"]["bbox"]).read_text()):
        check(record, path, _ids(demo))
    assert set(record["coco"]["bbox"]) == set(NUMBERS)
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
    assert 0.05 < record["coco"]["bbox"]["AP"] < 0.95
    assert {p["category_id"] for p in json.loads(Path(record["predictions"]["bbox"]).read_text())} > {1, 90}
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

    from yolo_attn.host import coco_run

    asked: list[dict] = []
    trainer = SimpleNamespace(best=tmp_path / "best.pt", last=tmp_path / "last.pt", save_dir=tmp_path)
    stub = SimpleNamespace(train=lambda **kwargs: asked.append(kwargs), trainer=trainer)
    monkeypatch.setattr(coco_run, "_load", lambda model, task: stub)
    coco_run.train(**coco_run.parse(["--model", "last.pt", "resume=True"], "train"))
    coco_run.train(**coco_run.parse(["--model", "yolov8n.yaml"], "train"))
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
    check(report, path, _ids(demo))
    (demo.parent / "annotations/val.json").write_text("{")
    failed = run("yolo", "val", f"model={model}", f"data={demo}", *words, ok=False)
    assert failed.stderr.splitlines()[-1].startswith(f"error: {demo.parent}/annotations/val.json: not JSON")
    assert "Traceback" not in failed.stderr
