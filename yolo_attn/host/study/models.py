"""Model dictionaries of a study: by name, of one scale, and what each costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import StudyError
from ..install import install
from ..model import blocks
from ..model.ours import is_attention, repeats
from ..model.surgery import build, silence
from ..opening import open_model
from ..run.whole_models import read_config, rounded

SCALES = "nsmlx"
Model = dict[str, Any]
_SCALED = re.compile(r"^(yolo(?:e-)?v?\d+)([nsmlx])(?![a-z])", re.IGNORECASE)


def load(name: str, key: str = "model") -> Model:
    """Return the dictionary of a model YAML, ours, the host's or the user's; ``.yaml`` may be left out.

    Args:
        name: Name or path.
        key: The setting that names it.

    Raises:
        StudyError: If it is a checkpoint, or no model to detect with.
        ModelNameError: If there is no such model.
        RowError: If it is another YAML.
    """
    install()
    from ultralytics.nn.tasks import guess_model_task

    path = Path(name)
    if path.suffix == ".pt":
        raise StudyError(
            f"{key}={name} is a checkpoint; name its model YAML and give the weights as pretrained=: "
            f"{key}={path.stem}.yaml pretrained={name}"
        )
    model = read_config(name)
    if model["head"][-1][2] != "RTDETRDecoder":  # older versions take it for nothing
        with silence():
            task = guess_model_task(model)
        if task != "detect":
            raise StudyError(f"{key}={name} is a {task} model; a study compares detection models, such as yolov8n")
    return model


def stem(name: str) -> str:
    """Return the name of a model without folder and ``.yaml``."""
    return re.sub(r"\.ya?ml$", "", Path(name).name)


def of_one_scale(model: Mapping[str, Any], classes: int, channels: int) -> Model:
    """Return a model dictionary with its one scale and the classes and channels of the data."""
    found = {key: value for key, value in model.items() if key not in ("scale", "yaml_file", "channels", "ch")}
    scales = model.get("scales")
    if scales:
        scale = model.get("scale") or next(iter(scales))
        found["scales"] = {scale: scales[scale]}
    found["nc"] = classes
    return {**found, "channels": channels} if channels != 3 else found


def larger(name: str, model: Mapping[str, Any]) -> str | None:
    """Return the name of the next larger scale of a model, or None if there is none."""
    match = _SCALED.match(stem(name))
    scales = model.get("scales") or {}
    if match is None or match[2].lower() not in scales:
        return None
    after = [scale for scale in SCALES[SCALES.index(match[2].lower()) + 1 :] if scale in scales]
    return rescaled(name, after[0]) if after else None


def rescaled(name: str, scale: str) -> str:
    """Return the name or path of a model or checkpoint with another scale letter."""
    path = Path(name)
    renamed = _SCALED.sub(rf"\g<1>{scale}", path.name)
    return str(path.with_name(renamed)) if path.name != name else renamed


def check_checkpoint(key: str, name: str) -> None:
    """Check that a checkpoint can be opened, or be had.

    Raises:
        StudyError: If it is neither a file nor what Ultralytics offers for download.
        CheckpointError: If it is a file that holds no model.
    """
    install()
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    files = [file for file in (Path(name), Path(SETTINGS["weights_dir"]) / name) if file.is_file()]
    if files:
        open_model(files[0])
    elif "://" not in name and Path(name).name not in GITHUB_ASSETS_NAMES:
        raise StudyError(f"{key}={name}: there is no such file, and Ultralytics offers none of that name for download")


def checkpoint_file(name: str) -> Path:
    """Return the file of a checkpoint, downloaded if it is one that Ultralytics offers."""
    from ultralytics.utils.downloads import attempt_download_asset

    return Path(attempt_download_asset(name))


def larger_checkpoint(pretrained: str, larger_model: str) -> str | None:
    """Return the checkpoint of a larger scale, named as that of the smaller one; None if there is none.

    A name without a folder that Ultralytics offers for download counts.
    """
    install()
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    match = _SCALED.match(stem(larger_model))
    own = _SCALED.match(Path(pretrained).name)
    if match is None or own is None or match[1].lower() != own[1].lower():
        return None
    name = rescaled(pretrained, match[2].lower())
    return name if Path(name).is_file() or name in GITHUB_ASSETS_NAMES else None


def cost(model: Model, imgsz: int) -> tuple[int, float, dict[int, int]]:
    """Build a model; return its parameters, its GFLOPs, and for each row the parameters of layers of ours in it."""
    from ultralytics.utils.torch_utils import get_flops

    with silence():
        built = build(model)
    rows = {}
    for index, row in enumerate(built.model):
        parts = repeats(row) if is_attention(row) else [*blocks.find_attention(row).values()]
        if parts:
            rows[index] = sum(_count(blocks.ungated(part)) for part in parts)
    side = rounded(imgsz, built)
    return _count(built), float(get_flops(built, side)), rows


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
