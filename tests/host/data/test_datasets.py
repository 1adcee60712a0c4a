"""The host's dataset on COCO JSON: labels equal the JSON, and nothing appears beside the user's images."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from yolo_attn.coco.data_yaml import describe
from yolo_attn.errors import DataError, HostError
from yolo_attn.host.data import builders, descriptions
from yolo_attn.host.model.yamls import cfg_folder

pytestmark = pytest.mark.usefixtures("installed")

CHECK = "ultralytics.data.utils"
BUILD = "ultralytics.data.build"


@pytest.fixture
def user(tmp_path: Path, write_coco, write_image, monkeypatch) -> Path:
    """A user's data YAML with six images in two folders and boxes of all kinds."""
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = [f"{folder}/{stem}.png" for folder in "yx" for stem in (1, 2, 3)]
    for i, name in enumerate(names):
        write_image(f"user/images/{name}", (64 + 8 * i, 48))
    boxes = [(f"id{i}", 30 if i % 2 else 4, (i, i, 20, 10), {"iscrowd": int(i == 3)}) for i in range(5)]
    boxes.append(("id0", 4, (60, 40, 99, 99), {}))
    for split in ("train", "val"):
        images = [(f"id{i}", name, (64 + 8 * i, 48)) for i, name in enumerate(names)]
        write_coco(images, boxes, {30: "thirty", 4: "four"}, f"user/annotations/{split}.json")
    file = tmp_path / "user" / "data.yaml"
    file.write_text(
        yaml.safe_dump({"train": "annotations/train.json", "val": "annotations/val.json", "images": "images"})
    )
    return file


def build(file: Path, mode: str = "train", split: str = "train", **changed: Any):
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(file))
    cfg = get_cfg(overrides={"imgsz": 64, "task": "detect", "split": "test" if split == "test" else "val", **changed})
    return build_yolo_dataset(cfg, data[split], 2, data, mode=mode, rect=mode == "val")


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


def test_the_joint_describes_coco_yamls_and_leaves_others_to_the_host(user: Path, tmp_path: Path) -> None:
    from ultralytics.data.utils import check_det_dataset

    found = check_det_dataset(str(user))
    assert found["names"] == {0: "four", 1: "thirty"}
    assert found["category_ids"] == [4, 30]
    assert found["yaml_file"] == str(user)
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump({"path": str(user.parent), "train": "images", "val": "images", "names": ["a"]}))
    stock = check_det_dataset(str(plain))
    assert "coco" not in stock
    assert stock["val"] == str(user.parent / "images")


def test_a_json_given_as_data_says_what_to_write(user: Path) -> None:
    from ultralytics.data.utils import check_det_dataset

    with pytest.raises(DataError, match=r"name the JSON in a data YAML with 'train:'"):
        check_det_dataset(str(user.parent / "annotations/val.json"))


