"""The data of a study: what they are, a fingerprint, and COCO ground truth where the labels are YOLO's text files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ...cache import write_text
from ...errors import DataError, YoloAttnError
from ...tabular import cut
from ..install import install
from ..model.surgery import silence

Description = dict[str, Any]
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal


def examine(data: str, arguments: Mapping[str, Any], folder: Path | None = None) -> Description:
    """Read a data set as a training would and say what it is.

    Args:
        data: Data YAML, by name or path.
        arguments: Training arguments, of which ``imgsz``, ``fraction``, ``classes`` and the like choose images.
        folder: Where to write ground truth for COCO's numbers if the data have none of that form; None writes none.

    Returns:
        ``file`` (the YAML), ``judged`` (the YAML that COCO's numbers come from), ``fingerprint``, ``images`` and
        ``instances`` of ``train`` and ``val``, ``names`` and ``channels``.

    Raises:
        DataError: If there is no such data set, it cannot be used, or a split has no object.
    """
    install()
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build, utils

    known = {key: value for key, value in arguments.items() if key not in ("augmentations", "cache", "rect")}
    settings: Any = get_cfg(overrides={**known, "data": data, "task": "detect", "mode": "train"})
    with _named(data):
        found = utils.check_det_dataset(data)
    file = Path(str(found.get("yaml_file") or data)).absolute()
    for split in ("train", "val"):
        if not found.get(split):
            raise DataError(f"data={data}: it has no '{split}:', and a study needs both 'train:' and 'val:'")
        if split in (found.get("absent") or {}):
            raise DataError(found["absent"][split])
    with silence(), _named(data):
        sets: dict[str, Any] = {
            split: build.build_yolo_dataset(settings, found[split], settings.batch, found, mode=split, rect=False)
            for split in ("train", "val")
        }
    for split, dataset in sets.items():
        if not any(len(label["cls"]) for label in dataset.labels):
            raise DataError(f"data={data}: no image of '{split}:' has an object that is to be found")
    names = [found["names"][key] for key in sorted(found["names"])]
    if settings.single_cls:
        names = ["item"]
    described: Description = {
        "file": str(file),
        "judged": str(file),
        "fingerprint": _fingerprint(found, sets, names),
        "images": {split: len(dataset) for split, dataset in sets.items()},
        "instances": {split: sum(len(label["cls"]) for label in dataset.labels) for split, dataset in sets.items()},
        "names": names,
        "channels": int(found.get("channels", 3)),
    }
    if "coco" not in found and folder is not None:
        described["judged"] = str(_write_ground_truth(sets["val"], names, described["channels"], folder))
    return described


@contextmanager
def _named(data: str) -> Iterator[None]:
    """Say in one line, with the name of the data, what the host has against them."""
    try:
        yield
    except YoloAttnError:
        raise
    except (AssertionError, SyntaxError, LookupError, ValueError, TypeError, RuntimeError, OSError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        said = " ".join(_COLOUR.sub("", text).split())
        raise DataError(f"data={data} cannot be used: {cut(said, 400)}") from error


def _fingerprint(found: Mapping[str, Any], sets: Mapping[str, Any], names: list[str]) -> str:
    """Return a hash of the classes and, for each split, of its labels and of names and sizes of its images."""
    digest = hashlib.sha256(json.dumps(names).encode())
    for split, dataset in sets.items():
        digest.update(str((found.get("coco") or {}).get(split, {}).get("fingerprint")).encode())
        root = _root(dataset.im_files)
        for label in sorted(dataset.labels, key=lambda label: label["im_file"]):
            image = label["im_file"]
            digest.update(f"{split} {os.path.relpath(image, root)} {Path(image).stat().st_size}".encode())
            digest.update(label["cls"].tobytes() + label["bboxes"].tobytes())
    return f"sha256:{digest.hexdigest()}"


def _root(files: list[str]) -> str:
    return os.path.commonpath([str(Path(file).parent) for file in files])


def _write_ground_truth(dataset: Any, names: list[str], channels: int, folder: Path) -> Path:
    """Write the labels of a split as COCO JSON, and a data YAML beside it; return the YAML."""
    root = _root(dataset.im_files)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, label in enumerate(dataset.labels, start=1):
        height, width = label["shape"]
        name = Path(os.path.relpath(label["im_file"], root)).as_posix()
        images.append({"id": number, "file_name": name, "width": int(width), "height": int(height)})
        for cls, (x, y, w, h) in zip(label["cls"].ravel().tolist(), label["bboxes"].tolist(), strict=True):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": int(cls) + 1, "bbox": box,
                    "area": box[2] * box[3], "iscrowd": 0,
                }
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    folder.mkdir(parents=True, exist_ok=True)
    truth, file = folder / "val.json", folder / "val.yaml"
    write_text(truth, json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    described = {"val": truth.name, "images": {"val": root}, "channels": channels}
    write_text(file, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    return file
