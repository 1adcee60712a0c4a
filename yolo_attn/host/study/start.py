"""The shared start of a seed: the plain model's weights, and the check that a variant has every one of them."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...cache import replacing
from ...errors import StudyError
from ..install import install
from ..model.align import align
from ..model.ours import kind_of, plain_state
from ..model.surgery import build, silence

_LEAST_SHARE = 0.1  # of the parameters; two scales of YOLOv8 have some tensors of one shape


def write_start(model: Path, seed: int, names: list[str], pretrained: str | None, file: Path) -> None:
    """Write the checkpoint of a plain model built under a seed, with pretrained weights where they fit.

    Args:
        model: Model YAML, with the number of classes of the data.
        seed: Seed of what is not pretrained.
        names: Classes of the data: the class outputs of a checkpoint are theirs only where the host says so.
        pretrained: Checkpoint, or None for a start from scratch.
        file: File to write.

    Raises:
        StudyError: If hardly any of the pretrained weights fit.
    """
    install()
    import ultralytics
    from ultralytics.nn.tasks import yaml_model_load

    built = begin(yaml_model_load(model), seed, names, pretrained)
    built.args = {}
    content = {
        "epoch": -1, "best_fitness": None, "model": built.float(), "ema": None, "updates": None, "optimizer": None,
        "train_args": {"model": str(model), "task": "detect", "imgsz": 640},
        "date": datetime.now(timezone.utc).isoformat(), "version": ultralytics.__version__,
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        torch.save(content, draft)


def begin(model: dict[str, Any], seed: int, names: list[str], pretrained: str | None) -> Any:
    """Return a plain model built under a seed, with pretrained weights where they fit; see ``write_start``."""
    install()
    from ultralytics import YOLO

    weights: Any = YOLO(pretrained).model if pretrained else None
    with silence():
        torch.manual_seed(seed)
        built = build(model)
        built.names = dict(enumerate(names))
        if weights is not None:
            before = {name: value.clone() for name, value in built.named_parameters()}
            built.load(weights, verbose=False)
            fit = sum(v.numel() for name, v in built.named_parameters() if not torch.equal(v, before[name]))
            share = fit / sum(value.numel() for value in before.values())
            if share < _LEAST_SHARE:
                raise StudyError(
                    f"pretrained={pretrained} fits only {share:.0%} of the model's weights: it is of another model or "
                    "scale; name the checkpoint of this one"
                )
    return built


def compare(base: Any, model: Any, is_whole: bool) -> str:
    """Check that a model has the tensors of the base, each to the bit, and return a hash of those.

    Args:
        base: The plain model.
        model: A variant of it that was just loaded with its weights.
        is_whole: Whether it must have all of them; if not, only those that it has are compared.

    Raises:
        StudyError: If a tensor is another one, or missing.
    """
    pairs = align(list(base.model), list(model.model))
    digest = hashlib.sha256()
    for i, layer in enumerate(base.model):
        other = model.model[pairs[i]] if i in pairs else nn.Identity()
        theirs = plain_state(other)
        for key, value in plain_state(layer).items():
            name = f"{kind_of(layer)[0]} {key.partition('.')[2]} (layer {pairs.get(i, i)})"
            found = theirs.get(key)
            if found is None or found.shape != value.shape:
                if is_whole:
                    raise StudyError(f"the variant has no tensor {name} of the shared start: it is no pair")
                continue
            if not torch.equal(found.cpu(), value.to(found.dtype)):
                raise StudyError(f"the variant does not start with the shared weights: {name} differs")
            digest.update(f"{i} {key}".encode() + found.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
