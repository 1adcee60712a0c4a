"""``python -m yolo_attn`` is ``yolo-attn``."""

from .cli import main

raise SystemExit(main())
