"""COCO-format data in the host: data YAMLs, datasets and validators."""
