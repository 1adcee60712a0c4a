"""The demo set: the same pictures everywhere, made once and whole."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolo_attn.coco import data_yaml, shapes
from yolo_attn.coco.index import load_index
from yolo_attn.errors import DataError
from yolo_attn.host.model.yamls import cfg_folder

FIRST_PICTURES = "1114f78a32c7154d"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    shapes.write_shapes(folder, {"train": 24, "val": 12})
    return folder


def digest(folder: Path, split: str, count: int) -> str:
    sha = hashlib.sha256()
    for number in range(count):
        sha.update(np.asarray(Image.open(folder / "images" / split / f"{number:06d}.png")).tobytes())
    return sha.hexdigest()[:16]


def test_pictures_are_the_same_everywhere(demo: Path) -> None:
    assert digest(demo, "train", 12) == FIRST_PICTURES
    assert digest(demo, "val", 12) != FIRST_PICTURES


def test_no_picture_is_in_both_splits(demo: Path) -> None:
    pictures = [path.read_bytes() for path in demo.rglob("*.png")]
    assert len(set(pictures)) == len(pictures) == 36


def test_boxes_and_areas_are_those_of_the_drawn_pixels(demo: Path) -> None:
    document = json.loads((demo / "annotations/train.json").read_text())
    files = {image["id"]: image for image in document["images"]}
    solid = 0
    for note in document["annotations"]:
        picture = np.asarray(Image.open(demo / "images/train" / files[note["image_id"]]["file_name"])).astype(int)
        x, y, w, h = note["bbox"]
        colour = picture[y + h // 2, x + w // 2]
        painted = (picture == colour).all(2)
        assert abs(painted[y : y + h, x : x + w].sum() - note["area"]) <= 2
        assert painted.sum() <= note["area"] + 2
        for edge in (
            painted[y, x : x + w],
            painted[y + h - 1, x : x + w],
            painted[y : y + h, x],
            painted[y : y + h, x + w - 1],
        ):
            assert edge.any()
        solid += 1
    assert solid > 20


def test_it_is_valid_coco_with_gaps_in_the_ids_negatives_and_small_objects(demo: Path) -> None:
    index = load_index(demo / "annotations/train.json", [demo / "images/train"])
    assert index.category_ids == (1, 3, 7)
    assert set(index.cls) == {0, 1, 2}
    assert index.counts["negatives"] == 2
    assert sum(index.counts[k] for k in ("clipped", "degenerate", "missing_images", "size_differs")) == 0
    areas = [a["area"] for a in json.loads((demo / "annotations/train.json").read_text())["annotations"]]
    assert min(areas) < 32**2 < 48**2 < max(areas)


def test_the_yaml_generates_it_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(shapes, "SPLITS", {"train": 5, "val": 3})
    found = data_yaml.describe(cfg_folder() / "datasets" / "shapes.yaml")
    assert found["names"] == {0: "circle", 1: "square", 2: "triangle"}
    assert len(load_index(found["train"], found["coco"]["train"]["images"])) == 5
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    data_yaml.describe(cfg_folder() / "datasets" / "shapes.yaml")
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_a_broken_off_generation_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes, "write_shapes", fail)
    with pytest.raises(DataError, match="No space left on device; set YOLO_ATTN_CACHE"):
        shapes.ensure_shapes()
    assert list((tmp_path / "yolo-attn").iterdir()) == []


def test_two_processes_at_once_make_one_set(tmp_path: Path, monkeypatch) -> None:
    code = (
        "from yolo_attn.coco import shapes\nshapes.SPLITS = {'train': 30, 'val': 5}\n"
        "w = shapes.write_shapes\nshapes.write_shapes = lambda f: w(f, shapes.SPLITS)\n"
        "f = shapes.ensure_shapes()\nprint(f, len(list(f.rglob('*'))))"
    )
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(said) == 1
    assert len(list((tmp_path / "cache/yolo-attn").iterdir())) == 1
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 35


def test_a_cache_folder_of_a_name_that_is_too_long_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / ("x" * 300)))
    with pytest.raises(DataError, match=r"cannot write the demo data .*File name too long; set YOLO_ATTN_CACHE"):
        shapes.ensure_shapes()
