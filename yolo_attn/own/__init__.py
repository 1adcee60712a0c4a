"""The package whose modules are the files that ``YOLO_ATTN_LAYERS`` names, under names that checkpoints can hold."""

import sys

from ..plugins import Finder

sys.meta_path.insert(0, Finder)
