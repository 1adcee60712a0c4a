"""Train on COCO-format data: ``python scripts/train.py --model yolov8n-coordatt.yaml --data my.yaml epochs=3``."""

import sys

from yolo_attn.host import coco_run

if __name__ == "__main__":
    sys.exit(coco_run.main("train"))
