"""Train on COCO-format data: ``python scripts/train.py --model yolov8n-coordatt.yaml --data my.yaml epochs=3``."""

import sys

from yolo_attn.host.run.train_val import main

if __name__ == "__main__":
    sys.exit(main("train"))
