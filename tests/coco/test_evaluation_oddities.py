"""The official numbers are pycocotools' own for every oddity of ids, areas, crowds, images and categories."""

from __future__ import annotations

import json

import numpy as np
import pytest
from judge import EXACT, FIELDS, Judge, check, disturbed, guesses, polygon, scattered

from yolo_attn.coco.coco_json import read_coco_json
from yolo_attn.coco.evaluation import evaluate, notes
from yolo_attn.errors import DataError


@pytest.mark.parametrize(
    "ids", [(1, 2, 3), (2**53, 2**53 + 1, 0), (2**62, 2**62 + 1, 0), ("10", "9", "x"), ("ü", "A/b", "a")]
)
def test_image_ids_of_any_kind(ids: tuple, write_coco) -> None:
    rng = np.random.default_rng(3)
    boxes = [
        (*row, {"area": row[2][2] * row[2][3] * 0.7, "iscrowd": int(i % 11 == 0)})
        for i, row in enumerate(scattered(rng, 60, ids))
    ]
    path = write_coco([(id_, f"{i}.png") for i, id_ in enumerate(ids)], boxes, info={})
    assert 0.05 < check(path, guesses(boxes, rng)).numbers["AP"] < 0.95


def test_category_ids_of_any_kind_mean_the_same(write_coco) -> None:
    rng = np.random.default_rng(3)
    boxes = scattered(rng, 40, [1, 2])
    found = guesses(boxes, rng)
    images = [(1, "a.png"), (2, "b.png")]
    plain = check(write_coco(images, boxes, info={}), found)
    for one, two in ((0, 1), (7, 2**70), ("cat", "dog"), (4, "x")):
        renamed = [({1: one, 3: two}[c], box, image) for image, c, box in boxes]
        path = write_coco(images, [(image, c, box) for c, box, image in renamed], {one: "a", two: "b"})
        moved = [{**p, "category_id": {1: one, 3: two}[p["category_id"]]} for p in found]
        table = read_coco_json(path)
        ours = evaluate(table, moved, table.image_ids)
        assert ours.numbers == plain.numbers
        assert [row["id"] for row in ours.per_class] == [one, two]


def test_equal_scores_are_ordered_by_image_and_file(write_coco) -> None:
    rng = np.random.default_rng(5)
    boxes = scattered(rng, 60, [9, 3, 5])
    path = write_coco([(i, f"{i}.png") for i in (9, 3, 5)], boxes, info={})
    found = guesses(boxes, rng, score=0.5)
    rng.shuffle(found)
    numbers = check(path, found).numbers
    assert check(path, found[::-1]).numbers != numbers


def test_images_without_predictions_or_truth_and_categories_without_truth(write_coco) -> None:
    rng = np.random.default_rng(1)
    boxes = scattered(rng, 20, [1, 2])
    path = write_coco([(i, f"{i}.png") for i in range(1, 5)], boxes, {1: "a", 2: "none", 3: "b"}, info={})
    found = [p for p in guesses(boxes, rng) if p["image_id"] == 1]
    found += [{**found[0], "image_id": 4}, {**found[0], "category_id": 2}]
    ours = check(path, found)
    assert ours.per_class[1] == {"id": 2, "name": "none", "images": 0, "instances": 0} | dict.fromkeys(
        ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"), -1
    )


def test_only_crowd_regions_leave_nothing_to_measure(write_coco) -> None:
    boxes = [(1, 1, (0, 0, 30, 15), {"iscrowd": 1})]
    path = write_coco([(1, "a.png")], boxes, info={})
    ours = check(path, guesses(boxes, np.random.default_rng(0)))
    assert set(ours.numbers.values()) == {-1.0}
    assert (ours.crowds, ours.instances) == (1, 0)


def test_an_empty_list_of_annotations_leaves_nothing_to_measure(write_coco) -> None:
    table = read_coco_json(write_coco([(1, "a.png")]))
    guess = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    for found in ([], [guess]):
        assert set(evaluate(table, found, [1]).numbers.values()) == {-1.0}


