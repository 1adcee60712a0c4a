"""Models for the export matrix: one trained YOLOv8n, with each layer in each place, all gates open.

A trained base keeps rounding small; a random network multiplies it from row to row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import yolo_attn
from yolo_attn import registry
from yolo_attn.layers.gated import GAIN

# What a model's name ends in, by the place of its layers.
PLACES = {"backbone": "", "neck": "-neck", "blocks": "-blocks"}
MODELS = ("yolov8n", *(f"yolov8n-{layer.slug}{end}" for layer in registry.TABLE for end in PLACES.values()))
GATE, GAMMA = 0.5, 3.0  # of ours and of CrissCross, whose values are small at the start
EFFECT = 0.02  # of the largest score: what the scores have to change when the layers are taken out


def build_all(names: Sequence[str], folder: Path, base: Path, images: Tensor) -> dict[str, Path]:
    """Return the checkpoints of named models; those that are not there are built.

    Args:
        names: Of ``MODELS``.
        folder: Where the files go.
        base: Trained checkpoint of yolov8n.
        images: A batch in [0, 1], on which the layers have to matter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: folder.resolve() / f"{name}.pt" for name in names}
    for name, path in found.items():
        if not path.exists():
            _build(name, base, images).save(path)
    return found


def _build(name: str, base: Path, images: Tensor) -> Any:
    yolo_attn.install()
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    owner: Any = YOLO(f"{name}.yaml")
    trained: Any = YOLO(str(base)).model
    trained.float()
    model = DetectionModel({**owner.model.yaml, "nc": len(trained.names)}, verbose=False)
    model.load(trained, verbose=False)
    model.names, model.args, owner.model = trained.names, owner.model.args, model
    closed = [p for p in model.parameters() if p.dim() > 1 and not p.any()]  # layers that start as the identity
    for times in (1, 4, 16, 64):  # a layer that changes little needs a wider gate to be seen
        _open_gates(model, times)
        for parameter in closed:
            nn.init.normal_(parameter, std=0.1 * times)
        effect = _effect(model.eval(), images)
        if effect > EFFECT:
            break
    if "-" in name and not effect > EFFECT:
        raise ValueError(f"{name}: taken out, its layers change scores by {effect:g} only; a fault would hide")
    return owner


def _open_gates(model: nn.Module, times: int = 1) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            parameter.data.fill_(times * GATE / GAIN)
        elif name.endswith("gamma"):
            parameter.data.fill_(GAMMA)


def _effect(model: Any, images: Tensor) -> float:
    """Return how far scores move, relative to the largest, when the attention layers let everything through."""
    from yolo_attn.host.model.blocks import find_attention
    from yolo_attn.host.model.ours import is_attention

    with torch.no_grad():
        y = model(images)[0][:, 4:]
        layers = [row for row in model.model if is_attention(row)]
        layers += [layer for row in model.model for layer in find_attention(row).values()]
        hooks = [layer.register_forward_hook(lambda _, given, __: given[0]) for layer in layers]
        bare = model(images)[0][:, 4:]
        for hook in hooks:
            hook.remove()
    return ((y - bare).abs().max() / y.abs().max()).item()
