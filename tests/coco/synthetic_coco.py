"""A made-up COCO JSON of any size, with the keys and the texture of the real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

CATEGORIES = 80
SIZE = (640, 480)
_SHAPES = 4000  # distinct objects; each is used many times
_IMAGE = (
    '{{"license": {0}, "file_name": "{1:012d}.jpg", "coco_url": "http://images.cocodataset.org/train/{1:012d}.jpg", '
    '"height": 480, "width": 640, "date_captured": "2013-11-14 17:02:52", '
    '"flickr_url": "http://farm4.staticflickr.com/3153/{1}_32c00f8f34_z.jpg", "id": {1}}}'
)


def file_names(images: int) -> list[str]:
    """Return the file names that the JSON lists."""
    return [f"{id_:012d}.jpg" for id_ in _ids(images)]


def write_synthetic(path: Path, images: int, seed: int = 0, per_image: float = 7.3, points: float = 25.0) -> int:
    """Write the file and return the number of annotations.

    One annotation in ninety is a crowd region with run lengths, one in ten has two polygons; the annotations are in no
    order of images.
    """
    rng = np.random.default_rng(seed)
    ids = _ids(images)
    owners = np.repeat(np.arange(images), rng.poisson(per_image, images))
    rng.shuffle(owners)
    shapes = [_shape(rng, points, number) for number in range(_SHAPES)]
    picked = rng.integers(0, _SHAPES, len(owners))
    classes = rng.integers(1, CATEGORIES + 1, len(owners))
    rows = zip(picked.tolist(), owners.tolist(), classes.tolist(), strict=True)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        file.write(", ".join(_IMAGE.format(i % 8, id_) for i, id_ in enumerate(ids)))
        file.write('], "annotations": [')
        for number, (shape, owner, category) in enumerate(rows):
            comma = ", " if number else ""
            file.write(
                f'{comma}{{{shapes[shape]}, "image_id": {ids[owner]}, "category_id": {category}, '
                f'"id": {900_000_000 + number}}}'
            )
        categories = [{"supercategory": "s", "id": i + 1, "name": f"class {i}"} for i in range(CATEGORIES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return len(owners)


def _ids(images: int) -> list[int]:
    return [9 + 5 * i for i in range(images)]


def _shape(rng: np.random.Generator, points: float, number: int) -> str:
    """Return segmentation, area, crowd flag and box of an object as JSON text."""
    x, y, w, h = rng.uniform((0, 0, 20, 20), (400, 300, 240, 180)).round(2).tolist()
    is_crowd = number % 90 == 0
    if is_crowd:
        runs = rng.integers(1, 3000, 160).tolist()
        runs.append(SIZE[0] * SIZE[1] - sum(runs))
        mask = json.dumps({"counts": runs, "size": SIZE[::-1]})
    else:
        polygons = []
        for _ in range(1 + (number % 10 == 0)):
            angle = np.sort(rng.uniform(0, 2 * np.pi, max(3, int(rng.gamma(1.6, points / 1.6)))))
            outline = np.stack([x + w * (0.5 + 0.5 * np.cos(angle)), y + h * (0.5 + 0.5 * np.sin(angle))], axis=1)
            polygons.append(outline.ravel().round(2).tolist())
        mask = json.dumps(polygons)
    area, crowd = round(w * h * 0.6, 4), int(is_crowd)
    return f'"segmentation": {mask}, "area": {area}, "iscrowd": {crowd}, "bbox": {json.dumps([x, y, w, h])}'