@pytest.mark.parametrize("kind", FIELDS)
def test_no_predictions_are_zeros(kind: str, write_people) -> None:
    path = write_people(17)
    document = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for note in document["annotations"]:
        note["segmentation"] = [polygon(note["bbox"], rng)]
    path.write_text(json.dumps(document))
    table = read_coco_json(path)
    ours = evaluate(table, [], table.image_ids, kind=kind)
    assert set(ours.numbers.values()) == {0.0}
    assert len(ours.per_class) == 2 and all(row["AP"] == 0 for row in ours.per_class)


def test_predictions_beyond_100_in_an_image_are_cut_and_counted(write_coco) -> None:
    rng = np.random.default_rng(2)
    boxes = scattered(rng, 150, [1])
    path = write_coco([(1, "a.png"), (2, "b.png")], boxes, info={})
    found = guesses(boxes, rng)
    ours = check(path, found)
    assert ours.cut == 2 * (75 * 3 - 100)
    kept = sorted(found, key=lambda p: -p["score"])
    few = [p for c in (1, 3) for p in [q for q in kept if q["category_id"] == c][:100]]
    assert check(path, few).cut == 0


@pytest.mark.parametrize("size", [(64, 48), (6000, 4000)])
def test_small_medium_large_are_in_original_pixels(size: tuple[int, int], write_coco) -> None:
    areas = (31.9**2, 32.0**2, 32.1**2, 95.9**2, 96.0**2, 96.1**2)
    boxes = [(1, 1, (i * 40, i * 2, 20 + i, 20), {"area": area}) for i, area in enumerate(areas)]
    path = write_coco([(1, "a.png", size)], boxes, info={})
    exact = [{"image_id": 1, "category_id": 1, "bbox": list(b[2]), "score": 0.9 - 0.1 * i} for i, b in enumerate(boxes)]
    ours = check(path, exact[::2])
    assert ours.numbers["AR100"] == pytest.approx(0.5)
    # An area on a limit belongs to both sides.
    assert [ours.numbers[n] for n in ("ARs", "ARm", "ARl")] == pytest.approx([1 / 2, 2 / 4, 1 / 2])


def test_annotation_id_0_counts_though_pycocotools_loses_it(write_coco) -> None:
    path = write_coco([(1, "a.png")], [(1, 1, (0, 0, 10, 10), {"id": 0})], info={})
    guess = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9}]
    ours = evaluate(read_coco_json(path), guess, [1])
    assert ours.numbers["AP"] == pytest.approx(1)
    assert Judge(path, guess).run()[0] == pytest.approx(0)
    assert "id 0" in ours.notes[0] and list(ours.notes) == notes(read_coco_json(path))


def test_repeated_annotation_ids_all_count(write_coco) -> None:
    boxes = [(1, 1, (0, 0, 10, 10), {"id": 5}), (1, 1, (20, 0, 10, 10), {"id": 5})]
    guess = [{"image_id": 1, "category_id": 1, "bbox": list(b[2]), "score": 0.9} for b in boxes]
    ours = evaluate(read_coco_json(write_coco([(1, "a.png")], boxes)), guess, [1])
    assert ours.numbers["AR100"] == 1 and ours.instances == 2
    assert "1 annotation ids are repeated" in ours.notes[0]


@pytest.mark.parametrize("kind", FIELDS)
def test_missing_areas_are_made_up_for_and_noted(kind: str, write_people) -> None:
    from pycocotools import mask

    path = write_people(17)
    document = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for note in document["annotations"]:
        note["segmentation"] = [polygon(note["bbox"], rng), polygon(note["bbox"], rng)]
    predictions = disturbed(document, 0.05, kind)
    for note in document["annotations"][::2]:
        note["area"] = None
    path.write_text(json.dumps(document))
    ours = evaluate(read_coco_json(path), predictions, range(1, 16), kind=kind)
    for note in document["annotations"][::2]:
        shape = mask.merge(mask.frPyObjects(note["segmentation"], 600, 600))
        note["area"] = float(mask.area(shape)) if kind == "segm" else note["bbox"][2] * note["bbox"][3]
    path.with_name("filled.json").write_text(json.dumps(document))
    expected = Judge(path.with_name("filled.json"), predictions, kind).run()
    np.testing.assert_allclose(list(ours.numbers.values()), expected, atol=EXACT)
    used = "the area of the mask" if kind == "segm" else "width x height of the box"
    assert ours.notes == (f"45 annotations have no 'area'; {used} is used",)


