"""Data joints: the host resolves COCO-format data YAMLs and our demo sets, and builds our dataset for them.

The reader of the data is imported when data are named, not at every start of the host.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DataError, HostError
from .models import cfg_folder

TASKS = ("detect", "segment", "pose")
_YAML = (".yaml", ".yml")


def dataset_names() -> list[str]:
    """Return the names of the data YAMLs of this package."""
    return sorted(path.name for path in (cfg_folder() / "datasets").glob("*.yaml"))


def find_data(name: str | Path) -> Path | None:
    """Return the COCO-format data YAML that a user's ``data=`` means, or None if the host shall look itself.

    A file of that path wins; ``shapes.yaml`` or ``shapes`` without a folder then means ours.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() == ".json":
            raise DataError(
                f"data={name}: name the JSON in a data YAML with 'train:', 'val:' and 'images:', or give it to "
                "scripts/train.py as --train-json or --val-json"
            )
        return path.absolute() if path.suffix.lower() in _YAML and _is_coco(path) else None
    if path.exists() or str(name) != path.name:
        return None
    ours = cfg_folder() / "datasets" / (path.name if path.suffix.lower() in _YAML else f"{path.name}.yaml")
    return ours if ours.is_file() else None


def _is_coco(path: Path) -> bool:
    from ..coco.data_yaml import is_coco, read_yaml

    return is_coco(read_yaml(path))


def check_det_dataset_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``check_det_dataset`` that resolves COCO-format data YAMLs; everything else goes to the host's own."""

    @functools.wraps(original)
    def check_det_dataset(dataset: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        file = find_data(dataset)
        if file is None:
            return original(dataset, *args, **kwargs)
        from ..coco.data_yaml import describe

        return describe(file)

    return check_det_dataset


def get_dataset_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``BaseTrainer.get_dataset`` that says why a pose model cannot be trained on a COCO JSON."""

    @functools.wraps(original)
    def get_dataset(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.args, "task", None) == "pose":
            _check_keypoints(find_data(self.args.data))
        return original(self, *args, **kwargs)

    return get_dataset


def _check_keypoints(file: Path | None) -> None:
    """Raise ``DataError`` if a COCO-format data YAML has no keypoints that can be trained on."""
    if file is not None:
        from ..coco.data_yaml import describe

        describe(file, task="pose")


def build_yolo_dataset_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``build_yolo_dataset`` that builds a ``COCODataset`` for COCO-format data.

    Raises:
        HostError: If the host's function does not build a ``YOLODataset``.
    """
    return _dataset_joint(original, "YOLODataset", "COCODataset")


def build_rtdetr_dataset_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``build_dataset`` of RT-DETR's trainer or validator that builds a ``COCORTDETRDataset`` likewise.

    Raises:
        HostError: If the host's method does not build an ``RTDETRDataset``.
    """
    return _dataset_joint(original, "RTDETRDataset", "COCORTDETRDataset")


def init_metrics_joint(original: Callable[..., None]) -> Callable[..., None]:
    """Return ``init_metrics`` that turns a validator of COCO-format data into one with the official numbers.

    It is called when a validator knows its data, in every command and every worker.
    """

    @functools.wraps(original)
    def init_metrics(self: Any, model: Any) -> None:
        if "coco" not in (self.data or {}):
            original(self, model)
            return
        from .coco_validator import begin

        begin(self, original, model)

    return init_metrics


def _dataset_joint(original: Callable[..., Any], theirs: str, ours: str) -> Callable[..., Any]:
    """Return a function of the host that builds our dataset class in place of its own for COCO-format data."""
    code = getattr(original, "__code__", None)
    if code is None or theirs not in code.co_names:
        name = getattr(original, "__qualname__", original)
        raise HostError(f"{name} of this Ultralytics builds no {theirs}: COCO-format data cannot be used")
    signature = inspect.signature(original)

    @functools.wraps(original)
    def build(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        owner = given.get("self")
        data = owner.data if owner is not None else given.get("data")
        if not isinstance(data, dict) or "coco" not in data:
            return original(*args, **kwargs)
        _check_request(given, data, owner.args if owner is not None else given["cfg"])
        from . import coco_dataset

        return _rebound(original, theirs, getattr(coco_dataset, ours))(*args, **kwargs)

    return build


def _check_request(given: dict[str, Any], data: dict[str, Any], settings: Any) -> None:
    file = data.get("yaml_file", "the data description")
    task = getattr(settings, "task", "detect")
    if task not in TASKS or given.get("multi_modal"):
        raise DataError(f"{file}: COCO JSON is for {', '.join(TASKS)} models; not for {task} models")
    if task == "pose" and "kpt_shape" not in data:
        _check_keypoints(Path(file))
    if not given["img_path"]:
        wanted = "train" if given.get("mode", "train") == "train" else getattr(settings, "split", None) or "val"
        raise DataError(f"{file}: no '{wanted}:'; it names {', '.join(data['coco'])}")
    asked = getattr(settings, "classes", None)
    names = list(data["names"].values())
    wrong = [c for c in (asked if isinstance(asked, list | tuple) else [asked]) if c not in (None, *range(len(names)))]
    if wrong:
        raise DataError(f"classes={asked}: {file} has classes 0 to {len(names) - 1} ({', '.join(names[:5])}...)")


def _rebound(original: Callable[..., Any], name: str, value: Any) -> Callable[..., Any]:
    """Return the host's own function with one global name bound to our class."""
    assert isinstance(original, types.FunctionType)
    names = {**original.__globals__, name: value}
    clone = types.FunctionType(original.__code__, names, original.__name__, original.__defaults__, original.__closure__)
    clone.__kwdefaults__ = original.__kwdefaults__
    return clone
