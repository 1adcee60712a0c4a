"""Each split of COCO data through the host's own paths: its own images, and no file that it does not need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from official import FAST, small_model

from yolo_attn.errors import DataError
from yolo_attn.host.run import train_val

pytestmark = pytest.mark.usefixtures("installed")

FOLDERS = {"train": "images/train", "val": "images/val", "test": "images/test"}
NAMES = {"train": ["t1.jpg", "t2.jpg"], "val": ["v1.jpg"], "test": ["e1.jpg", "e2.jpg"]}


@pytest.fixture
def data(tmp_path: Path, write_coco, write_image, monkeypatch) -> Path:
    """One JSON for three splits, each with a folder of images."""
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = [f"{split}/{name}" for split, own in NAMES.items() for name in own]
    for name in names:
        write_image(f"images/{name}", (64, 48))
    rows = [(i, 1, (8 + i, 8, 24, 20)) for i in range(len(names))]
    write_coco([(i, Path(n).name, (64, 48)) for i, n in enumerate(names)], rows, {1: "a"}, "all.json")
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({**dict.fromkeys(FOLDERS, "all.json"), "images": FOLDERS}))
    return file


def _dataset(file: Path, split: str, path: Any = None, task: str = "detect") -> Any:
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    described = check_det_dataset(str(file))
    settings = get_cfg(overrides={"imgsz": 64, "task": task})
    return build_yolo_dataset(settings, path or described[split], 2, described, mode="val", rect=False)


def _names(dataset: Any) -> list[str]:
    return [Path(label["im_file"]).name for label in dataset.labels]


@pytest.mark.parametrize("split", FOLDERS)
def test_one_json_for_all_splits_gives_each_its_own_images(split: str, data: Path, caplog) -> None:
    assert _names(_dataset(data, split)) == NAMES[split]
    assert "images of " in caplog.text and "or missing" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_training_validates_and_tests_on_images_of_those_splits(data: Path, monkeypatch) -> None:
    from ultralytics.models.yolo.detect import DetectionTrainer

    seen: dict[str, list[str]] = {}
    trainer = DetectionTrainer(overrides={"model": "yolov8n.yaml", "data": str(data), "epochs": 1, **FAST})
    trainer.add_callback("on_train_start", lambda t: seen.update(train=_names(t.train_loader.dataset)))
    trainer.add_callback("on_fit_epoch_end", lambda t: seen.update(val=_names(t.test_loader.dataset)))
    trainer.train()
    assert {split: sorted(names) for split, names in seen.items()} == {s: NAMES[s] for s in ("train", "val")}
    record = train_val.val(trainer.best, data, split="test", conf=0.0, **FAST)
    written = json.loads(Path(record["predictions"]["bbox"]).read_text())
    assert {row["file_name"] for row in written} <= set(NAMES["test"])
    assert (record["images"], record["images_in_json"]) == (2, 5)


def test_a_path_that_may_mean_several_splits_is_an_error(data: Path) -> None:
    assert _names(_dataset(data, "train", str(data.parent / "all.json"))) == NAMES["train"]
    with pytest.raises(DataError, match=r"all.json may mean train or val or test, which have other images"):
        _dataset(data, "train", str(data.parent / "x/../all.json"))
    with pytest.raises(DataError, match=r"other.json is none of the splits of"):
        _dataset(data, "train", str(data.parent / "other.json"))


def test_shared_images_are_told_once_in_a_run(data: Path, caplog) -> None:
    data.write_text(yaml.safe_dump({"train": "all.json", "val": "all.json", "images": "images/train"}))
    train_val.train("yolov8n.yaml", data, epochs=1, **FAST)
    told = [record for record in caplog.records if "are in 'train:' too" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
    assert told[0].getMessage().count("all 2 images of 'val:'") == 1


@pytest.mark.parametrize("gone", ["json", "images"])
def test_validation_does_not_need_what_training_needs(gone: str, data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(data.read_text())
    if gone == "json":
        content["train"] = "gone.json"
    else:
        content["images"] = {**FOLDERS, "train": "gone"}
    data.write_text(yaml.safe_dump(content))
    record = train_val.val(small_model(tmp_path, {0: "a"}), data, **FAST)
    assert record["images"] == 1 and "coco" in record
    wanted = "'train: gone.json': no such file" if gone == "json" else "'images: gone' for 'train': no such folder"
    with pytest.raises(DataError, match=wanted):
        train_val.train("yolov8n.yaml", data, epochs=1, **FAST)
    with pytest.raises(DataError, match=wanted):
        _dataset(data, "train")
    from ultralytics import YOLO

    with pytest.raises(DataError, match=wanted):
        YOLO("yolov8n.yaml").train(data=str(data), epochs=1, **FAST)


def test_training_needs_its_validation_split(data: Path) -> None:
    from ultralytics import YOLO

    data.write_text(yaml.safe_dump({"train": "all.json", "val": "gone.json", "images": "images/train"}))
    with pytest.raises(DataError, match=r"'val: gone.json': no such file"):
        YOLO("yolov8n.yaml").train(data=str(data), epochs=1, **FAST)


def test_warnings_of_boxes_reach_the_log(data: Path, tmp_path: Path, caplog) -> None:
    path = tmp_path / "all.json"
    document = json.loads(path.read_text())
    for note in document["annotations"]:
        note["bbox"] = [0.1, 0.1, 0.4, 0.4]
    path.write_text(json.dumps(document))
    _dataset(data, "val")
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "1 boxes are smaller than a pixel, as if relative to their image" in said


def test_predictions_have_the_ids_of_the_validation_json(data: Path, tmp_path: Path, write_coco) -> None:
    rows = [(2, "7", (10, 8, 24, 20))]
    write_coco([(2, "v1.jpg", (64, 48))], rows, {"7": "a"}, "val.json")
    document = json.loads((tmp_path / "all.json").read_text())
    document["categories"] = [{"id": 7, "name": "a"}]
    for note in document["annotations"]:
        note["category_id"] = 7
    (tmp_path / "all.json").write_text(json.dumps(document))
    data.write_text(yaml.safe_dump({"train": "all.json", "val": "val.json", "images": FOLDERS}))
    record = train_val.val(small_model(tmp_path, {0: "a"}), data, conf=0.0, **FAST)
    written = json.loads(Path(record["predictions"]["bbox"]).read_text())
    assert {row["category_id"] for row in written} == {"7"} and record["coco"]["bbox"]["AP"] >= 0


def test_the_reason_that_explains_most_is_named_first(data: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    import inspect

    import torch
    from ultralytics.models.yolo.detect import DetectionValidator

    if not hasattr(DetectionValidator, "scale_preds"):
        pytest.skip("this host compares boxes that it has clipped")
    assert "predn" in inspect.signature(DetectionValidator.scale_preds).parameters
    path = tmp_path / "all.json"
    document = json.loads(path.read_text())
    for note in document["annotations"]:
        note["bbox"], note["area"] = [0, 0, 64, 48], 64 * 48
    path.write_text(json.dumps(document))

    def postprocess(self: Any, preds: Any) -> list[dict[str, torch.Tensor]]:
        return [
            {
                "bboxes": torch.tensor([[-40.0, -40, 104, 104]]),
                "conf": torch.tensor([0.9]),
                "cls": torch.zeros(1),
                "extra": torch.zeros(1, 0),
            }
            for _ in range(len(preds[0] if isinstance(preds, list | tuple) else preds))
        ]

    monkeypatch.setattr(DetectionValidator, "postprocess", postprocess)
    record = train_val.val(small_model(tmp_path, {0: "a"}), data, **FAST)
    assert record["coco"]["bbox"]["AP"] == pytest.approx(1)
    assert record["ultralytics"]["bbox"]["mAP50-95"] < 0.01
    (line,) = [text for r in caplog.records for text in r.getMessage().splitlines() if text.startswith("They differ")]
    assert line == (
        "They differ because COCO judges boxes clipped to the image (Ultralytics does not; 1 reach out of it) "
        "[-1.0000 mAP50-95]."
    ) or line.endswith("[-1.0000 mAP50].")
    assert "in steps" not in line
