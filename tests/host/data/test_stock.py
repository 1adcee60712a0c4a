"""Training on a COCO JSON is training on the same data converted to YOLO labels: same order, augmentation, losses."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

DATA = Path(os.environ.get("YOLO_ATTN_DATA", Path(__file__).parents[4] / "shared" / "data"))
NUMBERS = ("train/box_loss", "train/cls_loss", "train/dfl_loss", "val/box_loss", "val/cls_loss", "val/dfl_loss")
SETTINGS = "epochs=2, imgsz=96, batch=16, workers=0, plots=False, seed=3, pretrained=False"


def convert(source: Path, split: str, target: Path) -> None:
    """Copy the images of a split and write a label file beside each, as the host reads it."""
    document = json.loads((source / f"annotations/instances_{split}.json").read_text())
    class_of = {c["id"]: i for i, c in enumerate(sorted(document["categories"], key=lambda c: c["id"]))}
    lines: dict[int, list[str]] = {image["id"]: [] for image in document["images"]}
    size = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    for note in document["annotations"]:
        x, y, w, h = note["bbox"]
        width, height = size[note["image_id"]]
        limit = np.array([width, height])
        low, high = np.clip([x, y], 0, limit), np.clip([x + w, y + h], 0, limit)
        row = [class_of[note["category_id"]], *((low + high) / 2 / limit).tolist(), *((high - low) / limit).tolist()]
        lines[note["image_id"]].append(" ".join(map(repr, row)))
    for folder in ("images", "labels"):
        (target / folder / split).mkdir(parents=True)
    for image in document["images"]:
        name = Path(image["file_name"])
        shutil.copy(source / "images" / split / name, target / "images" / split)
        (target / "labels" / split / f"{name.stem}.txt").write_text("\n".join(lines[image["id"]]))


def losses(folder: Path) -> np.ndarray:
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    return np.array([[float(row[name]) for name in NUMBERS] for row in rows])


@pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason=f"needs the blood cell data in {DATA}")
def test_losses_are_those_of_stock_ultralytics_on_converted_labels(run, tmp_path: Path) -> None:
    source = DATA / "bccd"
    for split in ("train", "val"):
        convert(source, split, tmp_path / "yolo")
    names = {
        c["id"]: c["name"] for c in json.loads((source / "annotations/instances_val.json").read_text())["categories"]
    }
    stock = {"path": str(tmp_path / "yolo"), "train": "images/train", "val": "images/val"}
    stock["names"] = dict(enumerate(names[id_] for id_ in sorted(names)))
    ours = {split: str(source / f"annotations/instances_{split}.json") for split in ("train", "val")}
    for name, content in {"stock": stock, "ours": ours}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        leave = "import yolo_attn; yolo_attn.uninstall()\n" if name == "stock" else ""
        arguments = f"data='{name}.yaml', {SETTINGS}, project={str(tmp_path / 'runs')!r}, name='{name}'"
        run("python", "-c", f"{leave}from ultralytics import YOLO\nYOLO('yolov8n.yaml').train({arguments})")
    theirs, mine = losses(tmp_path / "runs/stock"), losses(tmp_path / "runs/ours")
    assert theirs.shape == (2, 6) and (theirs > 0).all()
    # The host writes five digits.
    np.testing.assert_allclose(mine, theirs, rtol=2e-5)
