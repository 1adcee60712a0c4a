"""A made-up COCO JSON of any size, written row by row, with the keys and the texture of the real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

CATEGORIES = 80
_IMAGE = (
    '{{"license": {0}, "file_name": "{1:012d}.jpg", "coco_url": "http://images.cocodataset.org/train/{1:012d}.jpg", '
    '"height": 480, "width": 640, "date_captured": "2013-11-14 17:02:52", '
    '"flickr_url": "http://farm4.staticflickr.com/3153/{1}_32c00f8f34_z.jpg", "id": {1}}}'
)
_ANNOTATION = (
    '{{"segmentation": {0}, "area": {1:.4f}, "iscrowd": {2}, "image_id": {3}, "bbox": [{4}, {5}, {6}, {7}], '
    '"category_id": {8}, "id": {9}}}'
)


def write_synthetic(path: Path, images: int, seed: int = 0, per_image: float = 7.3, points: float = 25.0) -> int:
    """Write the file and return the number of annotations.

    One annotation in ninety is a crowd region with run lengths, one in ten has two polygons; the annotations are in no
    order of images.
    """
    rng = np.random.default_rng(seed)
    ids = np.arange(images) * 5 + 9
    owners = np.repeat(np.arange(images), rng.poisson(per_image, images))
    rng.shuffle(owners)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        file.write(", ".join(_IMAGE.format(i % 8, id_) for i, id_ in enumerate(ids.tolist())))
        file.write('], "annotations": [')
        for start in range(0, len(owners), 10_000):
            rows = [
                _annotation(rng, int(ids[i]), points, start + n) for n, i in enumerate(owners[start : start + 10_000])
            ]
            file.write((", " if start else "") + ", ".join(rows))
        categories = [{"supercategory": "s", "id": i + 1, "name": f"class {i}"} for i in range(CATEGORIES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return len(owners)


def _annotation(rng: np.random.Generator, image_id: int, points: float, number: int) -> str:
    x, y, w, h = rng.uniform((0, 0, 20, 20), (400, 300, 240, 180)).round(2).tolist()
    crowd = number % 90 == 0
    if crowd:
        runs = rng.integers(1, 3000, 160).tolist()
        runs.append(640 * 480 - sum(runs))
        mask = json.dumps({"counts": runs, "size": [480, 640]})
    else:
        polygons = []
        for _ in range(1 + (number % 10 == 0)):
            angle = np.sort(rng.uniform(0, 2 * np.pi, max(3, int(rng.gamma(1.6, points / 1.6)))))
            outline = np.stack([x + w * (0.5 + 0.5 * np.cos(angle)), y + h * (0.5 + 0.5 * np.sin(angle))], axis=1)
            polygons.append(outline.ravel().round(2).tolist())
        mask = json.dumps(polygons)
    category = int(rng.integers(1, CATEGORIES + 1))
    return _ANNOTATION.format(mask, w * h * 0.6, int(crowd), image_id, x, y, w, h, category, 900_000_000 + number)
