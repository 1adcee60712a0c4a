"""Count the tensors of a base that arrive in its grafted model, by Ultralytics alone and with yolo-attn."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments import evidence
from experiments.transfer_table import transfer_row

FAMILIES = "yolov8n yolo11n yolo26n yolov5n yolo12n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls rtdetr-l"


def main() -> None:
    """Write one record and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=FAMILIES.split())
    parser.add_argument("--places", nargs="+", default=["backbone", "stages", "neck"])
    parser.add_argument("--layer", default="CBAM")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    rows = []
    for family in given.families:
        for place in given.places:
            rows.append(transfer_row(family, place, given.layer))
            print(rows[-1], flush=True)
    settings = {"layer": given.layer, "base": "randomised weights and statistics"}
    print(evidence.save(evidence.record("transfer", settings, rows, "python scripts/transfer_table.py"), given.out))


if __name__ == "__main__":
    main()
