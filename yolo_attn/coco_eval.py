"""The official COCO numbers for boxes, computed by faster-coco-eval against the user's own JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .coco_table import CocoTable, Id, sort_key

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_MEANING = (
    "IoU 0.50:0.95", "IoU 0.50", "IoU 0.75", "small objects", "medium objects", "large objects",
    "1 box per image", "10 boxes per image", "100 boxes per image", "small objects", "medium objects", "large objects",
)  # fmt: skip


def evaluate(
    table: CocoTable,
    predictions: Iterable[dict[str, Any]],
    image_ids: Iterable[Id],
    category_ids: Sequence[Id] | None = None,
    use_categories: bool = True,
) -> dict[str, float]:
    """Return the 12 official numbers for boxes; -1 where there is nothing to measure, as COCOeval has it.

    Args:
        table: The ground truth; its crowd regions take part as COCOeval wants.
        predictions: ``image_id, category_id, bbox (x, y, w, h in pixels), score`` with the JSON's own ids.
        image_ids: Images to evaluate.
        category_ids: Categories to evaluate, all if None.
        use_categories: Whether a box must have the right category.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    # The evaluator needs positive integer ids, and matches by annotation id. Ranks keep the order of the images, on
    # which ties between equal scores depend.
    image_rank = _ranks(table.image_ids)
    category_rank = _ranks([id_ for id_, _ in table.categories])
    truth = [
        {
            "id": i + 1,
            "image_id": image_rank[table.image_ids[table.image_of[i]]],
            "category_id": int(table.category_of[i]) + 1,
            "bbox": box,
            "area": box[2] * box[3] if np.isnan(area) else area,
            "iscrowd": int(table.crowd[i]),
        }
        for i, (box, area) in enumerate(zip(table.boxes.tolist(), table.areas.tolist(), strict=True))
    ]
    found = [
        {
            "image_id": image_rank[p["image_id"]],
            "category_id": category_rank[p["category_id"]],
            "bbox": list(p["bbox"]),
            "score": p["score"],
        }
        for p in predictions
        if p["category_id"] in category_rank
    ]
    ground = COCO(
        {
            "images": [{"id": rank} for rank in image_rank.values()],
            "categories": [{"id": i + 1, "name": name} for i, (_, name) in enumerate(table.categories)],
            "annotations": truth,
        }
    )
    judge = COCOeval_faster(ground, ground.loadRes(found), iouType="bbox", print_function=_silent)
    judge.params.imgIds = sorted(image_rank[id_] for id_ in image_ids)
    judge.params.useCats = int(use_categories)
    if category_ids is not None:
        judge.params.catIds = sorted(category_rank[id_] for id_ in category_ids if id_ in category_rank)
    judge.run()
    return dict(zip(NUMBERS, map(float, judge.stats[: len(NUMBERS)]), strict=True))


def notes(table: CocoTable) -> list[str]:
    """Return what another evaluator would do differently with this ground truth, one sentence each."""
    said = []
    ids = table.annotation_ids
    repeated = len(ids) - len(set(map(repr, ids)))
    if any(type(id_) is int and id_ == 0 for id_ in ids):
        said.append("an annotation has id 0, which pycocotools takes for 'not matched'; here it counts")
    if repeated:
        said.append(f"{repeated} annotation ids are repeated or missing; pycocotools would lose boxes, here all count")
    bare = int(np.isnan(table.areas).sum())
    if bare:
        said.append(f"{bare} annotations have no 'area'; width x height of the box is used")
    return said


def render(numbers: dict[str, float]) -> str:
    """Return the 12 numbers as lines of text."""
    return "\n".join(
        f"  {name:<6} {numbers[name]:7.4f}   {meaning}" for name, meaning in zip(NUMBERS, _MEANING, strict=True)
    )


def _ranks(ids: Iterable[Id]) -> dict[Id, int]:
    return {id_: i + 1 for i, id_ in enumerate(sorted(ids, key=sort_key))}


def _silent(*_: Any) -> None:
    """Take the evaluator's log lines; the numbers are printed by whoever asked for them."""
