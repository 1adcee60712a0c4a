"""Validate on COCO-format data: ``python scripts/val.py --weights best.pt --data my.yaml imgsz=320``."""

import sys

from yolo_attn.host import coco_run

if __name__ == "__main__":
    sys.exit(coco_run.main("val"))
