"""Count the tensors of a base that arrive in its grafted model, by Ultralytics alone and with yolo-attn."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments import evidence
from experiments.transfer_table import transfer_row
from yolo_attn import registry
from yolo_attn.errors import RowError

FAMILIES = "yolov8n yolo11n yolo26n yolov5n yolo12n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls rtdetr-l"


def main() -> None:
    """Write one record and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=FAMILIES.split())
    parser.add_argument("--places", nargs="+", default=["backbone", "stages", "neck", "blocks"])
    parser.add_argument("--layer", default="CBAM")
    parser.add_argument(
        "--others",
        nargs="*",
        default=[layer.name for layer in registry.TABLE],
        help="other layers, in the first family alone",
    )
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    rows = []
    tasks = [(family, place, given.layer) for family in given.families for place in given.places]
    others = [layer for layer in given.others if layer != given.layer]
    tasks += [(given.families[0], place, layer) for layer in others for place in given.places]
    for task in tasks:
        try:
            rows.append(transfer_row(*task))
        except RowError as error:  # a family without bottlenecks
            print(f"{task[0]}: {error}", flush=True)
        else:
            print(rows[-1], flush=True)
    settings = {"layer": given.layer, "base": "randomised weights and statistics"}
    print(evidence.save(evidence.record("transfer", settings, rows, "python scripts/transfer_table.py"), given.out))


if __name__ == "__main__":
    main()
