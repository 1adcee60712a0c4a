"""pycocotools as the judge of our numbers, and predictions for it to judge."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn.coco.coco_json import read_coco_json
from yolo_attn.coco.evaluation import MEASURES, Evaluation, evaluate

DATA = Path(os.environ.get("YOLO_ATTN_DATA", Path(__file__).parents[3] / "shared" / "data"))

# Both judges run the same arithmetic on the same numbers; only the order of sums may differ.
EXACT = 1e-6
FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


class Judge:
    """pycocotools on a JSON and predictions in COCO's own format."""

    def __init__(self, path: Path, predictions: list[dict], kind: str = "bbox"):
        from pycocotools.coco import COCO

        self.kind = kind
        rows = [{k: p[k] for k in ("image_id", "category_id", "score", FIELDS[kind])} for p in predictions]
        with contextlib.redirect_stdout(io.StringIO()):
            self.truth = COCO(str(path))
            self.found = self.truth.loadRes(rows)

    def run(self, **parameters: Any) -> np.ndarray:
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            judge = COCOeval(self.truth, self.found, self.kind)
            vars(judge.params).update(parameters)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return judge.stats


def check(path: Path, predictions: list[dict], kind: str = "bbox", **parameters: Any) -> Evaluation:
    """Evaluate all images of a JSON and compare every number, and every number of every class, with pycocotools."""
    table = read_coco_json(path)
    ours = evaluate(table, predictions, table.image_ids, kind=kind)
    judge = Judge(path, predictions, kind)
    assert list(ours.numbers) == [measure.name for measure in MEASURES[kind]]
    np.testing.assert_allclose(list(ours.numbers.values()), judge.run(**parameters), atol=EXACT)
    assert [(row["id"], row["name"]) for row in ours.per_class] == list(table.categories)
    place = {name: i for i, name in enumerate(ours.numbers)}
    for row in ours.per_class:
        alone = judge.run(catIds=[row["id"]], **parameters)
        for name in set(row) - {"id", "name", "images", "instances"}:
            assert row[name] == pytest.approx(alone[place[name]], abs=EXACT), (row["name"], name)
    return ours


def polygon(box: Sequence[float], rng: np.random.Generator, points: int = 12) -> list[float]:
    """Return an uneven outline within a box, as flat x, y."""
    x, y, w, h = box
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = rng.uniform(0.6, 1, points) / 2
    outline = np.stack([x + w / 2 + radius * w * np.cos(angle), y + h / 2 + radius * h * np.sin(angle)], axis=1)
    return outline.round(2).ravel().tolist()


def disturbed(document: dict, noise: float, kind: str, seed: int = 0) -> list[dict]:
    """Return up to three predictions for each annotation, some of another class, with coarse scores that tie."""
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    size = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    categories = [category["id"] for category in document["categories"]]
    made = []
    for note in document["annotations"]:
        for _ in range(rng.integers(0, 4)):
            row = {"image_id": note["image_id"], "category_id": note["category_id"]}
            if rng.uniform() < 0.15:
                row["category_id"] = categories[rng.integers(len(categories))]
            x, y, w, h = note["bbox"]
            box = [x + rng.normal(0, noise) * w, y + rng.normal(0, noise) * h, w, h] * np.exp(rng.normal(0, noise, 4))
            row["bbox"] = box.round(3).tolist()
            if kind == "segm":
                h, w = size[note["image_id"]]
                shapes = note["segmentation"]
                if isinstance(shapes, dict):
                    shapes = [polygon(box, rng)]
                shapes = [
                    (np.array(s).reshape(-1, 2) + rng.normal(0, noise * 0.2, 2) * box[2:]).ravel() for s in shapes
                ]
                encoded = mask.merge(mask.frPyObjects([s.tolist() for s in shapes], h, w))
                row["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
            if kind == "keypoints":
                points = np.array(note["keypoints"], dtype=float).reshape(-1, 3)
                points[:, :2] += rng.normal(0, noise, (len(points), 2)) * np.sqrt(w * h)
                points[:, 2] = rng.uniform(size=len(points))
                row["keypoints"] = points.round(3).ravel().tolist()
            made.append({**row, "score": round(float(rng.uniform(0.05, 1)), 2)})
    return made


def scattered(rng: np.random.Generator, count: int, images: Sequence[Any], most: float = 220) -> list[tuple]:
    boxes = np.round(rng.uniform((0, 0, 4, 4), (most, most, most, most), (count, 4)), 2)
    return [(images[i % len(images)], (1, 3)[i % 2], box.tolist()) for i, box in enumerate(boxes)]


def guesses(annotations: list[tuple], rng: np.random.Generator, score: float | None = None) -> list[dict]:
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": (np.array(box) + rng.normal(0, 6, 4)).clip(0).round(3).tolist(),
            "score": round(float(rng.uniform()), 1) if score is None else score,
        }
        for image, category, box, *_ in annotations
        for _ in range(3)
    ]


def encoded(box: Sequence[float], height: int, width: int) -> dict[str, Any]:
    from pycocotools import mask

    made = mask.frPyObjects(np.array([box], dtype=float), height, width)[0]
    return {"size": made["size"], "counts": made["counts"].decode()}
