"""Compare training on a COCO JSON with stock Ultralytics on the same data as YOLO labels: speed, memory and mAPs."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from experiments import evidence, speed_study
from yolo_attn.coco.data_yaml import write_description

MODELS = ["yolov8n.yaml", "yolov8n-cbam.yaml", "yolov8n-coordatt.yaml", "yolov8n-biformer.yaml"]


def main() -> None:
    """Run the study, print its rows and write its record after each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with annotations/instances_{train,val}.json")
    parser.add_argument("--models", nargs="+", default=MODELS, help="the first is compared with stock Ultralytics")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training images")
    parser.add_argument("--task", default="speed-bccd", help="name of the record")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    splits = {s: (given.data / f"annotations/instances_{s}.json", given.data / f"images/{s}") for s in ("train", "val")}
    names = ("epochs", "imgsz", "batch", "workers", "fraction")
    settings = {name: getattr(given, name) for name in names}
    settings |= {"amp": True, "plots": False, "pretrained": False, "val": False}

    def done(runs: list[dict]) -> None:
        rows = speed_study.summarise(runs)
        for row in rows:
            print(row, flush=True)
        options = [f"--{name} {getattr(given, name)}" for name in ("rounds", *names, "task")]
        models = f"--models {' '.join(given.models)}"
        command = " ".join(["python scripts/speed_study.py", f"--data {given.data.name}", models, *options])
        evidence.save(evidence.record(given.task, {**settings, "runs": runs}, rows, command), given.out)

    with tempfile.TemporaryDirectory() as work:
        data = str(write_description(splits))
        stock = str(speed_study.write_yolo_labels(data, Path(work) / "labels"))
        speed_study.study(given.models, data, stock, given.rounds, settings, Path(work) / "runs", done)


if __name__ == "__main__":
    main()
