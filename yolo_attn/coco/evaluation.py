"""The official COCO numbers for boxes, masks and keypoints, by faster-coco-eval against the user's own JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from .coco_json import CocoJson, Id
from .evaluator_input import Scope, found, ground_truth, make_scope


class Measure(NamedTuple):
    """One official number: its name, its meaning, and where it stands in the evaluator's arrays."""

    name: str
    meaning: str
    is_precision: bool
    threshold: int | None  # index of the IoU or OKS threshold, all if None
    area: int  # index of the range of areas
    limit: int  # index of the largest number of predictions per image and category


_DETECTION = (
    Measure("AP", "IoU 0.50:0.95", True, None, 0, 2),
    Measure("AP50", "IoU 0.50", True, 0, 0, 2),
    Measure("AP75", "IoU 0.75", True, 5, 0, 2),
    Measure("APs", "small objects", True, None, 1, 2),
    Measure("APm", "medium objects", True, None, 2, 2),
    Measure("APl", "large objects", True, None, 3, 2),
    Measure("AR1", "1 prediction per image", False, None, 0, 0),
    Measure("AR10", "10 predictions per image", False, None, 0, 1),
    Measure("AR100", "100 predictions per image", False, None, 0, 2),
    Measure("ARs", "small objects", False, None, 1, 2),
    Measure("ARm", "medium objects", False, None, 2, 2),
    Measure("ARl", "large objects", False, None, 3, 2),
)
_KEYPOINTS = (
    Measure("AP", "OKS 0.50:0.95", True, None, 0, 0),
    Measure("AP50", "OKS 0.50", True, 0, 0, 0),
    Measure("AP75", "OKS 0.75", True, 5, 0, 0),
    Measure("APm", "medium objects", True, None, 1, 0),
    Measure("APl", "large objects", True, None, 2, 0),
    Measure("AR", "20 predictions per image", False, None, 0, 0),
    Measure("AR50", "OKS 0.50", False, 0, 0, 0),
    Measure("AR75", "OKS 0.75", False, 5, 0, 0),
    Measure("ARm", "medium objects", False, None, 1, 0),
    Measure("ARl", "large objects", False, None, 2, 0),
)
MEASURES = {"bbox": _DETECTION, "segm": _DETECTION, "keypoints": _KEYPOINTS}
NUMBERS = tuple(measure.name for measure in _DETECTION)
PER_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR")  # of these, what the kind has
# COCO's deviation between annotators at nose, eyes, ears, shoulders, elbows, wrists, hips, knees and ankles.
PERSON_SIGMAS = (0.026, *np.repeat([0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2).tolist())


@dataclass(frozen=True)
class Evaluation:
    """What COCO says of one kind of prediction.

    Attributes:
        kind: ``bbox``, ``segm`` or ``keypoints``.
        numbers: The official numbers by name, in COCO's order; -1 where there is nothing to measure.
        per_class: One row per category in class order: ``id, name, images, instances`` and what COCO gives for this
            category alone (``PER_CLASS``). Empty where categories do not count.
        images: Images evaluated.
        instances: Instances that count: no crowd regions, and for keypoints none without a labelled keypoint.
        crowds: Crowd regions in these images; predictions that fall on one count neither way.
        ignored: Instances without a labelled keypoint, likewise ignored; 0 for other kinds.
        cut: Predictions left out because COCO takes 100 (keypoints: 20) per image and category.
        notes: What was assumed, one sentence each.
    """

    kind: str
    numbers: dict[str, float]
    per_class: list[dict[str, Any]]
    images: int = 0
    instances: int = 0
    crowds: int = 0
    ignored: int = 0
    cut: int = 0
    notes: tuple[str, ...] = ()


def evaluate(
    coco: CocoJson,
    predictions: Iterable[dict[str, Any]],
    image_ids: Iterable[Id],
    category_ids: Sequence[Id] | None = None,
    use_categories: bool = True,
    kind: str = "bbox",
    sizes: Mapping[Id, tuple[int, int]] | None = None,
    sigmas: Sequence[float] | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Return the official numbers of COCO, which pycocotools gives for the same files, and those of each category.

    The area of a predicted mask is the mask's, that of predicted keypoints the area of the box around them: so it is
    for results in COCO's own format, which have no boxes beside masks or keypoints.

    Args:
        coco: The ground truth; its crowd regions take part as COCO wants.
        predictions: ``image_id, category_id, score`` with the JSON's own ids, and for ``bbox`` a ``bbox`` (x, y, w, h
            in pixels), for ``segm`` a ``segmentation`` (compressed run lengths ``{"size": [h, w], "counts": str}``),
            for ``keypoints`` a flat list ``keypoints`` of x, y in pixels and any third number.
        image_ids: Images to evaluate; an id given twice counts once.
        category_ids: Categories to evaluate, all of the JSON if None. Ids that the JSON lacks may be predicted, but
            without ground truth they change no number.
        use_categories: Whether a prediction must have the right category; if not, its category does not matter.
        kind: ``bbox``, ``segm`` or ``keypoints``.
        sizes: True height and width by image id, for masks; what the JSON says where an image is missing.
        sigmas: One per keypoint, for the object keypoint similarity. If None, COCO's for 17 keypoints, else 1/k each.
        limit: Most predictions per image and category that count. If None, COCO's: 100, of keypoints 20.

    Raises:
        DataError: If the JSON has no annotations, or none of this kind; if a prediction names an image or category
            that is unknown, or lacks what the kind needs, or a mask has another size than its image.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    scope = make_scope(coco, kind, image_ids, category_ids, use_categories, sizes)
    truth, said = ground_truth(scope)
    guesses = found(scope, list(predictions))
    images = [
        {"id": rank, "height": height, "width": width}
        for rank, (height, width) in zip(scope.rank.tolist(), scope.sizes.tolist(), strict=True)
    ]
    categories = [{"id": i, "name": name} for i, (_, name) in enumerate(coco.categories, start=1)]
    both = (COCO({"images": images, "categories": categories, "annotations": rows}) for rows in (truth, guesses))
    spread = _sigmas(coco, sigmas) if kind == "keypoints" else None
    judge = COCOeval_faster(*both, iouType=kind, print_function=_silent, kpt_oks_sigmas=spread)
    judge.params.imgIds = sorted(scope.rank[scope.is_image].tolist())
    judge.params.catIds = (np.flatnonzero(scope.is_class) + 1).tolist() if use_categories else [1]
    if limit is not None:
        judge.params.maxDets = [*judge.params.maxDets[:-1], limit]
    judge.evaluate()
    judge.accumulate()
    precision, recall = judge.eval["precision"], judge.eval["recall"]

    counted = [row for row in truth if not (row["iscrowd"] or row.get("num_keypoints") == 0)]
    crowds = sum(row["iscrowd"] for row in truth)
    per_pair = Counter((row["image_id"], row["category_id"]) for row in guesses)
    limit = judge.params.maxDets[-1]
    return Evaluation(
        kind=kind,
        numbers={measure.name: _mean(measure, precision, recall) for measure in MEASURES[kind]},
        per_class=_per_class(scope, counted, precision, recall) if use_categories else [],
        images=int(scope.is_image.sum()),
        instances=len(counted),
        crowds=crowds,
        ignored=len(truth) - crowds - len(counted),
        cut=sum(count - limit for count in per_pair.values() if count > limit),
        notes=(*notes(coco, kind, sigmas), *said),
    )


def notes(coco: CocoJson, kind: str = "bbox", sigmas: Sequence[float] | None = None) -> list[str]:
    """Return what another evaluator would do differently with this ground truth, one sentence each.

    Args:
        coco: The ground truth.
        kind: ``bbox``, ``segm`` or ``keypoints``.
        sigmas: Those given to ``evaluate``.
    """
    said = []
    ids = coco.annotation_ids
    repeated = len(ids) - len(set(map(repr, ids)))
    if any(type(id_) is int and id_ == 0 for id_ in ids):
        said.append("an annotation has id 0, which pycocotools takes for 'not matched'; here it counts")
    if repeated:
        said.append(f"{repeated} annotation ids are repeated or missing; pycocotools would lose boxes, here all count")
    bare = int(np.isnan(coco.areas).sum())
    if bare:
        used = "the area of the mask" if kind == "segm" else "width x height of the box"
        said.append(f"{bare} annotations have no 'area'; {used} is used")
    if kind == "keypoints" and sigmas is None and coco.keypoints is not None:
        k = coco.keypoints.shape[1]
        if k != len(PERSON_SIGMAS):
            said.append(f"COCO has no sigmas for {k} keypoints; 1/{k} is used for each, as Ultralytics does")
    return said


def _sigmas(coco: CocoJson, given: Sequence[float] | None) -> list[float]:
    assert coco.keypoints is not None
    k = coco.keypoints.shape[1]
    if given is None:
        return list(PERSON_SIGMAS) if k == len(PERSON_SIGMAS) else [1 / k] * k
    sigmas = [float(sigma) for sigma in given]
    if len(sigmas) != k or not all(sigma > 0 and math.isfinite(sigma) for sigma in sigmas):
        raise DataError(f"sigmas={sigmas}: must be {k} positive numbers, one for each keypoint of {coco.path}")
    return sigmas


def _mean(measure: Measure, precision: np.ndarray, recall: np.ndarray) -> float:
    """Return one number from precision (threshold, recall, category, area, limit) and recall (all but recall)."""
    values = (precision if measure.is_precision else recall)[..., measure.area, measure.limit]
    if measure.threshold is not None:
        values = values[measure.threshold]
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _per_class(
    scope: Scope, counted: list[dict[str, Any]], precision: np.ndarray, recall: np.ndarray
) -> list[dict[str, Any]]:
    instances = Counter(row["category_id"] for row in counted)
    images = Counter(number for number, _ in {(row["category_id"], row["image_id"]) for row in counted})
    measures = [measure for measure in MEASURES[scope.kind] if measure.name in PER_CLASS]
    rows = []
    for k, i in enumerate(np.flatnonzero(scope.is_class).tolist()):
        id_, name = scope.coco.categories[i]
        row = {"id": id_, "name": name, "images": images[i + 1], "instances": instances[i + 1]}
        alone = precision[:, :, k : k + 1], recall[:, k : k + 1]
        rows.append(row | {measure.name: _mean(measure, *alone) for measure in measures})
    return rows


def _silent(*_: Any) -> None:
    """Take the evaluator's log lines; the numbers are printed by whoever asked for them."""
