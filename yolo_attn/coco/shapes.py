"""The demo data set: circles, squares and triangles on noisy backgrounds, in COCO format, the same on every machine.

It is made in the cache folder the first time it is asked for. Pictures are drawn with integer arithmetic and saved
without loss, so their pixels do not depend on the platform.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import VARIABLE, cache_folder, make_folder
from ..errors import DataError

# Part of the folder's name: change it with the pictures.
VERSION = 1
CATEGORIES = {1: "circle", 3: "square", 7: "triangle"}
SPLITS = {"train": 240, "val": 60}
_SIZES = ((320, 240), (320, 256), (288, 320), (256, 320), (320, 320))
_NEGATIVE_EVERY = 12
_BLOCK = 4


def ensure_shapes() -> Path:
    """Return the folder of the data set, made if it is not there: ``annotations/<split>.json``, ``images/<split>``.

    Raises:
        DataError: If the cache folder cannot be written.
    """
    folder = cache_folder() / f"shapes-v{VERSION}"
    if os.path.isdir(folder):  # noqa: PTH112  (of a name that is too long pathlib raises)
        return folder
    draft = None
    try:
        draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=make_folder()))
        write_shapes(draft)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError as error:
        # Another process may have finished first: its folder is the same.
        if not os.path.isdir(folder):  # noqa: PTH112
            raise DataError(
                f"cannot write the demo data to {folder}: {error.strerror}; set {VARIABLE} to a folder you can write"
            ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def write_shapes(folder: Path, splits: dict[str, int] | None = None) -> None:
    """Write images and COCO JSON files of all splits into a folder.

    Args:
        folder: Where to write.
        splits: Number of images per split.
    """
    from PIL import Image

    for split, count in (splits or SPLITS).items():
        images = folder / "images" / split
        images.mkdir(parents=True)
        document: dict[str, Any] = {
            "info": {"description": f"yolo-attn shapes v{VERSION}, {split}"},
            "images": [],
            "annotations": [],
            "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()],
        }
        rng = np.random.Generator(np.random.PCG64(sum(split.encode())))
        for number in range(count):
            picture, objects = draw(rng, empty=number % _NEGATIVE_EVERY == _NEGATIVE_EVERY - 1)
            image: dict[str, Any] = {"id": 1000 + 7 * number, "file_name": f"{number:06d}.png"}
            image |= {"width": picture.shape[1], "height": picture.shape[0]}
            Image.fromarray(picture).save(images / image["file_name"], compress_level=3)
            document["images"].append(image)
            for category, box, area in objects:
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": image["id"],
                        "category_id": category,
                        "bbox": box,
                        "area": area,
                        "iscrowd": 0,
                    }
                )
        path = folder / "annotations" / f"{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document), encoding="utf-8")


def draw(rng: np.random.Generator, empty: bool = False) -> tuple[np.ndarray, list[tuple[int, list[int], int]]]:
    """Return one picture ``(H, W, 3)`` and its objects: category id, ``[x, y, w, h]`` and area in pixels.

    Args:
        rng: Source of all choices.
        empty: Whether to draw no object.
    """
    w, h = _SIZES[rng.integers(len(_SIZES))]
    base = rng.integers(60, 190, size=3)
    noise = rng.integers(-25, 26, size=(h // _BLOCK, w // _BLOCK, 3)) + base
    picture = np.repeat(np.repeat(noise, _BLOCK, 0), _BLOCK, 1).astype(np.uint8)
    objects: list[tuple[int, list[int], int]] = []
    taken = np.zeros((h, w), dtype=bool)
    for _ in range(0 if empty else int(rng.integers(1, 6))):
        category = list(CATEGORIES)[rng.integers(len(CATEGORIES))]
        small = rng.integers(4) == 0
        side = int(rng.integers(14, 32) if small else rng.integers(48, 121))
        x, y = int(rng.integers(0, w - side + 1)), int(rng.integers(0, h - side + 1))
        flip = bool(rng.integers(2))
        colour = _contrast(rng, base)
        if taken[y : y + side, x : x + side].any():
            continue
        taken[y : y + side, x : x + side] = True
        mask = _mask(category, side, flip)
        picture[y : y + side, x : x + side][mask] = colour
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [x + int(columns[0]), y + int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
        objects.append((category, box, int(mask.sum())))
    return picture, objects


def _contrast(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """Return a colour that is far from the background in every channel."""
    away = rng.integers(70, 111, size=3)
    return np.where(base < 125, base + away, base - away).clip(0, 255).astype(np.uint8)


def _mask(category: int, side: int, flip: bool) -> np.ndarray:
    """Return the pixels of a shape in its square, computed on pixel centres at twice the resolution."""
    y, x = np.mgrid[0:side, 0:side] * 2 + 1
    if CATEGORIES[category] == "circle":
        return (x - side) ** 2 + (y - side) ** 2 <= side**2
    if CATEGORIES[category] == "square":
        return np.ones((side, side), dtype=bool)
    rise = 2 * side - y if flip else y
    return np.abs(x - side) * 2 <= rise
