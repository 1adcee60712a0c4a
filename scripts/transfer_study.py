"""Measure what an inserted layer does to a trained detector, from three starts, before and during fine-tuning."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from yolo_attn import evidence
from yolo_attn.data_yaml import write_description
from yolo_attn.host import study


def main() -> None:
    """Train a base, fine-tune every variant, write one record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with annotations/instances_{train,val}.json")
    parser.add_argument("--layers", nargs="+", default=["SE", "CBAM", "CoordAtt", "BiFormer"])
    parser.add_argument("--places", nargs="+", default=["backbone", "neck"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--base-epochs", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("runs/transfer-study"))
    given = parser.parse_args()
    splits = {s: (given.data / f"annotations/instances_{s}.json", given.data / f"images/{s}") for s in ("train", "val")}
    data = str(write_description(splits))
    common = {"imgsz": given.imgsz, "batch": 16, "workers": 0, "cache": "ram", "plots": False, "verbose": False}
    recipe = {
        **common,
        "epochs": given.epochs,
        "optimizer": "AdamW",
        "lr0": 5e-4,
        "warmup_epochs": 0,
        "close_mosaic": 0,
    }
    base = given.work / "base" / "weights" / "best.pt"
    if not base.is_file():
        study.train_base(data, given.work.absolute(), given.base_epochs, seed=0, **common)
    rows: list[dict] = []

    def keep(row: dict) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        settings = {"base": "yolov8n", "base epochs": given.base_epochs, "data": given.data.name, **recipe}
        table = study.summarise(rows, [0, 1, given.epochs])
        command = f"python scripts/transfer_study.py --data {given.data.name}"
        content = evidence.record(f"transfer-{given.data.name}", {**settings, "runs": rows}, table, command)
        evidence.save(content, given.out)

    study.study(base, data, given.layers, given.places, given.seeds, recipe, keep)


if __name__ == "__main__":
    main()
