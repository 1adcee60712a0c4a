"""Validate on COCO-format data: ``python scripts/val.py --weights best.pt --data my.yaml imgsz=320``."""

import json
import sys

from yolo_attn.errors import YoloAttnError
from yolo_attn.host import coco_run


def main() -> int:
    """Parse, validate, print the record."""
    try:
        print(json.dumps(coco_run.val(**coco_run.parse(None, "val")), indent=1))
    except (YoloAttnError, SyntaxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
