"""Measure how a layer inserted into a trained detector should start: fine-tunings from several starts."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments import evidence, start_study, transfer_study
from yolo_attn.coco.data_yaml import write_description


def main() -> None:
    """Run the study and write its record; started again, or several times at once, it goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with annotations/instances_{train,val}.json")
    parser.add_argument("--base", type=Path, help="checkpoint of yolov8n that was trained on the data (default: train)")
    parser.add_argument("--layers", nargs="+", default=["SE", "CBAM", "CoordAtt", "BiFormer"])
    parser.add_argument("--places", nargs="+", default=["neck", "backbone"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--base-epochs", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("runs/start-study"))
    parser.add_argument("--report", action="store_true", help="only write the record of what is done")
    given = parser.parse_args()
    splits = {s: (given.data / f"annotations/instances_{s}.json", given.data / f"images/{s}") for s in ("train", "val")}
    data, work = str(write_description(splits)), given.work.absolute()
    common = {"imgsz": given.imgsz, "workers": 0, "cache": "ram", "plots": False, "verbose": False}
    base_recipe = {"batch": 16, "nbs": 16, "epochs": given.base_epochs}
    recipe = {
        "batch": 6,
        "nbs": 6,
        "epochs": given.epochs,
        "optimizer": "AdamW",
        "lr0": 2e-4,
        "warmup_epochs": 2,
        "warmup_bias_lr": 0.0,
        "close_mosaic": 2,
    }
    base = given.base or work / "base" / "weights" / "best.pt"
    if not base.is_file() and not given.report:
        transfer_study.train_base(data, work, seed=0, **common, **base_recipe)
    runs = start_study.plan(given.layers, given.places, given.seeds)
    if not given.report:
        start_study.study(data, base, runs, {**common, **recipe}, work)
    settings = {"base": "yolov8n", "base recipe": base_recipe, "common": common, "recipe": recipe}
    rows = start_study.read(work)
    task = f"start-{given.data.name}"
    command = f"python scripts/start_study.py --data {given.data.name}"
    evidence.save(evidence.record(task, {**settings, "runs": rows}, start_study.summarise(rows), command), given.out)


if __name__ == "__main__":
    main()