def test_our_names_resolve_unless_the_user_has_a_file_of_that_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("shapes.yaml", "shapes"):
        assert descriptions.find_data(name) == cfg_folder() / "datasets" / "shapes.yaml"
    assert descriptions.find_data("other.yaml") is None
    assert descriptions.find_data("folder/shapes.yaml") is None
    Path("shapes.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    assert descriptions.find_data("shapes.yaml") is None
    assert descriptions.dataset_names() == ["shapes.yaml"]


def test_labels_equal_the_json(user: Path) -> None:
    dataset = build(user)
    document = json.loads((user.parent / "annotations/train.json").read_text())
    assert type(dataset).__name__ == "COCODataset"
    assert dataset.im_files == sorted(str(user.parent / "images" / i["file_name"]) for i in document["images"])
    by_id = {image["id"]: image for image in document["images"]}
    for label in dataset.labels:
        (image_id,) = dataset.image_ids[label["im_file"]]
        image = by_id[image_id]
        w, h = image["width"], image["height"]
        assert label["im_file"].endswith(image["file_name"])
        assert label["shape"] == (h, w)
        assert (label["bbox_format"], label["normalized"], label["segments"]) == ("xywh", True, [])
        wanted = []
        for a in document["annotations"]:
            if a["image_id"] == image_id and not a["iscrowd"]:
                x, y, bw, bh = a["bbox"]
                x2, y2 = min(x + bw, w), min(y + bh, h)
                box = [(x + x2) / 2 / w, (y + y2) / 2 / h, (x2 - x) / w, (y2 - y) / h]
                wanted.append([{4: 0, 30: 1}[a["category_id"]], *box])
        got = np.concatenate([label["cls"], label["bboxes"]], 1)
        np.testing.assert_allclose(got, np.array(wanted).reshape(-1, 5), atol=1e-6)
    assert sum(len(label["cls"]) for label in dataset.labels) == 5


def test_samples_of_train_and_val_load(user: Path) -> None:
    for mode in ("train", "val"):
        dataset = build(user, mode)
        batch = dataset.collate_fn([dataset[i] for i in range(2)])
        assert batch["img"].ndim == 4
        assert set(batch["im_file"]) <= set(dataset.im_files)


def test_classes_single_cls_and_fraction_are_the_hosts(user: Path) -> None:
    assert {c for label in build(user, classes=[1]).labels for c in label["cls"].ravel()} == {1.0}
    assert {c for label in build(user, single_cls=True).labels for c in label["cls"].ravel()} == {0.0}
    assert len(build(user, fraction=0.5)) == 3
    assert len(build(user, fraction=1.0)) == len(build(user, mode="val", fraction=0.5)) == 6


def test_a_pickled_dataset_is_whole(user: Path) -> None:
    dataset = build(user, mode="val")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.im_files == dataset.im_files
    assert copy.image_ids == dataset.image_ids
    assert list(copy.npy_files) == list(dataset.npy_files)
    np.testing.assert_array_equal(np.asarray(copy[0]["img"]), np.asarray(dataset[0]["img"]))


@pytest.mark.parametrize("cache", [False, "disk", "ram"])
def test_nothing_is_written_beside_the_images(user: Path, tmp_path: Path, cache: Any) -> None:
    before = tree(user.parent)
    dataset = build(user, cache=cache)
    dataset[0]
    assert tree(user.parent) == before
    cached = list((tmp_path / "cache").rglob("*.npy"))
    assert len(cached) == (6 if cache == "disk" else 0)
    if cache == "disk":
        assert dataset.cache == "disk"
        assert sorted(dataset.npy_files) == sorted(cached)
        times = {p: p.stat().st_mtime_ns for p in cached}
        build(user, cache=cache)
        assert {p: p.stat().st_mtime_ns for p in cached} == times


def test_a_changed_image_is_cached_anew(user: Path, write_image) -> None:
    before = list(build(user, cache="disk").npy_files)
    write_image("user/images/x/1.png", (88, 40))
    second = build(user, cache="disk")
    assert before[0] != second.npy_files[0]
    assert before[1:] == second.npy_files[1:]
    assert second.load_image(0)[1] == (40, 88)


def test_a_cache_folder_that_cannot_be_written_turns_the_cache_off(user: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "file"))
    dataset = build(user, cache="disk")
    assert dataset.cache is None
    assert dataset[0]["img"] is not None


def test_read_only_image_folders_train_and_cache(user: Path, tmp_path: Path, monkeypatch) -> None:
    # The superuser may write anywhere, but is told here that it may not.
    monkeypatch.setattr("os.access", lambda path, mode: not Path(path).is_relative_to(user.parent))
    folders = [p for p in user.parent.rglob("*") if p.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        dataset = build(user, cache="disk")
        assert dataset.cache == "disk"
        assert len(list((tmp_path / "cache").rglob("*.npy"))) == 6
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_other_tasks_and_missing_splits_are_clear_errors(user: Path) -> None:
    with pytest.raises(DataError, match=r"data.yaml: COCO JSON is for detect, segment, pose models; not for obb"):
        build(user, task="obb")
    with pytest.raises(DataError, match=r"data.yaml: no 'test:'; it names train, val"):
        build(user, mode="val", split="test")
    with pytest.raises(DataError, match=r"classes=\[7\]: .*data.yaml has classes 0 to "):
        build(user, classes=[7])


def test_training_data_without_a_box_is_an_error(user: Path) -> None:
    path = user.parent / "annotations/train.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "annotations": []}))
    with pytest.raises(DataError, match="none of its 'annotations' can be trained on"):
        build(user)
    assert len(build(user, mode="val")) == 6


def test_host_functions_of_another_shape_are_refused() -> None:
    def build_yolo_dataset(cfg):
        return cfg

    with pytest.raises(HostError, match="builds no YOLODataset"):
        builders.build_yolo_dataset_joint(build_yolo_dataset)


def test_other_data_reach_the_hosts_function_untouched(user: Path) -> None:
    calls = []

    def original(cfg, img_path, batch, data):
        calls.append((cfg, img_path, batch, data))
        return YOLODataset  # noqa: F821

    replaced = builders.build_yolo_dataset_joint(original)
    with pytest.raises(NameError):
        replaced(1, "images", batch=2, data={"names": {}})
    assert calls == [(1, "images", 2, {"names": {}})]
    assert replaced(type("Cfg", (), {"task": "detect"}), "a.json", 2, describe(user)).__name__ == "COCODataset"
