"""Measure what an inserted layer does to a trained detector, from three starts, before and during fine-tuning."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments import evidence, transfer_study
from yolo_attn.coco.data_yaml import write_description


def main() -> None:
    """Run the study and write its record; started again, it goes on where it stopped."""
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
    common = {"imgsz": given.imgsz, "batch": 16, "workers": 0, "cache": "ram", "plots": False, "verbose": False}
    recipe = {"epochs": given.epochs, "optimizer": "AdamW", "lr0": 5e-4, "warmup_epochs": 0, "close_mosaic": 0}
    settings = {"base": "yolov8n", "base epochs": given.base_epochs, "common": common, "recipe": recipe}

    def done(runs: list[dict]) -> None:
        table = transfer_study.summarise(runs, [0, 1, given.epochs])
        command = f"python scripts/transfer_study.py --data {given.data.name}"
        evidence.save(evidence.record("transfer-bccd", {**settings, "runs": runs}, table, command), given.out)

    data = str(write_description(splits))
    transfer_study.study(data, given.layers, given.places, given.seeds, settings, given.work.absolute(), done)


if __name__ == "__main__":
    main()
