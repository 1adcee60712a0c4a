"""A data set of a few images with YOLO's text labels, and studies small enough to train in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yolo_attn.coco.shapes import write_shapes

SPLITS = {"train": 12, "val": 4}
TRAINING: dict[str, Any] = {"imgsz": 32, "batch": 4, "plots": False, "workers": 0}


def write_data(folder: Path) -> Path:
    """Write shapes with text labels below a folder and return the data YAML; the COCO JSON lies beside."""
    write_shapes(folder, SPLITS)
    for split in SPLITS:
        truth = json.loads((folder / f"annotations/{split}.json").read_text(encoding="utf-8"))
        classes = {category["id"]: number for number, category in enumerate(truth["categories"])}
        lines: dict[int, list[str]] = {image["id"]: [] for image in truth["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
        for one in truth["annotations"]:
            (x, y, w, h), (width, height) = one["bbox"], sizes[one["image_id"]]
            box = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            lines[one["image_id"]].append(" ".join(map(str, [classes[one["category_id"]], *box])))
        (folder / "labels" / split).mkdir(parents=True)
        for image in truth["images"]:
            label = folder / "labels" / split / f"{Path(image['file_name']).stem}.txt"
            label.write_text("\n".join(lines[image["id"]]), encoding="utf-8")
    names = [category["name"] for category in truth["categories"]]
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {names}\n", encoding="utf-8")
    return file
