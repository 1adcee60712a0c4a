"""Models for the export matrix: random, but with signals of usual size everywhere, so that no layer can hide a fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import yolo_attn
from yolo_attn import registry
from yolo_attn.layers.gated import GAIN

MODELS = ("yolov8n", *(f"yolov8n-{layer.slug}{place}" for layer in registry.TABLE for place in ("", "-neck")))
EFFECT = 0.02  # of the largest entry: what a model's output has to change when our layers are taken out


def build_all(names: Sequence[str], folder: Path, files: Sequence[str], size: Sequence[int]) -> dict[str, Path]:
    """Return the checkpoints of named models; those that are not there are built."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: folder / f"{name}.pt" for name in names}
    missing = [name for name, path in found.items() if not path.exists()]
    batch = _read(files, size) if missing else torch.empty(0)
    for name in missing:
        build(name, folder, batch)
    return found


def _read(files: Sequence[str], size: Sequence[int]) -> Tensor:
    """Return image files as a batch, each squeezed to the size, and its middle."""
    pictures = []
    for file in files:
        whole = Image.open(file).convert("RGB")
        w, h = whole.size
        for picture in (whole, whole.crop((w // 4, h // 4, 3 * w // 4, 3 * h // 4))):
            pixels = np.array(picture.resize((size[1], size[0])))
            pictures.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    return torch.stack(pictures)


def build(name: str, folder: Path, images: Tensor) -> Path:
    """Write a checkpoint of a named model with open gates, and statistics and scores fitted to images.

    Args:
        name: Model without ``.yaml``.
        folder: Where the file goes.
        images: A batch in [0, 1], not all alike.

    Raises:
        AssertionError: If the attention layers hardly matter in the output: a fault of theirs would not be seen.
    """
    yolo_attn.install()
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(f"{name}.yaml")
    for parameter_name, parameter in model.model.named_parameters():
        if parameter_name.endswith(".gate"):
            parameter.data.fill_(0.8 / GAIN)
        elif parameter_name.endswith("gamma"):
            parameter.data.fill_(0.8)
    _fit_statistics(model.model, images)
    head = model.model.model[-1]
    for branch, spread in ((head.cv2, 1.0), (head.cv3, 2.0)):
        for scale in branch:
            _fit_spread(model.model, scale[-1], images, spread)
    effect = _effect(model.model, images)
    assert name == "yolov8n" or effect > EFFECT, f"{name}: taken out, its layers change outputs by {effect:g} only"
    path = folder / f"{name}.pt"
    model.save(path)
    return path


def _fit_statistics(model: nn.Module, images: Tensor) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    model.eval()


def _fit_spread(model: nn.Module, conv: nn.Conv2d, images: Tensor, spread: float) -> None:
    """Scale a convolution so that its outputs have this standard deviation around zero."""
    seen: list[Tensor] = []
    hook = conv.register_forward_hook(lambda _, __, y: seen.append(y))
    with torch.no_grad():
        model(images)
        hook.remove()
        scale = spread / seen[0].std()
        conv.weight *= scale
        conv.bias *= 0


def _effect(model: Any, images: Tensor) -> float:
    """Return how far the outputs move, relative to the largest, when the attention layers let everything through."""
    from yolo_attn.host.model.ours import is_attention

    with torch.no_grad():
        y = model(images)[0]
        hooks = [
            row.register_forward_hook(lambda _, given, __: given[0]) for row in model.model if is_attention(row)
        ]
        bare = model(images)[0]
        for hook in hooks:
            hook.remove()
    return ((y - bare)[:, 4:].abs().max() / y[:, 4:].abs().max()).item()
