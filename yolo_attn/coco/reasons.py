"""Why two mAPs of the same predictions differ: what COCO does in another way than Ultralytics, each with its size.

Each reason that can be switched off is, and the predictions are judged again. What is left is named with its own size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .coco_json import CocoJson, Id
from .evaluation import Evaluation, evaluate

# Predictions that are judged again for a reason; of more, every n-th image is.
_MOST_PREDICTIONS = 200_000
_POSE_AREA = 0.53  # area of a person as Ultralytics has it, as a share of its box
_LEFT = {
    "bbox": "reads precision in steps (Ultralytics along lines) and matches in order of score",
    "segm": "compares masks in the image's own pixels and reads precision in steps (Ultralytics along lines)",
    "keypoints": "reads precision in steps (Ultralytics along lines) and matches in order of score",
}


@dataclass(frozen=True)
class Reason:
    """What COCO does in another way.

    Attributes:
        text: What it does, after "COCO".
        sizes: How much higher mAP50 and mAP50-95 would be in Ultralytics' way; None if that was not measured.
        is_about: Whether the sizes come from a part of the images.
    """

    text: str
    sizes: tuple[float, float] | None = None
    is_about: bool = False

    @property
    def size(self) -> float:
        """The larger of the two sizes, without its sign; 0 if not measured."""
        return max(map(abs, self.sizes)) if self.sizes else 0.0


@dataclass(frozen=True)
class Case:
    """What was judged: the arguments of ``evaluate`` and what Ultralytics had in their place.

    Attributes:
        coco: The ground truth.
        predictions: As ``evaluate`` takes them.
        image_ids: Images that were evaluated.
        options: The other arguments of ``evaluate``, ``kind`` among them.
        raw_boxes: For each prediction its box before it was clipped to the image, None where that changes nothing;
            empty where it is not known.
        labels: The objects Ultralytics saw: index of the image, index of the category, and boxes in pixels; None if
            they are those of the file.
        max_det: Predictions per image that Ultralytics takes.
    """

    coco: CocoJson
    predictions: Sequence[dict[str, Any]]
    image_ids: Sequence[Id]
    options: Mapping[str, Any]
    raw_boxes: Sequence[Sequence[float] | None] = ()
    labels: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    max_det: int = 300


def find_reasons(case: Case, judged: Evaluation, own: Mapping[str, float]) -> list[Reason]:
    """Return the reasons, that of the largest size first; those without a measurable size are left out.

    Args:
        case: What was judged.
        judged: What COCO says of it.
        own: What Ultralytics says: ``mAP50`` and ``mAP50-95``.
    """
    switches = _switches(case, judged)
    is_part = len(case.predictions) > _MOST_PREDICTIONS and len(switches) > 0
    step = -(-len(case.predictions) // _MOST_PREDICTIONS)
    base = replace(case, image_ids=case.image_ids[::step]) if is_part else case
    start = _pair(_judge(base)) if is_part else _pair(judged)
    reasons, everything = [], base
    for text, change in switches:
        alone = _pair(_judge(change(base)))
        reasons.append(Reason(text, (alone[0] - start[0], alone[1] - start[1]), is_part))
        everything = change(everything)
    end = _pair(_judge(everything)) if len(switches) > 1 else alone if switches else start
    total = _pair(judged)
    left = (own["mAP50"] - total[0] - (end[0] - start[0]), own["mAP50-95"] - total[1] - (end[1] - start[1]))
    return sorted([*reasons, Reason(_LEFT[judged.kind], left, is_part)], key=lambda reason: -reason.size)


def _switches(case: Case, judged: Evaluation) -> list[tuple[str, Callable[[Case], Case]]]:
    """Return the reasons that apply to these data, and what makes of a case the one that Ultralytics judges."""
    found: list[tuple[str, Callable[[Case], Case]]] = []
    boxes = sum(box is not None for box in case.raw_boxes)
    if judged.kind == "bbox" and boxes:
        text = f"judges boxes clipped to the image (Ultralytics does not; {boxes} reach out of it)"
        found.append((text, _unclipped))
    if judged.crowds:
        regions = f"{judged.crowds} crowd region{'' if judged.crowds == 1 else 's'}"
        found.append((f"takes out what falls on {regions}", _without_crowds))
    if judged.cut:
        limit, what = (20, "keypoints") if judged.kind == "keypoints" else (100, "predictions")
        found.append((f"takes {limit} {what} per image and class ({judged.cut} left out)", _without_limit))
    if judged.kind == "bbox" and case.labels is not None:
        found.append(("takes 'bbox' as it stands (the labels clip, drop or redraw some)", _with_labels))
    if judged.kind == "keypoints":
        found.append(("measures distances by the annotation's own area (Ultralytics by its box)", _with_box_areas))
    return found


def _judge(case: Case) -> Evaluation:
    return evaluate(case.coco, case.predictions, case.image_ids, **case.options)


def _pair(evaluation: Evaluation) -> tuple[float, float]:
    return max(evaluation.numbers["AP50"], 0.0), max(evaluation.numbers["AP"], 0.0)


def _unclipped(case: Case) -> Case:
    rows = [
        row if box is None else {**row, "bbox": list(box)}
        for row, box in zip(case.predictions, case.raw_boxes, strict=True)
    ]
    return replace(case, predictions=rows)


def _without_crowds(case: Case) -> Case:
    return replace(case, coco=_rows(case.coco, np.flatnonzero(~case.coco.crowd)))


def _without_limit(case: Case) -> Case:
    return replace(case, options={**case.options, "limit": case.max_det})


def _with_box_areas(case: Case) -> Case:
    return replace(case, coco=replace(case.coco, areas=case.coco.boxes[:, 2:].prod(1) * _POSE_AREA))


def _with_labels(case: Case) -> Case:
    """Put the labels in the place of all annotations but crowd regions."""
    assert case.labels is not None
    crowds = _rows(case.coco, np.flatnonzero(case.coco.crowd))
    image_of, category_of, boxes = case.labels
    count = len(boxes)
    return replace(
        case,
        coco=replace(
            crowds,
            image_of=np.concatenate([crowds.image_of, image_of]),
            category_of=np.concatenate([crowds.category_of, category_of]),
            boxes=np.concatenate([crowds.boxes, boxes]),
            areas=np.concatenate([crowds.areas, np.full(count, np.nan)]),
            crowd=np.concatenate([crowds.crowd, np.zeros(count, dtype=bool)]),
            annotation_ids=(*crowds.annotation_ids, *range(count)),
        ),
    )


def _rows(coco: CocoJson, kept: np.ndarray) -> CocoJson:
    """Return the file with some of its annotations."""
    return replace(
        coco,
        image_of=coco.image_of[kept],
        category_of=coco.category_of[kept],
        boxes=coco.boxes[kept],
        areas=coco.areas[kept],
        crowd=coco.crowd[kept],
        annotation_ids=tuple(coco.annotation_ids[i] for i in kept.tolist()),
        masks=coco.masks if coco.masks is None else coco.masks.pick(kept),
        keypoints=coco.keypoints if coco.keypoints is None else coco.keypoints[kept],
    )
