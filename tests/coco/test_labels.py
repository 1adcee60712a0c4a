"""COCO JSON as labels: ids, boxes, crowd, images of all kinds, and one clear error for each kind of broken input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from yolo_attn.coco import images as coco_images
from yolo_attn.coco.coco_json import read_coco_json
from yolo_attn.coco.index import load_index
from yolo_attn.errors import DataError


def test_ids_become_contiguous_classes_and_boxes_normalised_centres(write_coco, write_image, tmp_path: Path) -> None:
    write_image("im/a.png")
    path = write_coco([(5, "a.png")], [(5, 90, (10, 5, 20, 10)), (5, 7, (0, 0, 40, 20))], {90: "z", 7: "y"})
    index = load_index(path, [tmp_path / "im"])
    assert index.category_ids == (7, 90)
    assert index.names == ("y", "z")
    assert index.files == (str(tmp_path / "im/a.png"),)
    assert index.sizes.tolist() == [[20, 40]]
    cls, bboxes = index.labels(0)
    assert cls.tolist() == [[1.0], [0.0]]
    assert bboxes.tolist() == [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]
    assert cls.dtype == bboxes.dtype == np.float32


def test_labels_are_copies_and_the_index_is_read_only(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png")
    index = load_index(write_coco([(1, "a.png")], [(1, 3, (1, 1, 5, 5))]), [tmp_path])
    cls, bboxes = index.labels(0)
    cls[:], bboxes[:] = 9, 9
    assert index.labels(0)[0].tolist() == [[1.0]]
    with pytest.raises(ValueError, match="read-only"):
        index.bboxes[0, 0] = 1


@pytest.mark.parametrize("ids", [(0, 1), (2**62, 2**70), ("x1", "y/2"), (1.0, 2.0), ("a", 3)])
def test_image_ids_of_any_kind_are_kept(ids, write_coco, write_image, tmp_path: Path) -> None:
    for name in "ab":
        write_image(f"{name}.png")
    path = write_coco([(ids[0], "a.png"), (ids[1], "b.png")], [(ids[1], 1, (0, 0, 4, 4))])
    index = load_index(path, [tmp_path])
    assert index.ids == ((ids[0],), (ids[1],))
    assert [len(index.labels(i)[0]) for i in range(2)] == [0, 1]


@pytest.mark.parametrize("ids", [(0, 1), ("cat", "dog"), (3, "x"), (2**63, 5)])
def test_category_ids_of_any_kind_are_mapped_back(ids, write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png")
    path = write_coco([(1, "a.png")], [(1, ids[1], (0, 0, 4, 4))], {ids[0]: "one", ids[1]: "two"})
    index = load_index(path, [tmp_path])
    cls = int(index.labels(0)[0][0, 0])
    assert index.category_ids[cls] == ids[1]
    assert index.names[cls] == "two"


def test_boxes_are_clipped_dropped_and_counted(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png")
    boxes = [(-10, -10, 20, 20), (30, 10, 100, 100), (39.999, 0, 0.0051, 5)]
    bad = [(5, 5, 0, 5), (5, 5, -3, 5), (50, 5, 10, 10), (0, -9, 5, 9)]
    path = write_coco([(1, "a.png")], [(1, 1, box) for box in [*boxes, *bad, boxes[0]]])
    index = load_index(path, [tmp_path])
    cls, bboxes = index.labels(0)
    assert len(cls) == 3
    np.testing.assert_allclose(bboxes[:2], [[0.125, 0.25, 0.25, 0.5], [0.875, 0.75, 0.25, 0.5]])
    assert (bboxes[:, :2] + bboxes[:, 2:] / 2 <= 1).all()
    assert {k: index.counts[k] for k in ("clipped", "degenerate", "duplicate_boxes", "boxes")} == {
        "clipped": 3, "degenerate": 4, "duplicate_boxes": 1, "boxes": 3,
    }  # fmt: skip
    for said in ("3 boxes clipped", "4 boxes without area", "1 repeated boxes"):
        assert said in index.summary()


def test_crowd_is_not_trained_on_and_images_without_boxes_are_negatives(
    write_coco, write_image, tmp_path: Path
) -> None:
    for name in "abc":
        write_image(f"{name}.png")
    crowd = (1, 1, (0, 0, 9, 9), {"iscrowd": 1, "segmentation": {"counts": [800], "size": [20, 40]}})
    path = write_coco([(1, "a.png"), (2, "b.png"), (3, "c.png")], [crowd, (3, 1, (0, 0, 4, 4))])
    index = load_index(path, [tmp_path])
    assert len(index) == 3
    assert [len(index.labels(i)[0]) for i in range(3)] == [0, 0, 1]
    assert index.counts["crowd"] == 1
    assert index.counts["negatives"] == 2
    assert "3 images (2 without objects), 1 boxes" in index.summary()
    assert "1 crowd regions" in index.summary()


def test_annotations_without_iscrowd_and_area_are_plain(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png")
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 5]}]
    path = write_coco([(1, "a.png")], annotations=(), **{})
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": rows}))
    assert load_index(path, [tmp_path]).counts["boxes"] == 1
    assert np.isnan(read_coco_json(path).areas).all()


def test_missing_and_unreadable_images_are_counted_and_named(write_coco, write_image, tmp_path: Path) -> None:
    write_image("good.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    cut = write_image("cut.png", (200, 200))
    cut.write_bytes(cut.read_bytes()[:500])
    names = ["good.png", "empty.jpg", "text.png", "cut.png", *(f"no{i}.png" for i in range(7)), "bad\0name.png"]
    path = write_coco([(i, n) for i, n in enumerate(names)], [(i, 1, (0, 0, 4, 4)) for i in range(len(names))])
    index = load_index(path, [tmp_path])
    assert index.files == (str(tmp_path / "good.png"),)
    assert index.counts["missing_images"] == 8
    assert index.counts["unreadable_images"] == 3
    assert index.counts["lost_boxes"] == 11
    assert "8 images missing (no0.png, no1.png, no2.png, no3.png, no4.png, ...)" in index.summary()
    assert "cut.png" in index.summary()


def test_equal_stems_folders_unicode_and_backslashes(write_coco, write_image, tmp_path: Path) -> None:
    names = ["x/1.png", "y/1.png", "1.jpg", "день/кот 猫.png", "re\u0301sume\u0301.png"]
    for i, name in enumerate(names):
        write_image(f"im/{name}", (40 + i, 20))
    said = ["x/1.png", "y\\1.png", "1.jpg", "день/кот 猫.png", "r\u00e9sum\u00e9.png"]
    path = write_coco([(i, n, (40 + i, 20)) for i, n in enumerate(said)], [(i, 1, (0, 0, i + 1, 2)) for i in range(5)])
    index = load_index(path, [tmp_path / "im"])
    assert index.files == tuple(str(tmp_path / "im" / name) for name in names)
    assert index.sizes[:, 1].tolist() == [40, 41, 42, 43, 44]
    np.testing.assert_allclose([index.labels(i)[1][0, 2] * (40 + i) for i in range(5)], [1, 2, 3, 4, 5], rtol=1e-6)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_sizes_are_those_of_the_decoded_image(kind, orientation, write_coco, write_image, tmp_path: Path) -> None:
    import cv2

    file = write_image(f"a.{kind}", (40, 20), orientation)
    decoded = cv2.imread(str(file)).shape[:2]
    path = write_coco([(1, f"a.{kind}", (decoded[1], decoded[0]))])
    index = load_index(path, [tmp_path])
    assert tuple(index.sizes[0]) == decoded
    assert index.counts["size_differs"] == 0


def test_the_image_wins_over_the_size_in_the_json(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png", (80, 40))
    index = load_index(write_coco([(1, "a.png")], [(1, 1, (0, 0, 40, 20))]), [tmp_path])
    assert index.labels(0)[1].tolist() == [[0.25, 0.25, 0.5, 0.5]]
    assert index.counts["size_differs"] == 1


def test_repeated_entries_are_joined_and_keep_all_ids(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png")
    path = write_coco(
        [(1, "a.png"), (1, "a.png"), (2, "a.png")],
        [(1, 1, (0, 0, 4, 4)), (2, 1, (5, 5, 4, 4)), (9, 1, (0, 0, 4, 4)), (1, 8, (0, 0, 4, 4))],
    )
    index = load_index(path, [tmp_path])
    assert index.ids == ((1, 2),)
    assert len(index.labels(0)[0]) == 2
    wanted = {"duplicate_images": 2, "unknown_image": 1, "unknown_category": 1}
    assert {key: index.counts[key] for key in wanted} == wanted


def _broken(**keys) -> dict:
    good = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    return {key: value for key, value in {**good, **keys}.items() if value is not None}


BROKEN = {
    "no images": (_broken(images=None), "key 'images' is missing"),
    "no annotations": (_broken(annotations=None), "key 'annotations' is missing"),
    "no categories": (_broken(categories=None), "key 'categories' is missing"),
    "empty categories": (_broken(categories=[]), "'categories' is empty"),
    "empty images": (_broken(images=[]), "'images' is empty"),
    "predictions": ([{"image_id": 1}], "predictions"),
    "a number": (5, "this is a int"),
    "images an object": (_broken(images={}), "'images' must be a list, not dict"),
    "images of text": (_broken(images=["a.png"]), "1 of 1 are not, the first is number 0: 'a.png'"),
    "no image id": (_broken(images=[{"file_name": "a.png"}]), "'images': 'id' must be an integer or a string; 1 of 1"),
    "no file name": (_broken(images=[{"id": 1}]), "'images': 'file_name' must be a string; 1 of 1 .*no 'file_name'"),
    "id is null": (_broken(categories=[{"id": None, "name": "a"}]), "'categories': 'id' must be"),
    "id is a switch": (_broken(categories=[{"id": True, "name": "a"}]), "'id' is True"),
    "no name": (_broken(categories=[{"id": 1}]), "'categories': 'name' must be a name"),
    "no box": (_broken(annotations=[{"id": 4, "image_id": 1, "category_id": 1}]), r"'bbox' must be four .*\(id 4\)"),
    "box of three": (
        _broken(annotations=[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}]), r"'bbox' is \[1, 2, 3\]",
    ),
    "box of text": (
        _broken(annotations=[{"image_id": 1, "category_id": 1, "bbox": ["1,5", 2, 3, 4]}]), "four .*'1,5'",
    ),
    "box not finite": (
        _broken(annotations=[{"image_id": 1, "category_id": 1, "bbox": [1, 2, float("nan"), 4]}]), "finite",
    ),
    "point nowhere": (
        _broken(annotations=[{"image_id": "7", "category_id": 1, "bbox": [0, 0, 1, 1]}]),
        "all 1 'annotations' point nowhere: 1 to unknown images.*image_id '7'.*ids like 1",
    ),
    "one id, two files": (
        _broken(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]), "id 1 is 'a' and 'b'",
    ),
    "one id, two names": (
        _broken(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "'categories'.*id 1 is 'a' and 'b'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_one_error_that_names_file_and_key(case, tmp_path: Path) -> None:
    document, message = BROKEN[case]
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as error:
        read_coco_json(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b'{"images": [1,', b"\xff\xfe\x00x", b"[" * 100_000, b"\x89PNG"])
def test_what_is_no_json_is_one_error(content, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"broken.json: not JSON, or cut off \({len(content)} bytes\)"):
        read_coco_json(path)


def test_no_image_found_says_where_it_looked(write_coco, tmp_path: Path) -> None:
    path = write_coco([(1, "a.png"), (2, "b.png")])
    with pytest.raises(DataError, match=rf"none of the 2 'images'.*2 missing.*'a.png' in {tmp_path}/im"):
        load_index(path, [tmp_path / "im"])


def test_a_changed_file_is_read_again(write_coco, tmp_path: Path) -> None:
    path = write_coco([(1, "a.png")])
    assert len(read_coco_json(path).image_ids) == 1
    write_coco([(1, "a.png"), (2, "b.png")])
    assert len(read_coco_json(path).image_ids) == 2


# Images whose header is sound and whose body is not.


def _jpeg(write_image, name: str) -> tuple[Path, bytes]:
    file = write_image(name, (200, 200))
    return file, file.read_bytes()


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_jpeg_that_ends_too_early_is_judged_by_what_the_host_decodes(
    share, write_coco, write_image, tmp_path: Path
) -> None:
    import cv2

    write_image("whole.jpg", (200, 200))
    file, content = _jpeg(write_image, "cut.jpg")
    file.write_bytes(content[: int(len(content) * share)])
    # OpenCV 4 fills what is missing with grey, OpenCV 5 gives nothing; the host reads files this way.
    is_read = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) is not None
    path = write_coco([(1, "cut.jpg"), (2, "whole.jpg")], [(i, 1, (0, 0, 4, 4)) for i in (1, 2)])
    index = load_index(path, [tmp_path])
    assert index.counts["cut_images"] == is_read
    assert index.counts["unreadable_images"] == 1 - is_read
    assert index.counts["boxes"] == 1 + is_read
    assert "cut.jpg)" in index.summary()


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_images_that_the_host_cannot_decode_are_unreadable(write_coco, write_image, tmp_path: Path, suffix) -> None:
    write_image("images/a.png")
    for name in (f"whole.{suffix}", f"cut.{suffix}"):
        write_image(f"images/{name}", (64, 48))
    cut = tmp_path / "images" / f"cut.{suffix}"
    cut.write_bytes(cut.read_bytes()[: 2000 if suffix == "bmp" else -500])
    path = write_coco([(1, "a.png"), (2, f"whole.{suffix}", (64, 48)), (3, f"cut.{suffix}", (64, 48))])
    index = load_index(path, [tmp_path / "images"])
    assert [Path(file).name for file in index.files] == ["a.png", f"whole.{suffix}"]
    assert index.counts["unreadable_images"] == 1


def test_a_cut_jpeg_that_can_be_decoded_is_used_and_counted(
    write_coco, write_image, tmp_path: Path, monkeypatch
) -> None:
    file, content = _jpeg(write_image, "cut.jpg")
    file.write_bytes(content[:-500])
    monkeypatch.setattr(coco_images, "_decoded_size", lambda file: (200, 200))
    index = load_index(write_coco([(1, "cut.jpg", (200, 200))], [(1, 1, (0, 0, 4, 4))]), [tmp_path], cache=False)
    assert index.counts["cut_images"] == index.counts["boxes"] == 1
    assert f"1 JPEG files that end too early, used as far as they go ({file})" in index.summary()


def test_a_jpeg_that_opencv_cannot_read_is_unreadable(write_coco, write_image, tmp_path: Path) -> None:
    write_image("whole.jpg", (200, 200))
    file, content = _jpeg(write_image, "cut.jpg")
    file.write_bytes(content[: content.index(b"\xff\xda")])  # nothing left of the picture itself
    index = load_index(write_coco([(1, "cut.jpg"), (2, "whole.jpg")], [(1, 1, (0, 0, 4, 4))]), [tmp_path])
    assert (index.counts["unreadable_images"], index.counts["cut_images"], index.counts["lost_boxes"]) == (1, 0, 1)


def test_a_jpeg_with_data_after_its_end_is_whole(write_coco, write_image, tmp_path: Path) -> None:
    file, content = _jpeg(write_image, "a.jpg")
    file.write_bytes(content + b"camera maker's own data" * 100)
    assert load_index(write_coco([(1, "a.jpg", (200, 200))]), [tmp_path]).counts["cut_images"] == 0


def test_thousands_of_boxes_in_one_image(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png")
    rng = np.random.default_rng(0)
    boxes = rng.uniform((0, 0, 1, 1), (30, 10, 10, 10), (5000, 4)).tolist()
    index = load_index(write_coco([(1, "a.png")], [(1, 3, box) for box in boxes]), [tmp_path])
    centres = np.array(boxes)[:, :2] + np.array(boxes)[:, 2:] / 2
    np.testing.assert_allclose(index.labels(0)[1][:, :2] * [40, 20], centres, rtol=1e-5)


def test_every_row_of_the_file_is_in_the_labels_or_in_a_count(write_coco, write_image, tmp_path: Path) -> None:
    for name in "ab":
        write_image(f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = [(1, "a.png"), (1, "a.png"), (2, "a.png"), (3, "b.png"), (4, "bad.png"), (5, "gone.png"), (6, "gone.png")]
    crowd, box = {"iscrowd": 1}, (1, 1, 5, 5)
    annotations = [
        (1, 1, box), (2, 1, box), (3, 1, (1, 1, 0, 5)), (3, 1, (90, 90, 5, 5)), (4, 1, box), (5, 3, box),
        (6, 1, box, crowd), (3, 1, box, crowd), (77, 1, box), (3, 77, box), (77, 77, box), (3, 3, box),
    ]  # fmt: skip
    c = load_index(write_coco(images, annotations), [tmp_path]).counts
    assert c["images"] + c["duplicate_images"] + c["missing_images"] + c["unreadable_images"] == len(images)
    assert (c["images"], c["duplicate_images"], c["missing_images"], c["unreadable_images"]) == (2, 2, 2, 1)
    lost = ("crowd", "lost_boxes", "degenerate", "duplicate_boxes", "unknown_image", "unknown_category")
    assert [c[key] for key in lost] == [2, 2, 2, 1, 2, 1]
    assert c["boxes"] + sum(c[key] for key in lost) == len(annotations)


def test_a_list_of_test_images_has_no_annotations(write_coco, write_image, tmp_path: Path) -> None:
    write_image("a.png")
    path = write_coco([(1, "a.png")], None)
    table = read_coco_json(path, require_annotations=False)
    assert not table.is_annotated
    assert table.boxes.shape == (0, 4)
    assert load_index(path, [tmp_path]).counts["boxes"] == 0
    with pytest.raises(DataError, match=r"train.json: key 'annotations' is missing; .*'images', 'categories'"):
        read_coco_json(path)


def test_a_crowd_flag_that_is_none_is_an_error(write_coco) -> None:
    path = write_coco(
        [(1, "a.png")], [(1, 1, (0, 0, 4, 4), {"iscrowd": flag}) for flag in (0, 1, True, None, "yes", 2)]
    )
    with pytest.raises(DataError, match=r"'iscrowd' must be 0 or 1; 2 of 6 .* number 4 .*'yes'"):
        read_coco_json(path)
