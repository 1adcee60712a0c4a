"""Train on COCO-format data: ``python scripts/train.py --model yolov8n-coordatt.yaml --data my.yaml epochs=3``."""

import json
import sys

from yolo_attn.errors import YoloAttnError
from yolo_attn.host import coco_run


def main() -> int:
    """Parse, train, print the record."""
    try:
        print(json.dumps(coco_run.train(**coco_run.parse(None, "train")), indent=1))
    except (YoloAttnError, SyntaxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
