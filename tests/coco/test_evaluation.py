"""The official numbers are pycocotools' own: boxes, masks and keypoints, real and made up, of every class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judge import DATA, EXACT, Judge, check, disturbed, encoded

from yolo_attn.coco.coco_json import read_coco_json
from yolo_attn.coco.evaluation import PERSON_SIGMAS, evaluate
from yolo_attn.errors import DataError


@pytest.mark.parametrize("noise", [0.01, 0.06, 0.15])
@pytest.mark.parametrize(
    "file, kind",
    [
        ("coco128/annotations/instances_train2017.json", "bbox"),
        ("coco128/annotations/instances_train2017.json", "segm"),
        ("bccd/annotations/instances_val.json", "bbox"),
    ],
)
def test_real_data_at_every_quality(file: str, kind: str, noise: float) -> None:
    path = DATA / file
    if not path.is_file():
        pytest.skip(f"no {file} in {DATA}")
    document = json.loads(path.read_text())
    ours = check(path, disturbed(document, noise, kind), kind)
    assert 0.005 < ours.numbers["AP"] < 0.98
    assert ours.images == len(document["images"])
    assert ours.crowds == sum(note["iscrowd"] for note in document["annotations"])
    assert ours.instances == len(document["annotations"]) - ours.crowds
    assert sum(row["instances"] for row in ours.per_class) == ours.instances
    first = ours.per_class[0]
    of_first = [n for n in document["annotations"] if n["category_id"] == first["id"] and not n["iscrowd"]]
    assert (first["images"], first["instances"]) == (len({n["image_id"] for n in of_first}), len(of_first))


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.08])
def test_keypoints_of_people(noise: float, write_people) -> None:
    path = write_people(17)
    ours = check(path, disturbed(json.loads(path.read_text()), noise, "keypoints"), "keypoints")
    assert 0.005 < ours.numbers["AP"] < 0.98
    # 90 objects: numbers 0, 13, 26, ... are crowds, of the others those with a number in 0, 9, 18, ... have no points.
    assert (ours.crowds, ours.ignored, ours.instances) == (7, 9, 74)
    assert ours.notes == ()
    counted = [n for n in json.loads(path.read_text())["annotations"] if n["num_keypoints"] and not n["iscrowd"]]
    for row in ours.per_class:
        images = [n["image_id"] for n in counted if n["category_id"] == row["id"]]
        assert (row["images"], row["instances"]) == (len(set(images)), len(images))


def test_keypoints_of_another_number(write_people) -> None:
    path = write_people(5)
    predictions = disturbed(json.loads(path.read_text()), 0.1, "keypoints")
    ours = check(path, predictions, "keypoints", kpt_oks_sigmas=np.full(5, 1 / 5))
    assert 0.005 < ours.numbers["AP"] < 0.98
    assert ours.notes == ("COCO has no sigmas for 5 keypoints; 1/5 is used for each, as Ultralytics does",)
    table = read_coco_json(path)
    sigmas = [0.02, 0.05, 0.1, 0.2, 0.03]
    own = evaluate(table, predictions, table.image_ids, kind="keypoints", sigmas=sigmas)
    expected = Judge(path, predictions, "keypoints").run(kpt_oks_sigmas=np.array(sigmas))
    np.testing.assert_allclose(list(own.numbers.values()), expected, atol=EXACT)
    assert own.numbers["AP"] < ours.numbers["AP"] and own.notes == ()
    for wrong in ([0.1] * 4, [0.1, 0.1, 0.1, 0.1, 0]):
        with pytest.raises(DataError, match=r"sigmas=.*must be 5 positive numbers, one for each keypoint of .*people5"):
            evaluate(table, predictions, table.image_ids, kind="keypoints", sigmas=wrong)


def test_sigmas_of_people_are_cocos() -> None:
    from pycocotools.cocoeval import Params

    assert pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist()) == PERSON_SIGMAS


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": "x"}, r"1 predictions name images that are not in 'images' of .*train.json: ids 'x'"),
        ({"category_id": 2}, r"1 predictions name categories that are not in 'categories' of .*train.json: ids 2"),
        ({"score": None}, r"1 of 2 predictions have no 'score', like \{'image_id': 1"),
        ({"bbox": None}, r"1 of 2 predictions have no 'bbox'"),
        ({"score": float("nan")}, r"1 predictions have a score that is no number, like"),
    ],
)
def test_predictions_are_never_lost_in_silence(change: dict, message: str, write_coco) -> None:
    table = read_coco_json(write_coco([(1, "a.png")], [(1, 1, (0, 0, 9, 9))]))
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    with pytest.raises(DataError, match=message):
        evaluate(table, [good, {**good, **change}], [1])


def test_what_cannot_be_evaluated_says_why(write_coco, write_people) -> None:
    table = read_coco_json(write_coco([(1, "a.png")], [(1, 1, (0, 0, 9, 9))]))
    with pytest.raises(DataError, match=r"this JSON has no annotations: predictions.json is for submission"):
        evaluate(replace(table, is_annotated=False), [], [1])
    with pytest.raises(DataError, match="no annotation has 'segmentation'"):
        evaluate(table, [], [1], kind="segm")
    with pytest.raises(DataError, match="no annotation has 'keypoints'"):
        evaluate(table, [], [1], kind="keypoints")
    with pytest.raises(DataError, match=r"2 images to evaluate are not in 'images' of .*: ids 4, 5"):
        evaluate(table, [], [1, 4, 5])
    with pytest.raises(ValueError, match="kind='boxes': must be one of bbox, segm, keypoints"):
        evaluate(table, [], [1], kind="boxes")
    short = {"image_id": 1, "category_id": 1, "keypoints": [1.0, 2.0, 1.0], "score": 0.5}
    with pytest.raises(
        DataError, match=r"1 predictions have keypoints of 3 numbers, .*people17.json has 17 points: 51"
    ):
        evaluate(read_coco_json(write_people(17)), [short], [1], kind="keypoints")


def squares(write_coco, sizes: Sequence[tuple[int, int]], segmentations: Sequence[Any], **more: Any) -> Path:
    images = [(i + 1, f"{i}.png", size) for i, size in enumerate(sizes)]
    notes = [(i + 1, 1, (2, 3, 8, 6), {"segmentation": s}) for i, s in enumerate(segmentations)]
    return write_coco(images, notes, info={}, **more)


def test_masks_of_every_spelling_are_the_same(write_coco) -> None:
    from pycocotools import mask

    rle = encoded((2, 3, 8, 6), 20, 40)
    columns = mask.decode(rle).ravel(order="F")
    edges = np.flatnonzero(np.diff(columns)) + 1
    runs = np.diff([0, *edges.tolist(), len(columns)]).tolist()
    outline = [[2, 3, 10, 3, 10, 9, 2, 9]]
    path = squares(write_coco, [(40, 20)] * 3, [rle, {"size": [20, 40], "counts": runs}, outline])
    found = [{"image_id": i, "category_id": 1, "segmentation": rle, "score": 0.9} for i in (1, 2, 3)]
    ours = check(path, found, "segm")
    assert ours.numbers["AP"] == pytest.approx(1) and ours.notes == ()


def test_masks_are_compared_in_the_true_size_of_the_image(write_coco) -> None:
    # The JSON states sizes that are wrong or none; the decoded image is 40 x 20.
    for size in ((20, 40), (0, 0)):
        table = read_coco_json(squares(write_coco, [size], [[[2, 3, 10, 3, 10, 9, 2, 9]]]))
        found = [{"image_id": 1, "category_id": 1, "segmentation": encoded((2, 3, 8, 6), 20, 40), "score": 0.9}]
        assert evaluate(table, found, [1], kind="segm", sizes={1: (20, 40)}).numbers["AP"] == pytest.approx(1)
    with pytest.raises(DataError, match=r"1 images have no 'width' and 'height', which masks need, like 1"):
        evaluate(table, found, [1], kind="segm")
    with pytest.raises(DataError, match=r"1 predicted masks are not of their image's size; the first, of image 1, has"):
        evaluate(table, found, [1], kind="segm", sizes={1: (40, 20)})


def test_the_box_stands_for_a_mask_that_is_missing_or_of_another_size(write_coco) -> None:
    whole = encoded((2, 3, 8, 6), 20, 40)
    path = squares(write_coco, [(40, 20)] * 3, [None, encoded((2, 3, 8, 6), 30, 40), whole])
    found = [{"image_id": i, "category_id": 1, "segmentation": whole, "score": 0.9} for i in (1, 2, 3)]
    ours = evaluate(read_coco_json(path), found, [1, 2, 3], kind="segm")
    assert ours.numbers["AP"] == pytest.approx(1)
    assert ours.notes == ("2 annotations have no mask of their image's size; the box is used",)


def test_a_predicted_mask_has_its_own_area_even_beside_a_box(write_coco) -> None:
    # A large true mask, and a false one that is small though its box is large: COCO's results have no such box.
    path = squares(write_coco, [(400, 400)], [encoded((0, 0, 300, 300), 400, 400)])
    document = json.loads(path.read_text())
    document["annotations"][0] |= {"area": 90000, "bbox": [0, 0, 300, 300]}
    path.write_text(json.dumps(document))
    true = {"segmentation": encoded((0, 0, 300, 300), 400, 400), "bbox": [0, 0, 300, 300], "score": 0.5}
    false = {"segmentation": encoded((380, 380, 9, 9), 400, 400), "bbox": [0, 0, 300, 300], "score": 0.9}
    found = [{"image_id": 1, "category_id": 1, **p} for p in (true, false)]
    ours = check(path, found, "segm")
    assert ours.numbers["APl"] == pytest.approx(1) and ours.numbers["AP"] == pytest.approx(0.5)
