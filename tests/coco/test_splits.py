"""Splits against each other: each has its own images, whatever files they share; images in two of them are told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolo_attn.coco import splits
from yolo_attn.coco.data_yaml import describe
from yolo_attn.coco.index import load_index
from yolo_attn.errors import DataError

LEAK = "numbers say nothing about new images"


def _data(folder: Path, **content: Any) -> dict[str, Any]:
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content))
    return describe(file)


def _files(found: dict[str, Any], split: str) -> list[str]:
    where = found["coco"][split]
    return [Path(file).name for file in load_index(where["json"], where["images"]).files]


@pytest.fixture
def one_json(write_coco, write_image, tmp_path: Path) -> Path:
    names = ["train/t1.jpg", "train/t2.jpg", "val/v1.jpg", "test/e1.jpg"]
    for name in names:
        write_image(f"images/{name}")
    rows = [(i, 1, (i, 0, 9, 9)) for i in range(4)]
    return write_coco([(i, name.split("/")[1]) for i, name in enumerate(names)], rows, {1: "a"}, "all.json")


FOLDERS = {"train": "images/train", "val": "images/val", "test": "images/test"}


@pytest.mark.parametrize(
    "images", [FOLDERS, None, {"train": ["images/train"], "val": "./images/val", "test": "images/test"}]
)
def test_one_json_for_all_splits_gives_each_its_own_images(images, one_json: Path, tmp_path: Path) -> None:
    named = {"images": images} if images else {}
    found = _data(tmp_path, train="all.json", val="./all.json", test=str(one_json), **named)
    assert [_files(found, split) for split in FOLDERS] == [["t1.jpg", "t2.jpg"], ["v1.jpg"], ["e1.jpg"]]
    paths = [found[split] for split in FOLDERS]
    assert len(set(paths)) == 3 and all(os.path.samefile(path, one_json) for path in paths)  # noqa: PTH121
    assert found["warnings"] == []


def test_names_with_their_split_in_front_find_only_its_images(write_coco, write_image, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(f"images/{split}/0001.jpg")
    write_image("images/val/0002.jpg")
    names = ["train/0001.jpg", "train/0002.jpg", "val/0001.jpg"]
    write_coco(list(enumerate(names)), [(i, 1, (i, 0, 9, 9)) for i in range(3)], name="all.json")
    found = _data(tmp_path, train="all.json", val="all.json", images={s: f"images/{s}" for s in ("train", "val")})
    assert [load_index(found[s], found["coco"][s]["images"]).ids for s in ("train", "val")] == [((0,),), ((2,),)]
    assert found["warnings"] == []


def test_splits_of_the_same_json_and_images_are_told(one_json: Path, tmp_path: Path) -> None:
    found = _data(tmp_path, train="all.json", val="all.json", images="images/train")
    (said,) = found["warnings"]
    assert said.startswith("all 2 images of 'val:' are in 'train:' too, like ") and said.endswith(LEAK)
    assert found["train"] == found["val"]


@pytest.mark.parametrize("spelling", ["copy", "link", "absolute", "with dots"])
def test_the_same_json_by_another_path_is_told(spelling: str, one_json: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    if spelling == "copy":
        shutil.copy(one_json, other)
    elif spelling == "link":
        other.symlink_to(one_json)
    val = {"absolute": str(one_json), "with dots": "images/../all.json"}.get(spelling, "other.json")
    (said,) = _data(tmp_path, train="all.json", val=val, images="images/train")["warnings"]
    assert said.startswith("all 2 images of 'val:' are in 'train:' too")


def _two(write_coco, train: list[str], val: list[str]) -> None:
    for split, names in (("train", train), ("val", val)):
        rows = [(i, 1, (i, 0, 9, 9)) for i in range(len(names))]
        write_coco(list(enumerate(names)), rows, {1: "a"}, f"{split}.json")


def test_shared_images_of_two_files_are_counted(write_coco, write_image, tmp_path: Path) -> None:
    for name in "abcd":
        write_image(f"images/{name}.jpg")
    _two(write_coco, ["a.jpg", "b.jpg", "c.jpg"], ["c.jpg", "d.jpg"])
    (said,) = _data(tmp_path, train="train.json", val="val.json", images="images")["warnings"]
    assert said == f"1 of 2 images of 'val:' are in 'train:' too, like {tmp_path}/images/c.jpg: {LEAK}"
    _two(write_coco, ["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"])
    assert _data(tmp_path, train="train.json", val="val.json", images="images")["warnings"] == []


@pytest.mark.parametrize("how", ["link", "link of another name", "folder link", "copy", "hard link"])
def test_images_that_are_the_same_by_a_link_or_a_copy_are_told(how, write_coco, write_image, tmp_path: Path) -> None:
    for letter in "abc":
        write_image(f"train/{letter}.jpg")
    name = "z.jpg" if how == "link of another name" else "b.jpg"
    if how == "folder link":
        (tmp_path / "val").symlink_to(tmp_path / "train")
    else:
        (tmp_path / "val").mkdir()
        make = {"copy": shutil.copy, "hard link": os.link}.get(how, os.symlink)
        make(tmp_path / "train/b.jpg", tmp_path / "val" / name)
    _two(write_coco, ["a.jpg", "b.jpg", "c.jpg"], [name])
    (said,) = _data(tmp_path, train="train.json", val="val.json", images={"train": "train", "val": "val"})["warnings"]
    assert said.startswith("all 1 images of 'val:' are in 'train:' too")


def test_other_images_of_the_same_names_are_not_told(write_coco, tmp_path: Path) -> None:
    for split, shade in (("train", b"one"), ("val", b"two")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0001.jpg").write_bytes(shade)  # of equal length
    _two(write_coco, ["0001.jpg"], ["0001.jpg"])
    found = _data(tmp_path, train="train.json", val="val.json", images={"train": "train", "val": "val"})
    assert found["warnings"] == []


def test_test_images_in_the_validation_split_are_told(write_coco, write_image, tmp_path: Path) -> None:
    for name in "abc":
        write_image(f"images/{name}.jpg")
    _two(write_coco, ["a.jpg"], ["b.jpg", "c.jpg"])
    (said,) = _data(tmp_path, train="train.json", val="val.json", test="val.json", images="images")["warnings"]
    assert said.startswith("all 2 images of 'test:' are in 'val:' too") and said.endswith("the two are not independent")


def test_file_names_are_kept_in_the_cache_folder(write_coco, write_image, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    write_image("images/a.jpg")
    _two(write_coco, ["a.jpg"], ["a.jpg"])
    content = {"train": "train.json", "val": "val.json", "images": "images"}
    first = _data(tmp_path, **content)["warnings"]
    splits._remembered.clear()
    monkeypatch.setattr(splits, "read_coco_json", None)
    assert _data(tmp_path, **content)["warnings"] == first != []


def test_splits_of_one_json_have_labels_of_their_own_in_the_cache(one_json: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    found = _data(tmp_path, train="all.json", val="all.json", images={s: FOLDERS[s] for s in ("train", "val")})
    for _ in range(2):
        assert [_files(found, split) for split in ("train", "val")] == [["t1.jpg", "t2.jpg"], ["v1.jpg"]]


@pytest.mark.parametrize("content", [{"val": "all.json"}, {"train": "all.json", "val": "no.json"}])
def test_a_split_that_is_not_here_is_no_error_before_it_is_asked_for(content, one_json: Path, tmp_path: Path) -> None:
    found = _data(tmp_path, **{"train": "gone.json", **content}, test="nowhere/test.json", images="images/train")
    here = [split for split in content if content[split] == "all.json"]
    assert list(found["coco"]) == here
    assert f"'test: nowhere/test.json': no such file: {tmp_path}/nowhere/test.json" in found["absent"]["test"]
    assert set(found["absent"]) == {"train", "val", "test"} - set(here)


def test_a_folder_of_images_that_is_not_here_is_likewise(one_json: Path, tmp_path: Path) -> None:
    found = _data(tmp_path, train="all.json", val="all.json", images={"train": "gone", "val": "images/val"})
    assert list(found["coco"]) == ["val"] and "'images: gone' for 'train': no such folder" in found["absent"]["train"]


def test_without_all_splits_more_classes_may_be_named(one_json: Path, tmp_path: Path) -> None:
    content = {"val": "all.json", "images": "images/val", "nc": 2}
    assert _data(tmp_path, train="gone.json", names=["b", "a"], **content)["names"] == {0: "a"}
    with pytest.raises(DataError, match="are not those of the JSON files"):
        _data(tmp_path, train="gone.json", names=["b", "c"], **content)
    with pytest.raises(DataError, match="are not those of the JSON files"):
        _data(tmp_path, train="all.json", names=["b", "a"], **content)


def test_names_may_be_paths_below_the_root(write_coco, write_image, tmp_path: Path) -> None:
    file = write_image("images/val/000342/0001.jpg")
    rows = [(1, 1, (1, 1, 9, 9))]
    write_coco([(1, "images/val/000342/0001.jpg")], rows, {1: "person"}, "annotations/val/000342.json")
    found = _data(tmp_path, val="annotations/val/000342.json")
    assert load_index(found["val"], found["coco"]["val"]["images"]).files == (str(file),)


def test_without_any_split_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'train: no.json': no such file"):
        _data(tmp_path, train="no.json", val="neither.json")
