"""``yolo-attn look``: what the attention layers of a checkpoint do on one image."""