def test_an_image_listed_twice_counts_once(write_coco) -> None:
    rng = np.random.default_rng(4)
    boxes = scattered(rng, 30, [1, 2])
    found = guesses(boxes, rng)
    once = check(write_coco([(1, "a.png"), (2, "b.png")], boxes, info={}), found)
    table = read_coco_json(write_coco([(1, "a.png"), (2, "b.png"), (1, "a.png")], boxes, name="twice.json"))
    assert evaluate(table, found, [2, 1, 1, 2]) == once


def test_images_and_categories_that_are_asked_for(write_coco) -> None:
    rng = np.random.default_rng(4)
    boxes = scattered(rng, 60, [1, 2, 3])
    path = write_coco([(i, f"{i}.png") for i in (1, 2, 3)], boxes, info={})
    found = guesses(boxes, rng)
    ours = evaluate(read_coco_json(path), found, [3, 1], [3])
    np.testing.assert_allclose(list(ours.numbers.values()), Judge(path, found).run(imgIds=[1, 3], catIds=[3]))
    assert [row["id"] for row in ours.per_class] == [3]
    assert ours.per_class[0]["AP"] == ours.numbers["AP"] > 0
    assert (ours.images, ours.instances, ours.cut) == (2, 20, 0)


@pytest.mark.parametrize("kind", FIELDS)
def test_categories_can_be_left_out_of_account(kind: str, write_people) -> None:
    path = write_people(17)
    document = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for note in document["annotations"]:
        note["segmentation"] = [polygon(note["bbox"], rng)]
    path.write_text(json.dumps(document))
    predictions = disturbed(document, 0.05, kind)
    ours = evaluate(read_coco_json(path), predictions, range(1, 16), use_categories=False, kind=kind)
    document["annotations"].sort(key=lambda note: note["category_id"])
    for note in document["annotations"]:
        note["category_id"] = 1
    path.with_name("one.json").write_text(json.dumps(document))
    in_one = [{**p, "category_id": 1} for p in sorted(predictions, key=lambda p: p["category_id"])]
    expected = Judge(path.with_name("one.json"), in_one, kind).run(catIds=[1])
    np.testing.assert_allclose(list(ours.numbers.values()), expected, atol=EXACT)
    if kind != "keypoints":  # pycocotools itself compares no keypoints without categories
        np.testing.assert_allclose(expected, Judge(path, predictions, kind).run(useCats=0), atol=EXACT)
    assert ours.per_class == []
    foreign = [{**p, "category_id": 77} for p in in_one]
    moved = evaluate(read_coco_json(path), foreign, range(1, 16), use_categories=False, kind=kind)
    assert moved.numbers == pytest.approx(ours.numbers)


def test_without_categories_equal_overlaps_are_ordered_by_category(write_coco) -> None:
    # The wide guess covers half of either box; the one it takes decides whether the second guess finds its own.
    boxes = [(1, 3, (0, 0, 10, 10)), (1, 1, (10, 0, 10, 10))]
    path = write_coco([(1, "a.png")], boxes, info={})
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 10], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.8},
    ]
    ours = evaluate(read_coco_json(path), found, [1], use_categories=False)
    np.testing.assert_allclose(list(ours.numbers.values()), Judge(path, found).run(useCats=0), atol=EXACT)


def test_a_category_of_another_split_changes_no_number(write_coco) -> None:
    rng = np.random.default_rng(4)
    boxes = scattered(rng, 30, [1])
    table = read_coco_json(write_coco([(1, "a.png")], boxes))
    found = guesses(boxes, rng)
    more = [*found, *[{**found[0], "category_id": 9}] * 101]
    assert evaluate(table, more, [1], [1, 3, 9]) == evaluate(table, found, [1], [1, 3])
    with pytest.raises(DataError, match=r"101 predictions name categories that are not in 'categories' of .*: ids 9"):
        evaluate(table, more, [1])
