"""COCO-format data without Ultralytics: read, check, cache and judge them."""
