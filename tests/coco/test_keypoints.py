"""Keypoints of COCO files as labels of a pose run: normalised, counted where they cannot be used, never mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn.coco.coco_json import read_coco_json
from yolo_attn.coco.index import CocoIndex, load_index
from yolo_attn.errors import DataError

NAMES = ["left", "right"]
BOX = (0, 0, 20, 10)


def _write(write_coco, keypoints: list[Any], names: list[str] | None = None, **more: Any) -> Path:
    category = {"id": 1, "name": "a", **({"keypoints": names} if names else {})}
    # Boxes differ, so that no object is a repeat of another.
    rows = [(1, 1, (i / 10, 0, 20, 10), {} if k is None else {"keypoints": k}) for i, k in enumerate(keypoints)]
    return write_coco([(1, "a.png")], rows, [category], **more)


def _pose(path: Path) -> CocoIndex:
    return load_index(path, [path.parent.parent], task="pose")


def test_keypoints_are_normalised_and_visibility_is_kept(write_coco, write_image) -> None:
    write_image("a.png")
    path = _write(write_coco, [[10, 5, 2, 20, 10, 1], [40, 20, 2, 0, 0, 0]], NAMES)
    index = _pose(path)
    assert index.kpt_shape == (2, 3)
    assert index.keypoints(0).tolist() == [[[0.25, 0.25, 2], [0.5, 0.5, 1]], [[1, 1, 2], [0, 0, 0]]]
    assert index.keypoints(0).dtype == np.float32
    np.testing.assert_allclose(index.labels(0)[1][0], [0.25, 0.25, 0.5, 0.5])
    index.keypoints(0)[:] = 7
    assert index.keypoints(0).max() == 2
    table = read_coco_json(path)
    assert table.keypoints.tolist() == [[[10, 5, 2], [20, 10, 1]], [[40, 20, 2], [0, 0, 0]]]
    assert table.keypoints.dtype == np.float64
    assert table.keypoint_names == ("left", "right")


def test_the_number_of_keypoints_is_read_without_names(write_coco, write_image) -> None:
    write_image("a.png")
    path = _write(write_coco, [None, [1, 1, 2] * 5])
    assert read_coco_json(path).keypoints.shape == (2, 5, 3)
    assert read_coco_json(path).keypoint_names == ()
    assert _pose(path).kpt_shape == (5, 3)


def test_objects_without_labelled_keypoints_are_left_out_and_counted(write_coco, write_image) -> None:
    write_image("a.png")
    path = _write(write_coco, [[1, 1, 2, 2, 2, 1], None, [], [0] * 6, [3, 3, 0, 4, 4, 0], [1, 1, 0, 2, 2, 1]], NAMES)
    index = _pose(path)
    assert (index.counts["boxes"], index.counts["without_keypoints"]) == (2, 4)
    assert len(index.labels(0)[0]) == len(index.keypoints(0)) == 2
    assert "4 objects without labelled keypoints dropped" in index.summary()
    assert load_index(path, [path.parent.parent]).counts["boxes"] == 6


def test_keypoints_outside_the_image_are_not_labelled(write_coco, write_image) -> None:
    write_image("a.png")
    given = [[-3, 5, 2, 10, 10, 2], [40.5, 20.5, 2, 10, 10, -1], [99, 99, 2, 0, -50, 1], [1, 1, 2, 90, 90, 0]]
    index = _pose(_write(write_coco, given, NAMES))
    wanted = [[[0, 0, 0], [0.25, 0.5, 2]], [[1, 1, 2], [0, 0, 0]], [[0.025, 0.05, 2], [1, 1, 0]]]
    np.testing.assert_allclose(index.keypoints(0), wanted, rtol=1e-6)
    assert index.counts["bad_keypoints"] == 4
    assert index.counts["without_keypoints"] == 1


def test_objects_that_differ_in_keypoints_only_are_no_repeats(write_coco, write_image) -> None:
    write_image("a.png")
    one, other = {"keypoints": [1, 1, 2]}, {"keypoints": [2, 1, 2]}
    path = write_coco([(1, "a.png")], [(1, 1, BOX, one), (1, 1, BOX, other), (1, 1, BOX, one)])
    assert _pose(path).counts["duplicate_boxes"] == 1
    np.testing.assert_allclose(_pose(path).keypoints(0)[:, 0, 0] * 40, [1, 2], rtol=1e-6)
    assert load_index(path, [path.parent.parent]).counts["duplicate_boxes"] == 2


@pytest.mark.parametrize(
    "bad",
    [[1, 2], [1, 2, 2, 3], [1, 1, 2] * 3, "x", 5, [1, 1, "2,5", 2, 2, 2], [1, 1, float("nan"), 1, 1, 1], [1e13] * 6],
)
def test_keypoints_of_another_kind_stop_a_pose_run_only(bad, write_coco, write_image) -> None:
    write_image("a.png")
    path = _write(write_coco, [[1, 1, 2, 2, 2, 2], bad], NAMES)
    with pytest.raises(
        DataError, match=r"train.json: 'annotations': 'keypoints' must be 6 finite .*; 1 of 2 .* number 1"
    ):
        _pose(path)
    assert load_index(path, [path.parent.parent]).counts["boxes"] == 2


def test_more_names_than_keypoints_are_told(write_coco, write_image) -> None:
    write_image("a.png")
    two = [10, 10, 2, 20, 20, 2]
    path = _write(write_coco, [two, two, None], ["k1", "k2", "k3"])
    with pytest.raises(DataError) as caught:
        _pose(path)
    assert str(caught.value) == (
        f"{path}: 'categories' names 3 keypoints, and all 2 'annotations' with keypoints have 2; name those 2, or "
        "leave 'keypoints' out of the categories to train without names"
    )
    assert _pose(_write(write_coco, [two, two, None])).kpt_shape == (2, 3)
    assert load_index(path, [path.parent.parent]).counts["boxes"] == 3
    with pytest.raises(DataError, match=r"names 1 keypoints, and all 2 .* have 2 or 3; give all the same number"):
        _pose(_write(write_coco, [two, [*two, 1, 1, 1]], ["k1"]))
    with pytest.raises(
        DataError, match=r"'keypoints' must be 9 .*\] for the 3 that 'categories' names; 2 of 3 .*is \[1, 2\]"
    ):
        _pose(_write(write_coco, [[1, 2], two, None], ["k1", "k2", "k3"]))


def test_keypoints_without_visibility_are_told(write_coco, write_image) -> None:
    write_image("a.png")
    pairs = [10, 11, 20, 12, 30, 13]
    path = _write(write_coco, [pairs, pairs, None], ["k1", "k2", "k3"])
    with pytest.raises(DataError) as caught:
        _pose(path)
    assert str(caught.value) == (
        f"{path}: all 2 'annotations' with keypoints have x and y alone of the 3 that 'categories' names, the first "
        f"(id 1) {pairs}; write a visibility after each x, y: 2 seen, 1 hidden, 0 not labelled"
    )
    mended = [10, 11, 2, 20, 12, 2, 30, 13, 2]
    assert _pose(_write(write_coco, [mended], ["k1", "k2", "k3"])).warnings() == []
    # Without names they look like fewer keypoints, of a visibility that is none.
    (said,) = _pose(_write(write_coco, [pairs, pairs])).warnings()
    assert (
        "2 annotations have keypoints whose visibility is not 0, 1 or 2 (annotation 1 has [10.0, 11.0, 20.0, " in said
    )


def test_relative_keypoints_are_told(write_coco, write_image) -> None:
    write_image("a.png")
    path = _write(write_coco, [[0.1, 0.2, 2, 0, 0, 0], [1, 1, 2, 1, 0, 2], [0.5, 0.5, 2, 9, 9, 2], [0] * 6])
    (said,) = _pose(path).warnings()
    assert "1 annotations have all their keypoints within a pixel, as if relative to their image (annotation 1" in said
    assert load_index(path, [path.parent.parent]).warnings() == []


def test_too_many_or_no_keypoints_are_told(write_coco, write_image) -> None:
    write_image("a.png")
    for bad in ([1, 1, 2] * 301, [1, 2]):
        with pytest.raises(DataError, match=r"'keypoints' must be finite .* of 1 to 300 keypoints; 1 of 1 .* is \[1, "):
            _pose(_write(write_coco, [bad]))


def test_categories_of_several_kinds_stop_a_pose_run_only(write_coco, write_image) -> None:
    write_image("a.png")
    categories = [{"id": 1, "name": "a", "keypoints": ["x"]}, {"id": 2, "name": "b", "keypoints": ["x", "y"]}]
    path = write_coco([(1, "a.png")], [(1, 1, BOX, {"keypoints": [1, 1, 2]})], categories)
    with pytest.raises(DataError, match="same number of 'keypoints' to train a pose model; one has 1, another 2"):
        _pose(path)
    assert load_index(path, [path.parent.parent]).counts["boxes"] == 1


def test_a_file_without_keypoints_trains_no_pose_model(write_coco, write_image) -> None:
    write_image("a.png")
    path = _write(write_coco, [None])
    assert read_coco_json(path).keypoints is None
    with pytest.raises(DataError, match=r"train.json: has no 'keypoints'"):
        _pose(path)


def test_keypoints_of_a_turned_image_are_those_of_the_decoded_frame(write_coco, write_image) -> None:
    write_image("a.jpg", (40, 20), 6)
    path = write_coco([(1, "a.jpg", (20, 40))], [(1, 1, (0, 0, 10, 20), {"keypoints": [5, 30, 2]})])
    assert _pose(path).keypoints(0).tolist() == [[[0.25, 0.75, 2]]]


def test_an_unknown_task_is_an_error(write_coco) -> None:
    path = write_coco([(1, "a.png")])
    with pytest.raises(DataError, match=r"train.json: task 'obb' .*; known: detect, segment, pose"):
        load_index(path, [path.parent], task="obb")
