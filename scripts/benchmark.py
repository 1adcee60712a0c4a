"""Measure the layers: time, memory and floor, alone and against other implementations, and what a model pays."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.benchmark import benchmark
from yolo_attn import registry
from yolo_attn.errors import YoloAttnError


def main() -> int:
    """Parse, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, metavar="DIR", help="folder of Python files with other implementations")
    parser.add_argument("--layers", nargs="+", default=[layer.name for layer in registry.TABLE])
    parser.add_argument("--levels", nargs="+", choices=["P3", "P4", "P5"], default=["P3", "P4", "P5"])
    parser.add_argument("--models", nargs="+", choices=list("nsmlx"), help="scales of YOLOv8 (n; on a GPU n m)")
    parser.add_argument("--batch", nargs="+", type=int, help="images (1; on a GPU 1 8)")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16", "fp16"], help="(fp32; on a GPU all)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: where the CPU is not idle")
    parser.add_argument("--device", help="a torch device (the first GPU if there is one)")
    parser.add_argument("--whole", action="store_true", help="yolov8n with each layer against yolov8n")
    parser.add_argument("--start", action="store_true", help="start of the yolo command with yolo-attn against without")
    parser.add_argument("--no-layers", action="store_true", help="only --whole and --start")
    parser.add_argument("--minutes", type=float, default=9, help="begin no measurement later than this")
    parser.add_argument("--resume", action="store_true", help="keep the rows of a record made with the same settings")
    parser.add_argument("-o", "--out", type=Path, default=Path("results"))
    try:
        print(benchmark(**vars(parser.parse_args())))
    except YoloAttnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
