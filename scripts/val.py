"""Validate on COCO-format data: ``python scripts/val.py --weights best.pt --data my.yaml imgsz=320``."""

import sys

from yolo_attn.host.run.train_val import main

if __name__ == "__main__":
    sys.exit(main("val"))
