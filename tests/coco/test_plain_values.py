"""Numbers, ids and lists in another form than COCO's: read where they mean one thing only, refused where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn.coco.coco_json import merge_categories, read_coco_json
from yolo_attn.coco.data_yaml import describe
from yolo_attn.coco.index import load_index
from yolo_attn.coco.plain_values import number, same_ids
from yolo_attn.errors import DataError

SQUARE = [8, 8, 32, 8, 32, 28, 8, 28]


def _write(folder: Path, row: dict[str, Any], image: dict[str, Any] | None = None, **more: Any) -> Path:
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20, **(image or {})}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 24, 10], "area": 240, **row}],
        "categories": [{"id": 1, "name": "pen"}],
        **more,
    }
    path = folder / "data.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24.0000", 24.0), (" 24 ", 24), ("-1.5", -1.5), ("+2", 2), (".5", 0.5), ("5.", 5.0), ("1e2", 100.0), (7, 7),
        (0.5, 0.5),
        ("", None), ("24,5", None), ("1_000", None), ("0x10", None), ("nan", None), ("inf", None), ("1e999", None),
        ("1 2", None), ("\u0663", None), ("--1", None), ("9" * 500, None), (True, None), (None, None),
        ([1], None), (1e13, None),
    ],
)  # fmt: skip
def test_a_text_is_a_number_only_as_json_would_have_it(text, value) -> None:
    assert number(text) == value
    assert type(number(text)) is type(value)


@pytest.mark.parametrize(
    "box",
    [[8, 8, "24.0000", "10.0000"], ["8", "8", "24", "10"], "[8, 8, 24, 10]", " [8.0, 8, 24, 1e1]", [" 8", 8, 24, 10]],
)
def test_boxes_written_as_text_are_boxes(box, tmp_path: Path, write_image) -> None:
    write_image("a.png")
    path = _write(tmp_path, {"bbox": box})
    index = load_index(path, [tmp_path])
    np.testing.assert_allclose(index.labels(0)[1], [[0.5, 0.65, 0.6, 0.5]])
    assert "1 annotations with numbers written as text, read as numbers (annotation 1)" in index.summary()


@pytest.mark.parametrize(
    "box",
    [
        ["8", 8, 24], ["a", 8, 24, 10], [None, 8, 24, 10], ["8,0", 8, 24, 10], "8 8 24 10", "[8, 8, 24",
        [[8, 8, 24, 10]], {"x": 8}, "", [], None, [True, 8, 24, 10], ["nan", 8, 24, 10], ["1e13", 8, 24, 10],
    ],
)  # fmt: skip
def test_boxes_that_are_none_stay_an_error_that_shows_them(box, tmp_path: Path) -> None:
    path = _write(tmp_path, {"bbox": box})
    with pytest.raises(DataError) as caught:
        read_coco_json(path)
    assert "'bbox' must be four finite numbers [x, y, width, height]; 1 of 1 entries break that" in str(caught.value)
    assert f"'bbox' is {box!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "crowd"),
    [("0", 0), ("1", 1), ("true", 1), ("False", 0), (" 1 ", 1), (True, 1), (False, 0), (1.0, 1), (None, 0)],
)
def test_crowd_flags_of_any_spelling(flag, crowd, tmp_path: Path) -> None:
    assert read_coco_json(_write(tmp_path, {"iscrowd": flag})).crowd.tolist() == [bool(crowd)]


@pytest.mark.parametrize("flag", ["yes", "", "2", 2, -1, [], "0.5"])
def test_other_crowd_flags_are_an_error(flag, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'iscrowd' must be 0 or 1; 1 of 1"):
        read_coco_json(_write(tmp_path, {"iscrowd": flag}))


def test_sizes_areas_and_keypoints_as_text(tmp_path: Path, write_image) -> None:
    write_image("a.png")
    row = {"area": "240.5", "keypoints": ["10", "12.5", "2", 20, 14, 1], "num_keypoints": "2"}
    path = _write(tmp_path, row, {"width": "40", "height": "20.0"})
    coco = read_coco_json(path)
    assert coco.image_sizes.tolist() == [[40, 20]] and coco.areas.tolist() == [240.5]
    assert coco.keypoints.tolist() == [[[10, 12.5, 2], [20, 14, 1]]] and not coco.pose_problem
    assert coco.counts["numbers_as_text"] == 1
    assert load_index(path, [tmp_path], task="pose").counts["boxes"] == 1


@pytest.mark.parametrize(
    "points", [[[10, 12, 2], [20, 14, 1]], "[10, 12, 2, 20, 14, 1]", [["10", "12", "2"], [20, 14, 1]]]
)
def test_keypoints_as_a_list_for_each(points, tmp_path: Path) -> None:
    coco = read_coco_json(_write(tmp_path, {"keypoints": points}))
    assert coco.keypoints.tolist() == [[[10, 12, 2], [20, 14, 1]]] and not coco.pose_problem


@pytest.mark.parametrize("value", ["wide", None, -3, "0", "", [40], True])
def test_an_image_size_that_is_none_is_as_good_as_none(value, tmp_path: Path) -> None:
    assert read_coco_json(_write(tmp_path, {}, {"width": value})).image_sizes.tolist() == [[0, 0]]


RLE = "Rd0:f100000000000000000ng2"
MASKS: list[tuple[Any, Any]] = [
    (SQUARE, [SQUARE]),
    ([str(n) for n in SQUARE], [SQUARE]),
    ([[str(n) for n in SQUARE]], [SQUARE]),
    (json.dumps([SQUARE]), [SQUARE]),
    (json.dumps(SQUARE), [SQUARE]),
    ([SQUARE[i : i + 2] for i in range(0, 8, 2)], [SQUARE]),
    ([[SQUARE[i : i + 2] for i in range(0, 8, 2)]], [SQUARE]),
    ([SQUARE, ["x"] * 6], [SQUARE]),
    ({"size": ["64", "64"], "counts": RLE}, {"size": [64, 64], "counts": RLE}),
    ({"size": [64.0, 64.0], "counts": RLE}, {"size": [64, 64], "counts": RLE}),
    ({"size": [64, 64], "counts": str(RLE.encode())}, {"size": [64, 64], "counts": RLE}),
    ({"size": [20, 40], "counts": ["45", "10", "745"]}, {"size": [20, 40], "counts": [45, 10, 745]}),
    (json.dumps({"size": [20, 40], "counts": [45, 10, 745]}), {"size": [20, 40], "counts": [45, 10, 745]}),
    ({"size": [20, 40], "counts": [45.0, 10.0, 745.0]}, {"size": [20, 40], "counts": [45, 10, 745]}),
    ({"size": [20, 40], "counts": "[45, 10, 745]"}, {"size": [20, 40], "counts": [45, 10, 745]}),
    ([{"size": [20, 40], "counts": [45, 10, 745]}], {"size": [20, 40], "counts": [45, 10, 745]}),
    ([{"size": [20, 40], "counts": [45, 10, 745]}] * 2, None), ({"size": [20, 40], "counts": "[45, 10"}, None),
    (None, None), ([], None), ([[]], None), ({}, None), ([[1, 2, 3, 4]], None), ([1, 2, 3, 4], None), ([None], None),
    ("", None), ("x", None), (SQUARE[:7], None), ([["1,5"] * 6], None), ([[True, None] * 3], None),
    ([[1, 2], [3, 4]], None), ({"size": [64, 63], "counts": RLE}, None), ({"size": [20, 40], "counts": "b'"}, None),
    ({"size": "x", "counts": RLE}, None),
    ({"size": [20, 40], "counts": [45.5, 754.5]}, None), ({"size": [20, 40], "counts": "b'\\xff'"}, None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MASKS)))
def test_masks_of_every_form(number: int, tmp_path: Path) -> None:
    given, wanted = MASKS[number]
    coco = read_coco_json(_write(tmp_path, {"segmentation": given}))
    assert (None if coco.masks is None else coco.masks[0]) == wanted


def test_a_flat_polygon_is_the_mask_of_a_segment_run(tmp_path: Path, write_image) -> None:
    write_image("a.png", (64, 48))
    path = _write(tmp_path, {"segmentation": SQUARE, "bbox": [8, 8, 24, 20]}, {"width": 64, "height": 48})
    index = load_index(path, [tmp_path], task="segment")
    assert (index.segments(0)[0] * [64, 48]).round(4).tolist() == np.reshape(SQUARE, (-1, 2)).tolist()
    assert "1 masks that are one flat list or a list of points, read as polygons" in index.summary()
    assert "flat list" not in load_index(path, [tmp_path]).summary()


@pytest.mark.parametrize(
    ("known", "said"),
    [(0, "0"), ("0", 0), (7, "007"), ("007", 7), (3, "3.0"), (2.0, "2"), (5, " 5 "), (10**25, str(10**25))],
)
def test_ids_that_differ_in_their_type_only_are_one(known, said, tmp_path: Path, write_image) -> None:
    write_image("a.png")
    path = _write(tmp_path, {"image_id": said}, {"id": known})
    index = load_index(path, [tmp_path])
    assert index.ids == ((known,),) and index.counts["boxes"] == 1
    assert "1 annotations with an id of another type" in index.summary() and repr(said) in index.summary()
    path = _write(tmp_path, {"category_id": said}, categories=[{"id": 99, "name": "b"}, {"id": known, "name": "a"}])
    assert read_coco_json(path).counts["ids_of_other_type"] == 1


@pytest.mark.parametrize(
    ("known", "said"), [(1, "1a"), (1, ""), ("a", 1), (1, "1.5"), (1, "one"), (1, 2), ("01", "\u0661")]
)
def test_other_ids_point_nowhere(known, said, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="point nowhere: 1 to unknown images"):
        read_coco_json(_write(tmp_path, {"image_id": said}, {"id": known}))


def test_an_id_that_may_be_two_is_none(tmp_path: Path) -> None:
    images = [{"id": id_, "file_name": f"{i}.png"} for i, id_ in enumerate(["1", "01"])]
    with pytest.raises(DataError, match="point nowhere"):
        read_coco_json(_write(tmp_path, {"image_id": 1}, images=images))
    images = [{"id": id_, "file_name": f"{i}.png"} for i, id_ in enumerate(["1", 1])]
    assert read_coco_json(_write(tmp_path, {"image_id": 1}, images=images)).image_of.tolist() == [1]
    assert read_coco_json(_write(tmp_path, {"image_id": "1"}, images=images)).image_of.tolist() == [0]


def test_a_category_may_be_named(tmp_path: Path) -> None:
    categories = [{"id": 4, "name": "pen"}, {"id": 2, "name": "cup"}]
    coco = read_coco_json(_write(tmp_path, {"category_id": "pen"}, categories=categories))
    assert coco.categories[coco.category_of[0]] == (4, "pen")
    twice = [*categories, {"id": 9, "name": "pen"}]
    with pytest.raises(DataError, match="point nowhere: 0 to unknown images, 1 to unknown categories"):
        read_coco_json(_write(tmp_path, {"category_id": "pen"}, categories=twice))


def test_categories_as_a_list_of_names_are_an_error_that_shows_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'categories' must hold objects; 2 of 2 are not, the first is number 0: 'pen'"):
        read_coco_json(_write(tmp_path, {}, categories=["pen", "cup"]))


def test_splits_whose_category_ids_differ_in_type_have_the_same_classes(write_coco, write_image, tmp_path) -> None:
    write_image("images/a.png")
    train = write_coco([(1, "a.png")], [(1, 1, (0, 0, 4, 4))], {1: "a", 3: "b"})
    val = write_coco([(1, "a.png")], [(1, "3", (0, 0, 4, 4))], {"1": "a", "3": "b"}, "annotations/val.json")
    found = describe({"train": str(train), "val": str(val)})
    assert found["category_ids"] == [1, 3]
    categories = list(zip(found["category_ids"], found["names"].values(), strict=True))
    assert load_index(val, found["coco"]["val"]["images"], categories).labels(0)[0].tolist() == [[1.0]]
    both = write_coco([(1, "a.png")], [(1, "1", (0, 0, 4, 4))], {"1": "c", 1: "d"}, "annotations/both.json")
    assert merge_categories([read_coco_json(both), read_coco_json(both)]) == ((1, "d"), ("1", "c"))
    assert same_ids(["3", 1.0, "x"], [1, 3]) == {"3": 1, 1.0: 0}
