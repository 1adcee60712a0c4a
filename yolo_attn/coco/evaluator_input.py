"""Ground truth and predictions as faster-coco-eval reads them: positive integer ids, masks as run lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from .coco_json import CocoJson, Id, sort_key

FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@dataclass(frozen=True)
class Scope:
    """What is evaluated: which images and categories of a file, and in what size the images are.

    The evaluator needs positive integer ids, and matches by annotation id. Ranks keep the order of the images, on
    which ties between equal scores depend.

    Attributes:
        coco: The ground truth.
        kind: ``bbox``, ``segm`` or ``keypoints``.
        use_categories: Whether categories are told apart; all are number 1 if not.
        image_index: Index in the file of each image id.
        class_index: Index in the file of each category id, -1 for ids that are known without being in it.
        rank: ``(n,)`` rank of each image's id, from 1.
        is_image: ``(n,)`` images to evaluate.
        is_class: ``(c,)`` categories to evaluate.
        sizes: ``(n, 2)`` height and width of the images, 0 where unknown.
    """

    coco: CocoJson
    kind: str
    use_categories: bool
    image_index: dict[Id, int]
    class_index: dict[Id, int]
    rank: np.ndarray
    is_image: np.ndarray
    is_class: np.ndarray
    sizes: np.ndarray


def make_scope(
    coco: CocoJson,
    kind: str,
    image_ids: Iterable[Id],
    category_ids: Sequence[Id] | None,
    use_categories: bool,
    sizes: Mapping[Id, tuple[int, int]] | None,
) -> Scope:
    """Return the scope of an evaluation; the arguments are those of ``evaluate``.

    Raises:
        DataError: If the file has no annotations, or none of this kind, or does not know an image.
    """
    if kind not in FIELDS:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(FIELDS)}")
    if not coco.is_annotated:
        raise DataError(f"{coco.path}: this JSON has no annotations: predictions.json is for submission")
    for needs, column in (("segm", coco.masks), ("keypoints", coco.keypoints)):
        if kind == needs and column is None:
            raise DataError(f"{coco.path}: no annotation has {FIELDS[kind]!r}, there is nothing to compare with")
    image_index = {id_: i for i, id_ in enumerate(coco.image_ids)}
    class_index = {id_: i for i, (id_, _) in enumerate(coco.categories)}
    image_ids = list(image_ids)
    _refuse(coco, "images to evaluate", "'images'", (id_ for id_ in image_ids if id_ not in image_index))
    is_image, is_class = np.zeros(len(image_index), dtype=bool), np.zeros(len(class_index), dtype=bool)
    is_image[[image_index[id_] for id_ in image_ids]] = True
    asked = list(class_index) if category_ids is None else category_ids
    is_class[[class_index[id_] for id_ in asked if id_ in class_index]] = True
    rank = np.empty(len(image_index), dtype=np.int64)
    rank[sorted(range(len(rank)), key=lambda i: sort_key(coco.image_ids[i]))] = np.arange(1, len(rank) + 1)
    shapes = coco.image_sizes[:, ::-1].copy()
    for id_, shape in (sizes or {}).items():
        if id_ in image_index:
            shapes[image_index[id_]] = shape
    return Scope(
        coco=coco,
        kind=kind,
        use_categories=use_categories,
        image_index=image_index,
        class_index=dict.fromkeys(asked, -1) | class_index,
        rank=rank,
        is_image=is_image,
        is_class=is_class,
        sizes=shapes,
    )


def ground_truth(scope: Scope) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the entries of the annotations in the scope, and notes on what was assumed.

    Raises:
        DataError: If masks are to be compared and an image has no size.
    """
    coco = scope.coco
    kept = np.flatnonzero(scope.is_image[coco.image_of] & scope.is_class[coco.category_of])
    if not scope.use_categories:
        kept = kept[np.argsort(coco.category_of[kept], kind="stable")]
    boxes = coco.boxes[kept]
    areas = np.where(np.isnan(coco.areas[kept]), boxes[:, 2] * boxes[:, 3], coco.areas[kept])
    numbers = coco.category_of[kept] + 1 if scope.use_categories else np.ones(len(kept), dtype=np.int64)
    columns = (scope.rank[coco.image_of[kept]], numbers, boxes, areas, coco.crowd[kept].astype(np.int64))
    rows = [
        {"id": i, "image_id": image, "category_id": number, "bbox": box, "area": area, "iscrowd": crowd}
        for i, (image, number, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    if scope.kind == "segm":
        return rows, _add_masks(scope, rows, kept)
    if scope.kind == "keypoints":
        assert coco.keypoints is not None
        points = coco.keypoints[kept]
        labelled = (points[..., 2] > 0).sum(1).tolist()
        for row, flat, count in zip(rows, points.reshape(len(kept), -1).tolist(), labelled, strict=True):
            row["keypoints"], row["num_keypoints"] = flat, count
    return rows, []


def found(scope: Scope, predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of the predictions in the scope.

    Raises:
        DataError: If a prediction names an image or category that is unknown, lacks a field, has a score that is no
            number, or a mask or keypoints of the wrong size.
    """
    coco, field = scope.coco, FIELDS[scope.kind]
    for key in ("image_id", "category_id", "score", field):
        bare = [p for p in predictions if p.get(key) is None]
        if bare:
            raise DataError(f"{len(bare)} of {len(predictions)} predictions have no {key!r}, like {_short(bare[0])}")
    images, classes = scope.image_index, scope.class_index
    unknown = (p["image_id"] for p in predictions if p["image_id"] not in images)
    _refuse(coco, "predictions name images that", "'images'", unknown)
    if scope.use_categories:
        unknown = (p["category_id"] for p in predictions if p["category_id"] not in classes)
        _refuse(coco, "predictions name categories that", "'categories'", unknown)

    image_of = np.array([images[p["image_id"]] for p in predictions], dtype=np.int64)
    class_of = np.array([classes.get(p["category_id"], -1) for p in predictions], dtype=np.int64)
    scores = np.array([p["score"] for p in predictions], dtype=np.float64)
    if np.isnan(scores).any():
        first = predictions[int(np.isnan(scores).argmax())]
        raise DataError(f"{np.isnan(scores).sum()} predictions have a score that is no number, like {_short(first)}")
    kept = np.flatnonzero(scope.is_image[image_of])
    if scope.use_categories:
        kept = kept[(class_of[kept] >= 0) & scope.is_class[class_of[kept]]]
    else:
        kept = kept[np.argsort(class_of[kept], kind="stable")]
    numbers = class_of[kept] + 1 if scope.use_categories else np.ones(len(kept), dtype=np.int64)
    values = [predictions[i][field] for i in kept.tolist()]
    areas = _AREAS[scope.kind](scope, values, image_of[kept])
    columns = (scope.rank[image_of[kept]], numbers, scores[kept], areas)
    return [
        {"id": i, "image_id": image, "category_id": number, "score": score, "area": area, "iscrowd": 0, field: value}
        for i, (image, number, score, area, value) in enumerate(
            zip(*(column.tolist() for column in columns), values, strict=True), start=1
        )
    ]


def _add_masks(scope: Scope, rows: list[dict[str, Any]], kept: np.ndarray) -> list[str]:
    """Give each row its mask; the box stands for one that is missing or fits no image of this size."""
    from faster_coco_eval import mask

    coco = scope.coco
    assert coco.masks is not None
    of_image = coco.image_of[kept]
    bare = [coco.image_ids[i] for i in dict.fromkeys(of_image.tolist()) if not (scope.sizes[i] > 0).all()]
    if bare:
        raise DataError(
            f"{coco.path}: {len(bare)} images have no 'width' and 'height', which masks need, like {bare[0]!r}"
        )
    boxed = 0
    for row, i, (height, width) in zip(rows, kept.tolist(), scope.sizes[of_image].tolist(), strict=True):
        encoded = _run_lengths(coco.masks[i], height, width)
        if encoded is None:
            encoded = mask.frPyObjects([row["bbox"]], height, width)[0]
            boxed += 1
        row["segmentation"] = encoded
        if np.isnan(coco.areas[i]):
            row["area"] = float(mask.area(encoded))
    return [f"{boxed} annotations have no mask of their image's size; the box is used"] if boxed else []


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """Return a segmentation of the JSON as compressed run lengths, or None if it is no mask of this size."""
    from faster_coco_eval import mask

    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            return None
        counts = segmentation["counts"]
        if not isinstance(counts, list):
            return segmentation
        return mask.frPyObjects(segmentation, height, width) if sum(counts) == width * height else None
    polygons = [polygon for polygon in segmentation or () if len(polygon) >= 6]
    return mask.merge(mask.frPyObjects(polygons, height, width)) if polygons else None


def _box_areas(scope: Scope, boxes: list[list[float]], of_image: np.ndarray) -> np.ndarray:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return array[:, 2] * array[:, 3]


def _mask_areas(scope: Scope, masks: list[dict[str, Any]], of_image: np.ndarray) -> np.ndarray:
    from faster_coco_eval import mask

    sizes = np.array([m["size"] for m in masks], dtype=np.int64).reshape(-1, 2)
    wrong = np.flatnonzero((sizes != scope.sizes[of_image]).any(1))
    if len(wrong):
        i = wrong[0]
        raise DataError(
            f"{len(wrong)} predicted masks are not of their image's size; the first, of image "
            f"{scope.coco.image_ids[of_image[i]]!r}, has [height, width] {sizes[i].tolist()}, not "
            f"{scope.sizes[of_image[i]].tolist()}"
        )
    return np.asarray(mask.area(masks), dtype=np.float64) if masks else np.zeros(0)


def _extents(scope: Scope, keypoints: list[list[float]], of_image: np.ndarray) -> np.ndarray:
    assert scope.coco.keypoints is not None
    k = scope.coco.keypoints.shape[1]
    wrong = [p for p in keypoints if len(p) != 3 * k]
    if wrong:
        raise DataError(
            f"{len(wrong)} predictions have keypoints of {len(wrong[0])} numbers, {scope.coco.path} has {k} points: "
            f"{3 * k} are needed"
        )
    points = np.array(keypoints, dtype=np.float64).reshape(-1, k, 3)[..., :2]
    return np.prod(points.max(1) - points.min(1), axis=-1)


_AREAS: dict[str, Callable[[Scope, list[Any], np.ndarray], np.ndarray]] = {
    "bbox": _box_areas,
    "segm": _mask_areas,
    "keypoints": _extents,
}


def _refuse(coco: CocoJson, what: str, where: str, ids: Iterator[Id]) -> None:
    """Raise if there is any id; say how many and name some."""
    unknown = list(ids)
    if unknown:
        distinct = list(dict.fromkeys(unknown))
        named = ", ".join(map(repr, distinct[:5])) + (", ..." if len(distinct) > 5 else "")
        raise DataError(f"{len(unknown)} {what} are not in {where} of {coco.path}: ids {named}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
