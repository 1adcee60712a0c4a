"""Data joints: the host builds our datasets and validators for COCO-format data.

They are imported when such data are used, not at every start of the host.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import DataError, HostError
from .descriptions import TASKS, check_keypoints, find_data


def get_dataset_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``BaseTrainer.get_dataset`` that says why a pose model cannot be trained on a COCO JSON."""

    @functools.wraps(original)
    def get_dataset(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.args, "task", None) == "pose":
            check_keypoints(find_data(self.args.data))
        found = original(self, *args, **kwargs)
        data = found if isinstance(found, dict) else getattr(self, "data", None)
        absent = data.get("absent", {}) if isinstance(data, dict) else {}
        for split in ("train", "val"):
            if split in absent:
                raise DataError(absent[split])
        return found

    return get_dataset


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
        from .validators import begin

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
        from . import datasets

        return _rebound(original, theirs, getattr(datasets, ours))(*args, **kwargs)

    return build


def _check_request(given: dict[str, Any], data: dict[str, Any], settings: Any) -> None:
    file = data.get("yaml_file", "the data description")
    task = getattr(settings, "task", "detect")
    if task not in TASKS or given.get("multi_modal"):
        raise DataError(f"{file}: COCO JSON is for {', '.join(TASKS)} models; not for {task} models")
    if task == "pose" and "kpt_shape" not in data:
        check_keypoints(Path(file))
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
