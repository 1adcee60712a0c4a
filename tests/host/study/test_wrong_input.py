"""Data, models and names that a study cannot use are refused in one line that quotes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_study

from yolo_attn.errors import DataError, StudyError, YoloAttnError
from yolo_attn.host.study import data, models

RECIPE = {"imgsz": 32, "batch": 4, "epochs": 1}
SPLITS = "path: {root}\ntrain: images/train\nval: images/val\n"
WRONG = {
    "{root}/images": "No YAML file found",
    "text.png": "Not a YAML file",
    "train: images/train\nnames: [a]": "'val:' key missing",
    SPLITS: "either 'names' or 'nc' are required",
    SPLITS + "names: [a, b, c]\nnc: 5": "'names' length 3 and 'nc: 5' must match",
    SPLITS + "names: {{0: a, 7: b}}": "requires class indices 0-1",
    SPLITS.replace("images/train", "images/trian") + "names: [a, b, c]": "images/trian",
    "- a": "not a valid YAML mapping",
    "path: [": "YAML syntax error",
}


@pytest.mark.parametrize("text", WRONG)
def test_data_that_cannot_be_used_are_named(text: str, tiny: Path, tmp_path: Path) -> None:
    given = text.format(root=tiny.parent)
    if text.endswith((".png", "images")):
        file = given if text.startswith("{") else str(tmp_path / given)
        Path(file).touch()
    else:
        file = str(tmp_path / "data.yaml")
        Path(file).write_text(given, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        data.examine(file, RECIPE)
    said = str(caught.value)
    assert said.startswith(f"data={file} cannot be used: ") and WRONG[text] in said
    assert "\n" not in said and "\x1b" not in said


def test_labels_that_are_missing_or_of_no_class_are_named(tmp_path: Path) -> None:
    file = tiny_study.write_data(tmp_path / "own")
    with pytest.raises(DataError, match=r"no image of 'train:' has an object"):
        data.examine(str(file), {**RECIPE, "classes": [9]})
    (tmp_path / "own/labels").rename(tmp_path / "elsewhere")
    for cache in tmp_path.rglob("*.cache"):
        cache.unlink()
    with pytest.raises(DataError, match=r"cannot be used: .*[Nn]o labels found"):
        data.examine(str(file), RECIPE)


def test_what_is_kept_in_memory_or_sorted_changes_no_description(tiny: Path, tmp_path: Path) -> None:
    plain = data.examine(str(tiny), RECIPE, tmp_path / "a")
    kept = data.examine(str(tiny), {**RECIPE, "cache": "ram", "rect": True}, tmp_path / "a")
    assert kept == plain


MODELS = {
    "yolov8n-seg": "models=yolov8n-seg is a segment model; a study compares detection models",
    "yolov8n-cls": "is a classify model",
    "yolov8n-pose.yaml": "is a pose model",
    "best.pt": "models=best.pt is a checkpoint; name its model YAML",
    "yolo8n": "there is no model 'yolo8n'; did you mean",
    "model.onnx": "there is no model 'model.onnx'",
    "data.yaml": "data.yaml is no model YAML: it has no rows in 'backbone:'",
    "list.yaml": "list.yaml is no model YAML: ",
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_studied_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").touch()
    Path("data.yaml").write_text("train: images\nnames: [a]\n", encoding="utf-8")
    Path("list.yaml").write_text("- a\n", encoding="utf-8")
    with pytest.raises(YoloAttnError) as caught:
        models.load(name, "models")
    assert MODELS[name] in str(caught.value)


@pytest.mark.parametrize("name", ["yolov8n", "yolo12n-cbam", "rtdetr-l", "yolov8n-world", "yolov10n"])
def test_every_kind_of_detector_is_let_through(name: str) -> None:
    assert models.load(name)["head"]


def test_a_checkpoint_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    file = tmp_path / "base.pt"
    file.write_text("hello", encoding="utf-8")
    with pytest.raises(YoloAttnError, match=r"base\.pt is no checkpoint that torch can read"):
        models.check_checkpoint("pretrained", str(file))
    with pytest.raises(StudyError, match="there is no such file"):
        models.check_checkpoint("pretrained", str(tmp_path / "other.pt"))
