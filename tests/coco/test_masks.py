"""Masks of COCO files: kept as they are, decoded as pycocotools does, and outlined as Ultralytics' converter does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolo_attn.coco.coco_json import read_coco_json
from yolo_attn.coco.index import CocoIndex, load_index
from yolo_attn.coco.masks import joined, outlines, run_lengths
from yolo_attn.errors import DataError

COCO128 = Path(os.environ.get("YOLO_ATTN_DATA", Path(__file__).parents[3] / "shared" / "data")) / "coco128"
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
BIG = [20, 4, 36, 4, 36, 16, 20, 16]


def _bitmap(rng: np.random.Generator, smooth: bool) -> np.ndarray:
    h, w = rng.integers(1, 120, 2)
    noise = rng.random((h, w))
    return ((cv2.blur(noise, (9, 9)) if smooth else noise) > rng.uniform(0.3, 0.7)).astype(np.uint8)


def test_boxes_that_are_not_those_around_their_mask_are_counted(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png", (40, 20))
    path = write_coco([(1, "a.png")], [(1, 1, [0, 0, 10, 10]), (1, 1, [20, 5, 10, 10])])
    document = json.loads(path.read_text())
    for note in document["annotations"]:
        note["segmentation"] = [[20, 5.4, 30, 5, 30, 15, 20, 15]]
    path.write_text(json.dumps(document))
    index = load_index(path, [tmp_path], task="segment", cache=False)
    assert index.counts["boxes_redrawn"] == 1
    assert "1 objects whose 'bbox' is not the box around their mask" in index.summary()


@pytest.mark.parametrize("smooth", [False, True])
def test_run_lengths_are_those_of_pycocotools(smooth) -> None:
    from pycocotools import mask as oracle

    rng = np.random.default_rng(smooth)
    for _ in range(50):
        bitmap = _bitmap(rng, smooth)
        runs = run_lengths(oracle.encode(np.asfortranarray(bitmap))["counts"].decode())
        assert runs is not None
        decoded = np.repeat(np.arange(len(runs)) % 2, runs).reshape(bitmap.shape[::-1]).T
        assert (decoded == bitmap).all()


@pytest.mark.parametrize(
    "counts",
    ["", "0P", "\x00", "ж0", "oooooooooooo0", [], [[1]], [1, "a"], [-1, 801], [0.5, 799.5], [2**70], ["1"], "J"],
)
def test_run_lengths_without_sense_are_none(counts) -> None:
    assert run_lengths(counts) is None


def _write(write_coco, masks: list[Any], boxes: list[Any] | None = None, **more: Any) -> Path:
    boxes = boxes or [(2, 2, 10, 10)] * len(masks)
    rows = [(1, 1, box, {"segmentation": mask}) for box, mask in zip(boxes, masks, strict=True)]
    return write_coco([(1, "a.png")], rows, **more)


def _segment(path: Path, **more: Any) -> CocoIndex:
    return load_index(path, [path.parent.parent], task="segment", **more)


def test_the_table_gives_back_what_the_file_has(write_coco) -> None:
    masks = [
        [[2, 2.25, 12, 2, 12, 12.125]],
        None,
        {"size": [20, 40], "counts": [45, 10, 745]},
        [SQUARE, BIG],
        {"size": [20, 40], "counts": "]6::00000000000000000N2002N00000000000000S6"},
        [],
    ]
    table = read_coco_json(_write(write_coco, masks))
    assert [table.masks[i] for i in range(len(table.masks))] == [mask or None for mask in masks]
    assert table.masks[-1] is None
    assert table.masks[-2] == masks[-2]
    with pytest.raises(IndexError):
        table.masks[6]


@pytest.mark.skipif(not COCO128.is_dir(), reason=f"no {COCO128}")
def test_real_masks_are_given_back_to_the_last_digit() -> None:
    path = COCO128 / "annotations/instances_train2017.json"
    table = read_coco_json(path)
    said = [row["segmentation"] for row in json.loads(path.read_bytes())["annotations"]]
    assert [table.masks[i] for i in range(len(said))] == said
    assert sum(table.masks.is_rle(i) for i in range(len(said))) == 10


def test_masks_without_sense_are_counted_and_the_rest_is_kept(write_coco) -> None:
    bad: list[Any] = [
        5, "x", True, {}, [1, 2, 3, 4], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[1e13] * 6],
        [None], [[10**400] * 6], {"size": [20, 40], "counts": [799]}, {"size": [20, 40], "counts": "zz"},
        {"size": [20, 40]}, {"size": [20], "counts": [20]}, {"size": [2**40, 2**40], "counts": [2**80]},
        {"size": [-20, -40], "counts": [800]}, {"size": [20, 40.5], "counts": [810]},
    ]  # fmt: skip
    table = read_coco_json(_write(write_coco, [*bad, [SQUARE, [1, 2], [0]], None]))
    assert table.counts["bad_masks"] == len(bad)
    assert table.counts["bad_polygons"] == 2
    assert [i for i in range(len(table.masks)) if table.masks[i]] == [len(bad)]
    assert table.masks[len(bad)] == [SQUARE]


def test_numbers_beyond_json_in_masks_are_counted(write_coco) -> None:
    path = _write(write_coco, [[[float("nan"), *SQUARE[1:]]], [[*SQUARE[:-1], float("inf")]], [SQUARE]])
    assert read_coco_json(path).counts["bad_masks"] == 2


def test_a_file_without_masks_has_none_and_trains_no_segment_model(write_coco, write_image) -> None:
    write_image("a.png")
    path = _write(write_coco, [None, [], 5])
    assert read_coco_json(path).masks is None
    with pytest.raises(
        DataError, match=r"train.json: no annotation has .* that can be used \(annotation 3 has 5\); a s"
    ):
        _segment(path)
    with pytest.raises(DataError, match=r"train.json: no annotation has a 'segmentation' that can be used; a segment"):
        _segment(_write(write_coco, [None, []]))
    assert load_index(path, [path.parent.parent]).counts["boxes"] == 1


def _shoelace(polygon: np.ndarray) -> float:
    x, y = polygon.T.astype(float)
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_a_joined_outline_encloses_its_parts_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = []
        for _ in range(rng.integers(1, 6)):
            angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 40)))
            circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            parts.append(rng.uniform(0, 500, 2) + rng.uniform(2, 20) * circle)
        outline = joined(parts)
        # The bridges are walked both ways, so they add nothing to the area.
        assert _shoelace(outline) == pytest.approx(sum(map(_shoelace, parts)), rel=1e-9)
        assert {tuple(p) for p in outline} == {tuple(p) for part in parts for p in part}
        assert len(outline) == sum(map(len, parts)) + 2 * (len(parts) - 1)


def test_parts_are_joined_where_they_are_nearest() -> None:
    left, right = np.array([[0, 0], [10, 5], [0, 10]]), np.array([[40, 0], [12, 5], [40, 10]])
    assert joined([left, right]).tolist() == [
        [0, 0], [10, 5], [12, 5], [40, 10], [40, 0], [12, 5], [10, 5], [0, 10],
    ]  # fmt: skip


def test_joining_very_long_outlines_takes_no_square_of_memory() -> None:
    angle = np.linspace(0, 2 * np.pi, 200_000)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert len(joined([circle, circle + 3])) == 400_002


@pytest.mark.parametrize("smooth", [False, True])
def test_outlines_enclose_the_mask_with_its_holes_closed_to_the_pixel(smooth: bool) -> None:
    rng = np.random.default_rng(smooth)
    holes = 0
    for _ in range(40):
        bitmap = _bitmap(rng, smooth)
        parts, has_hole = outlines(bitmap)
        # Background that cannot be reached from outside is filled.
        outside = np.pad(1 - bitmap, 1, constant_values=1)
        regions = cv2.connectedComponents(outside, connectivity=4)[1]
        filled = (regions != regions[0, 0])[1:-1, 1:-1].astype(np.uint8)
        assert sum(abs(_shoelace(part.round())) for part in parts) == filled.sum()
        assert (filled != bitmap).any() == has_hole
        # The host cuts scaled outlines to whole pixels; the mask it gets is ours, scaled.
        for scale in (1, 2, 3):
            drawn = np.zeros([side * scale for side in bitmap.shape], np.uint8)
            for part in parts:
                cv2.fillPoly(drawn, [(part.astype(np.float32) * scale).astype(np.int32)], 1)
            assert (drawn == filled.repeat(scale, 0).repeat(scale, 1)).all()
        holes += has_hole
    assert holes
    assert outlines(np.zeros((5, 5), np.uint8)) == ([], False)


@pytest.mark.parametrize(("w", "h"), [(10, 10), (5, 5), (3, 3), (2, 2), (1, 8), (8, 1), (1, 1), (40, 20)])
def test_run_length_masks_have_boxes_of_their_size_in_pixels(w: int, h: int, write_coco, write_image) -> None:
    write_image("a.png")
    x, y = (40 - w) // 2, (20 - h) // 2
    bitmap = np.zeros((20, 40), np.uint8)
    bitmap[y : y + h, x : x + w] = 1
    index = _segment(_write(write_coco, [{"size": [20, 40], "counts": _runs(bitmap)}], [(x, y, w, h)]))
    assert index.counts["boxes_as_segments"] == index.counts["boxes_redrawn"] == 0
    np.testing.assert_allclose(index.labels(0)[1][0] * [40, 20, 40, 20], [x + w / 2, y + h / 2, w, h], atol=1e-5)
    outline = index.segments(0)[0] * [40, 20]
    np.testing.assert_allclose([outline.min(0), outline.max(0)], [[x, y], [x + w, y + h]], atol=2e-3)


def test_masks_of_another_size_than_their_image_are_told(write_coco, write_image) -> None:
    write_image("a.png")
    index = _segment(_write(write_coco, [{"size": [40, 20], "counts": [40, 400, 360]}, [SQUARE]]))
    assert index.counts["other_sizes"] == 1
    assert "1 run-length masks of another size than their image" in index.summary()


def test_masks_that_are_relative_to_their_image_are_told(write_coco, write_image) -> None:
    write_image("a.png")
    tiny = [[0.1, 0.1, 0.5, 0.1, 0.5, 0.4]]
    index = _segment(_write(write_coco, [tiny, [SQUARE]]))
    assert "1 masks within a pixel, as if relative to their image; COCO means pixels" in index.summary()
    corner = np.zeros((20, 40), np.uint8)
    corner[0, 0] = 1
    pixel = {"size": [20, 40], "counts": _runs(corner)}
    assert _segment(_write(write_coco, [pixel, [SQUARE]], [(0, 0, 1, 1), (2, 2, 10, 10)])).counts["tiny_masks"] == 0


def _runs(bitmap: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], bitmap.T.ravel(), [1 - bitmap.T.ravel()[-1]]])
    return np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [bitmap.size]])).tolist()


def test_each_object_gets_one_outline_and_the_box_around_it(write_coco, write_image) -> None:
    write_image("a.png")
    bitmap = np.zeros((20, 40), np.uint8)
    bitmap[5:15, 10:30] = 1
    rle = {"size": [20, 40], "counts": [10 * 20 + 5, *[10, 10] * 19, 10, 10 * 20 + 5]}
    assert read_coco_json(_write(write_coco, [rle])).masks.bitmap(0).tolist() == bitmap.tolist()
    bitmap = np.roll(bitmap, 2, axis=1)
    bitmap[8:10, 15:20] = 0
    holed = {"size": [20, 40], "counts": _runs(bitmap)}
    path = _write(write_coco, [[SQUARE], [SQUARE, BIG], rle, holed])
    index = _segment(path)
    segments = [(s * [40, 20]).round(4).tolist() for s in index.segments(0)]
    assert segments[0] == np.reshape(SQUARE, (-1, 2)).tolist()
    assert len(segments[1]) == 10
    np.testing.assert_allclose(sorted(segments[2]), [[10, 5], [10, 15], [30, 5], [30, 15]], atol=2e-3)
    np.testing.assert_allclose(sorted(segments[3]), [[12, 5], [12, 15], [32, 5], [32, 15]], atol=2e-3)
    assert index.counts["holes_filled"] == 1
    boxes = index.labels(0)[1] * [40, 20, 40, 20]
    np.testing.assert_allclose(boxes[:3], [[7, 7, 10, 10], [19, 9, 34, 14], [20, 10, 20, 10]], rtol=1e-6)
    assert all(s.dtype == np.float32 for s in index.segments(0))


def test_objects_without_a_usable_mask_are_outlined_by_their_box(write_coco, write_image) -> None:
    write_image("a.png")
    other_size = {"size": [40, 20], "counts": [40, 400, 360]}
    outside = [[100, 100, 120, 100, 120, 120]]
    masks = [None, [], "x", other_size, outside, [SQUARE]]
    boxes = [(i, 2, 10, 10) for i in range(len(masks))]
    index = _segment(_write(write_coco, masks, boxes))
    assert index.counts["boxes_as_segments"] == 5
    assert "5 objects without a mask that can be used, outlined by their box" in index.summary()
    for i, segment in enumerate(index.segments(0)[:5]):
        np.testing.assert_allclose(segment * [40, 20], [[i, 2], [i + 10, 2], [i + 10, 12], [i, 12]], rtol=1e-6)


def test_outlines_are_clipped_to_their_image(write_coco, write_image) -> None:
    write_image("a.png")
    index = _segment(_write(write_coco, [[[-5, -5, 60, -5, 60, 10, -5, 10]]]))
    assert (index.segments(0)[0] * [40, 20]).tolist() == [[0, 0], [40, 0], [40, 10], [0, 10]]
    assert index.counts["clipped"] == 1


def test_only_objects_of_the_same_outline_are_repeats(write_coco, write_image) -> None:
    write_image("a.png")
    tilted = [2, 2, 12, 2, 12, 12]
    index = _segment(_write(write_coco, [[SQUARE], [tilted], [SQUARE], [tilted], [BIG]]))
    assert index.counts["duplicate_boxes"] == 2
    assert [len(s) for s in index.segments(0)] == [4, 3, 4]


def test_segments_are_copies_in_the_order_of_the_labels(write_coco, write_image) -> None:
    for name in "ab":
        write_image(f"{name}.png")
    rows = [(1 + i % 2, 1, (i, 2, 5, 5), {"segmentation": [[i, 2, i + 5, 2, i + 5, 7]]}) for i in range(6)]
    path = write_coco([(1, "a.png"), (2, "b.png")], rows)
    index = _segment(path)
    assert [[round(float(s[0, 0]) * 40) for s in index.segments(i)] for i in range(2)] == [[0, 2, 4], [1, 3, 5]]
    index.segments(0)[0][:] = 9
    assert index.segments(0)[0].max() <= 1
    assert index.segments(0)[0].shape == (3, 2)


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_of_a_turned_image_are_those_of_the_decoded_frame(orientation, write_coco, write_image) -> None:
    file = write_image("a.jpg", (40, 20), orientation)
    h, w = cv2.imread(str(file)).shape[:2]
    rows = [(1, 1, (2, 2, 10, 10), {"segmentation": [SQUARE]})]
    path = write_coco([(1, "a.jpg", (w, h))], rows)
    index = _segment(path)
    assert (index.segments(0)[0] * [w, h]).round(4).tolist() == np.reshape(SQUARE, (-1, 2)).tolist()
    assert index.counts["size_differs"] == 0
    unturned = _segment(write_coco([(1, "a.jpg", (40, 20))], rows))
    assert unturned.counts["size_differs"] == int(orientation == 6)


@pytest.mark.skipif(not COCO128.is_dir(), reason=f"no {COCO128}")
def test_labels_are_those_of_the_host_s_converter(tmp_path: Path, monkeypatch) -> None:
    from ultralytics.data.converter import convert_coco
    from ultralytics.data.utils import verify_image_label

    source = COCO128 / "annotations/instances_train2017.json"
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / source.name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    convert_coco(str(tmp_path / "json"), str(tmp_path / "out"), use_segments=True, cls91to80=False)
    images = next(folder for folder in COCO128.rglob("*") if any(folder.glob("*.jpg")))
    index = load_index(source, [images], task="segment")
    assert len(index) == 128
    compared = 0
    for i, file in enumerate(index.files):
        label = tmp_path / "out/labels/train2017" / f"{Path(file).stem}.txt"
        cls, boxes = index.labels(i)
        if not label.exists():
            assert not len(cls)
            continue
        _, theirs, shape, outlined, *_ = verify_image_label((file, str(label), "", False, 91, 0, 0, False))
        assert tuple(index.sizes[i]) == tuple(shape)
        assert len(theirs) == len(cls)
        for category, box, segment in zip(cls[:, 0], boxes, index.segments(i), strict=True):
            nearest = int(np.abs(theirs[:, 1:] - box).max(1).argmin())
            # Their text has six digits.
            np.testing.assert_allclose(box, theirs[nearest, 1:], atol=2e-6)
            assert index.category_ids[int(category)] - 1 == theirs[nearest, 0]
            ours, other = (_filled(s, shape) for s in (segment, outlined[nearest]))
            # Bridges between the parts of an object may run elsewhere.
            assert (ours & other).sum() >= 0.9 * (ours | other).sum()
            compared += 1
    assert compared == index.counts["boxes"] > 900


def _filled(segment: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [(segment * [shape[1], shape[0]]).astype(np.int32)], 1)
    return mask
