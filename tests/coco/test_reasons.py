"""Why two mAPs differ: each reason is switched off and measured, and the one that explains most comes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from yolo_attn.coco import reasons
from yolo_attn.coco.coco_json import CocoJson, read_coco_json
from yolo_attn.coco.evaluation import Evaluation, evaluate
from yolo_attn.coco.reasons import Case, Reason, find_reasons

SIZE = (100, 80)


def _read(write_coco, boxes: list[Any], **more: Any) -> CocoJson:
    images = sorted({image for image, *_ in boxes})
    rows = [(image, 1, box, *rest) for image, box, *rest in boxes]
    return read_coco_json(write_coco([(i, f"{i}.jpg", SIZE) for i in images], rows, {1: "a"}, **more))


def _guess(image: int, box: Any, score: float = 0.9, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": 1, "bbox": list(box), "score": score, **more}


def _found(case: Case, own: tuple[float, float]) -> tuple[list[Reason], Evaluation]:
    judged = evaluate(case.coco, case.predictions, case.image_ids, **case.options)
    return find_reasons(case, judged, {"mAP50": own[0], "mAP50-95": own[1]}), judged


def _case(coco: CocoJson, predictions: list[dict[str, Any]], **more: Any) -> Case:
    options = {"kind": "bbox", **more.pop("options", {})}
    return Case(coco, predictions, list(coco.image_ids), options, **more)


def test_boxes_that_were_clipped_come_first_when_they_explain_most(write_coco) -> None:
    coco = _read(write_coco, [(1, (0, 0, 100, 80)), (2, (10, 10, 20, 20))])
    guesses = [_guess(1, (0, 0, 100, 80), 0.5), _guess(2, (10, 10, 20, 20))]
    case = _case(coco, guesses, raw_boxes=[(-200, -200, 500, 500), None])
    found, judged = _found(case, (0.5005, 0.5002))
    assert judged.numbers["AP"] == pytest.approx(1)
    assert "clipped to the image (Ultralytics does not; 1 reach out of it)" in found[0].text
    assert found[0].sizes == pytest.approx((0.5045 - 1, 0.5045 - 1), abs=0.01)
    assert "in steps" in found[1].text
    # What is named adds up to what is seen.
    assert sum(reason.sizes[1] for reason in found) == pytest.approx(0.5002 - 1)


def test_a_reason_that_explains_less_comes_later(write_coco) -> None:
    coco = _read(write_coco, [(1, (0, 0, 100, 80)), (2, (10, 10, 20, 20))])
    guesses = [_guess(1, (0, 0, 100, 80)), _guess(2, (10, 10, 20, 20))]
    case = _case(coco, guesses, raw_boxes=[(-0.1, 0, 100.1, 80), None])
    found, _ = _found(case, (0.99, 0.9))
    assert ["in steps" in reason.text for reason in found] == [True, False]
    assert found[0].sizes == pytest.approx((-0.01, -0.1))
    assert found[1].size == 0


def test_crowd_regions_and_the_limit_are_measured(write_coco) -> None:
    crowd = (1, (50, 40, 50, 40), {"iscrowd": 1, "segmentation": {"size": [80, 100], "counts": [8000]}})
    coco = _read(write_coco, [(1, (0, 0, 20, 20)), crowd])
    on_crowd = [_guess(1, (60, 50, 20, 20), 0.95)]
    wrong = [_guess(1, (30 + i % 5, 20, 3, 3), 0.94) for i in range(105)]
    found, judged = _found(_case(coco, [*on_crowd, *wrong, _guess(1, (0, 0, 20, 20), 0.5)]), (0.009, 0.009))
    assert judged.crowds == 1 and judged.cut == 7
    by_text = {reason.text: reason.sizes for reason in found}
    assert by_text["takes 100 predictions per image and class (7 left out)"][1] == pytest.approx(1 / 106, abs=1e-3)
    assert by_text["takes out what falls on 1 crowd region"] == pytest.approx((0, 0))


def test_labels_that_are_others_are_measured(write_coco) -> None:
    coco = _read(write_coco, [(1, (-40, 0, 60, 80)), (1, (60, 10, 20, 20))])
    labels = np.array([0, 0]), np.array([0, 0]), np.array([[0, 0, 20, 80], [60, 10, 20, 20]], dtype=float)
    guesses = [_guess(1, (0, 0, 20, 80)), _guess(1, (60, 10, 20, 20), 0.8)]
    found, judged = _found(_case(coco, guesses, labels=labels), (1.0, 1.0))
    assert found[0].text.startswith("takes 'bbox' as it stands")
    assert found[0].sizes[0] == pytest.approx(1 - judged.numbers["AP50"])


def test_keypoints_are_measured_with_the_area_of_their_box(write_coco) -> None:
    points = [10, 10, 2, 30, 30, 2]
    row = {"keypoints": points, "num_keypoints": 2, "area": 16}
    coco = _read(write_coco, [(1, (0, 0, 40, 40), row), (2, (0, 0, 40, 40), row)])
    moved = [14.0, 10, 1, 34, 30, 1]
    guesses = [_guess(i, (0, 0, 40, 40), keypoints=moved) for i in (1, 2)]
    case = _case(coco, guesses, options={"kind": "keypoints", "sigmas": [0.1, 0.1]})
    found, judged = _found(case, (1.0, 0.6))
    assert judged.numbers["AP50"] == 0
    assert found[0].text.startswith("measures distances by the annotation's own area")
    assert found[0].sizes[0] == pytest.approx(1)


def test_masks_name_their_own_pixels(write_coco) -> None:
    square = {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
    crowd = {"iscrowd": 1, "segmentation": {"size": [80, 100], "counts": [0, 80, 7920]}}
    coco = _read(write_coco, [(1, (0, 0, 1, 80), crowd), (1, (10, 10, 20, 20), square)])
    from pycocotools import mask

    encoded = mask.encode(np.asfortranarray(np.pad(np.ones((20, 20), np.uint8), ((10, 50), (10, 70)))))
    guess = {**_guess(1, (0, 0, 1, 1)), "segmentation": {"size": [80, 100], "counts": encoded["counts"].decode()}}
    found, judged = _found(_case(coco, [guess], options={"kind": "segm"}), (0.8, 0.7))
    assert judged.numbers["AP"] == pytest.approx(1)
    assert found[0].text.startswith("compares masks in the image's own pixels")
    assert found[0].sizes == pytest.approx((-0.2, -0.3))


def test_picked_masks_are_those_of_their_annotations(write_coco) -> None:
    masks = [[[1, 1, 5, 1, 5, 5]], {"size": [80, 100], "counts": [8000]}, [], [[2, 2, 6, 2, 6, 6], [0, 0, 1, 0, 1, 1]]]
    coco = _read(write_coco, [(1, (0, 0, 9, 9), {"segmentation": mask}) for mask in masks])
    picked = coco.masks.pick([3, 1, 2])
    assert [picked[i] for i in range(3)] == [masks[3], masks[1], None]


def test_of_very_many_predictions_a_part_is_judged_again(write_coco, monkeypatch) -> None:
    coco = _read(write_coco, [(i, (0, 0, 100, 80)) for i in range(40)])
    guesses = [_guess(i, (0, 0, 100, 80)) for i in range(40)]
    case = _case(coco, guesses, raw_boxes=[(-200, -200, 500, 500)] * 40)
    monkeypatch.setattr(reasons, "_MOST_PREDICTIONS", 10)
    judged: list[int] = []
    original = reasons._judge
    monkeypatch.setattr(reasons, "_judge", lambda case: judged.append(len(case.image_ids)) or original(case))
    found, _ = _found(case, (0, 0))
    assert judged == [10, 10]
    assert found[0].is_about and found[0].sizes == pytest.approx((-1, -1))


def test_the_limit_of_an_evaluation_can_be_set(write_coco) -> None:
    coco = _read(write_coco, [(1, (0, 0, 20, 20))])
    wrong = [_guess(1, (50, 40, 3, 3), 0.9) for _ in range(110)]
    guesses = [*wrong, _guess(1, (0, 0, 20, 20), 0.5)]
    assert evaluate(coco, guesses, [1]).numbers["AP"] == 0
    assert evaluate(coco, guesses, [1], limit=300).numbers["AP"] == pytest.approx(1 / 111, abs=1e-4)
