"""``yolo-attn demo``: an ordinary training on the demo set, short enough to watch, and a picture of what it learned."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...coco.shapes import ensure_shapes
from ...errors import DataError
from . import train_val

DATA = "shapes.yaml"
# Small pictures, small batches, each a step of the optimiser, and no mosaics: quick to learn on a CPU.
SETTINGS = {
    "model": "yolov8n-cbam.yaml", "data": DATA, "epochs": "30", "imgsz": "128", "batch": "8", "nbs": "8",
    "mosaic": "0", "optimizer": "AdamW", "lr0": "0.0015", "warmup_epochs": "1", "amp": "False", "plots": "False",
    "name": "demo",
}  # fmt: skip
PICTURE = "predictions.jpg"
_COLUMNS, _ROWS, _TILE, _GAP = 4, 3, 320, 8


def run(overrides: Sequence[str] = (), say: Callable[[str], None] = print) -> Path:
    """Train on the demo set with Ultralytics, draw predictions and say how good they are.

    Args:
        overrides: ``key=value`` words that replace or extend the demo's settings.
        say: Receives each line of the demo's own.

    Returns:
        The picture of predictions, in the folder of the run.

    Raises:
        DataError: If a word cannot be used, or names other data.
    """
    wrong = [word for word in overrides if "=" not in word]
    if wrong:
        raise DataError(f"{wrong[0]!r} is not key=value")
    given = dict(word.partition("=")[::2] for word in overrides)
    if given.get("data", DATA) != DATA:
        raise DataError(f"yolo-attn demo trains on {DATA}; for other data: yolo train data={given['data']}")
    words = [f"{key}={value}" for key, value in {**SETTINGS, **given}.items()]
    arguments = train_val.parse(words, "train")
    say(f"yolo-attn demo is this command:\n  yolo train {' '.join(words)}\n")
    record = train_val.train(**arguments)
    folder, weights = Path(record["save_dir"]), _from_here(record["weights"])
    picture = draw_predictions(weights, validation_images(), folder / PICTURE, arguments["imgsz"])
    numbers = (record.get("coco") or {}).get("bbox")
    if numbers is None:
        raise DataError(f"{' '.join(overrides)}: this run was not validated, so there is no score to show")
    count = len(validation_images())
    say(f"\nmAP50 {numbers['AP50']:.2f}, mAP50-95 {numbers['AP']:.2f} on {count} images it was not trained on.")
    say(f"Open the picture:   {_from_here(picture)}")
    say(f"Use the checkpoint: yolo predict model={weights} source=image.jpg")
    say(f"Train on your data: yolo train model={arguments['model']} data=your.yaml pretrained=yolov8n.pt")
    return picture


def validation_images() -> list[Path]:
    """Return the images of the demo set that no training sees."""
    return sorted((ensure_shapes() / "images/val").glob("*.png"))


def draw_predictions(weights: str | Path, images: Sequence[Path], path: Path, imgsz: int) -> Path:
    """Draw a checkpoint's predictions on the first images into one picture and return its path.

    Args:
        weights: The checkpoint.
        images: Images to predict; as many as fit are drawn, in their order.
        path: Picture to write.
        imgsz: Size in pixels at which the model sees an image.
    """
    from PIL import Image
    from ultralytics import YOLO

    found: Any = YOLO(str(weights)).predict(
        [str(image) for image in images[: _COLUMNS * _ROWS]], imgsz=imgsz, conf=0.4, verbose=False, save=False
    )
    step = _TILE + _GAP
    sheet = np.full((_ROWS * step - _GAP, _COLUMNS * step - _GAP, 3), 255, np.uint8)
    for number, result in enumerate(found):
        drawn = result.plot(line_width=2)[:_TILE, :_TILE, ::-1]
        y, x = number // _COLUMNS * step, number % _COLUMNS * step
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
    Image.fromarray(sheet).save(path, quality=80)
    return path


def _from_here(path: str | Path) -> Path:
    """Return a path as one would type it in the working directory."""
    relative = Path(os.path.relpath(path))
    return Path(path) if relative.parts[:1] == ("..",) else relative
