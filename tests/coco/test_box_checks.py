"""Boxes that hardly mean what they say: counted and told with an example, and never told of sound files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn.coco.index import CocoIndex, load_index

SIZE = (64, 48)


def _index(write_coco, write_image, boxes: list[Any], task: str = "detect", **row: Any) -> CocoIndex:
    file = write_image("a.png", SIZE)
    path = write_coco([(1, "a.png", SIZE)], [(1, 1, box, row) for box in boxes])
    return load_index(path, [file.parent], task=task)


@pytest.mark.parametrize("boxes", [[(0.1, 0.1, 0.4, 0.4)], [(0.5, 0.5, 1, 1), (0, 0, 1, 1)], [(0.5, 0.5, 0.9, 0.8)]])
def test_relative_boxes_are_told(boxes, write_coco, write_image) -> None:
    (said,) = _index(write_coco, write_image, boxes).warnings()
    assert said.startswith(f"train.json: {len(boxes)} boxes are smaller than a pixel, as if relative to their image (")
    assert f"(annotation 1 has {list(map(float, boxes[0]))} in an image of [64, 48])" in said
    assert "multiply x and width by the image's width" in said


def test_a_few_relative_boxes_among_others_are_told(write_coco, write_image) -> None:
    (said,) = _index(write_coco, write_image, [(1, 1, 20, 20), (0.1, 0.2, 0.3, 0.4)]).warnings()
    assert said.startswith("train.json: 1 boxes") and "annotation 2 has [0.1, 0.2, 0.3, 0.4]" in said


def test_corners_in_place_of_sizes_are_told(write_coco, write_image) -> None:
    rng = np.random.default_rng(0)
    corners = [(*xy, *(xy + rng.integers(2, 12, 2)).tolist()) for xy in rng.integers(0, (50, 34), (30, 2))]
    index = _index(write_coco, write_image, [tuple(map(int, box)) for box in corners])
    said = index.warnings()[0]
    assert (
        "boxes leave their image as [x, y, width, height], and as [x1, y1, x2, y2] all would fit (annotation " in said
    )
    assert 0 < index.counts["corner_boxes"] < 30
    assert "write x2 - x1 and y2 - y1" in said


def test_one_box_of_corners_is_told(write_coco, write_image) -> None:
    (said,) = _index(write_coco, write_image, [(30, 10, 60, 44)]).warnings()
    assert "1 boxes leave" in said and "[30.0, 10.0, 60.0, 44.0] in an image of [64, 48]" in said


def test_centres_in_place_of_corners_are_told(write_coco, write_image) -> None:
    (said,) = _index(write_coco, write_image, [(55, 40, 16, 14), (20, 20, 4, 4)]).warnings()
    assert "1 boxes leave" in said and "x, y as their centre" in said and "x - width / 2" in said


def test_areas_of_zero_are_told(write_coco, write_image) -> None:
    (said,) = _index(write_coco, write_image, [(1, 1, 20, 20), (3, 3, 9, 9)], area=0).warnings()
    assert (
        "2 annotations have an 'area' of 0 or less though their box has one (annotation 1 has [1.0, 1.0, 20.0, 20.0])"
        in said
    )
    assert "leave 'area' out" in said
    for area in ("0", -1, 0.0):
        assert len(_index(write_coco, write_image, [(1, 1, 20, 20)], area=area).warnings()) == 1


def test_boxes_outside_their_image_are_told(write_coco, write_image) -> None:
    boxes = [(64, 5, 9, 9), (5, 48, 9, 9), (-9, 5, 9, 9), (5, -20, 9, 9), (800, 600, 90, 90), (63, 47, 1, 1)]
    index = _index(write_coco, write_image, boxes)
    assert index.counts["outside_boxes"] == 5 and index.counts["boxes"] == 1
    (said,) = (text for text in index.warnings() if "outside" in text)
    assert "5 boxes lie outside their image and are left out (annotation 1 has [64.0, 5.0, 9.0, 9.0] in an " in said


@pytest.mark.parametrize("row", [{}, {"area": None}, {"area": 1}])
def test_sound_files_are_not_warned_of(row, write_coco, write_image) -> None:
    rng = np.random.default_rng(1)
    boxes = rng.uniform((0, 0, 1, 1), (40, 30, 24, 18), (200, 4)).round(2).tolist()
    boxes += [(0, 0, 1, 1), (63, 47, 1, 1), (0, 0, 64, 48), (-3, -3, 20, 20), (60, 40, 30, 30), (5, 5, 0, 0)]
    assert _index(write_coco, write_image, boxes, **row).warnings() == []


def test_boxes_without_an_image_or_of_a_crowd_are_not_looked_at(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png", SIZE)
    crowd = (1, 1, (0.1, 0.1, 0.2, 0.2), {"iscrowd": 1, "area": 0})
    path = write_coco([(1, "a.png", SIZE), (2, "gone.png", SIZE)], [crowd, (2, 1, (0.1, 0.1, 0.2, 0.2), {"area": 0})])
    assert load_index(path, [tmp_path]).warnings() == []
