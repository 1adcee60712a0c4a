"""The contract of a layer: what it must do to work in every YOLO, and ``yolo-attn check layers.py:MyAttention``."""
