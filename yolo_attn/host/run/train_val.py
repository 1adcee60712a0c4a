"""Train and validate on COCO-format data: what scripts/train.py and scripts/val.py call."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...coco.data_yaml import describe, is_coco, read_yaml, write_cached, write_description
from ...errors import DataError
from ...graft import to_yaml, without_gates
from ..command import ours
from ..data.descriptions import TASKS, find_data
from ..install import install

DEFAULT_DATA = "shapes.yaml"


def train(model: str | Path, data: str | Path | None = None, gate: bool = True, **arguments: Any) -> dict[str, Any]:
    """Train a model; the best checkpoint is validated with both mAPs.

    Args:
        model: Model YAML or checkpoint, by name or path.
        data: Data YAML, ours, the host's or your own; ``shapes.yaml`` if None, or the run's own with ``resume``.
        gate: Let layers inserted into pretrained weights start as the identity; False keeps the paper's start.
        **arguments: Any training argument of Ultralytics. The device is a GPU if there is one.

    Returns:
        ``save_dir``, ``weights`` (the best checkpoint), and with COCO-format data the report of ``val``.

    Raises:
        DataError: If the data cannot be used.
    """
    if data is None and not arguments.get("resume"):
        data = DEFAULT_DATA
    if data is not None:
        _check_data(data, ("train", "val"))
        arguments["data"] = str(data)
    yolo = _load(model if gate else _without_gates(model), arguments.get("task"))
    pretrained = arguments.get("pretrained")
    if isinstance(pretrained, str | Path) and not arguments.get("resume") and _is_yaml(model):
        yolo.load(str(pretrained))  # as the yolo command does: older hosts forget it in train
    begun = time.time()
    yolo.train(**arguments)
    trainer: Any = yolo.trainer
    weights = trainer.best if Path(trainer.best).exists() else trainer.last
    return {"save_dir": str(trainer.save_dir), "weights": str(weights), **_report(Path(trainer.save_dir), begun)}


def val(weights: str | Path, data: str | Path | None = None, **arguments: Any) -> dict[str, Any]:
    """Validate a model with both mAPs.

    Args:
        weights: Checkpoint, ours or stock, or an exported model (ONNX, OpenVINO, TorchScript).
        data: Data YAML, ours, the host's or your own; what the checkpoint was trained with if None.
        **arguments: Any validation argument of Ultralytics; ``task`` where an exported model's name does not say it.

    Returns:
        ``save_dir``, ``weights``, and with COCO-format data ``coco`` (kind -> official numbers), ``ultralytics``
        (kind -> its own mAPs), ``predictions`` and ``per_class`` (files) and ``notes``.

    Raises:
        DataError: If the data cannot be used.
    """
    splits = (arguments.get("split", "val"),)
    if data is not None:
        _check_data(data, splits)
    yolo = _load(weights, arguments.get("task"))
    if data is None:
        data = yolo.overrides.get("data") or DEFAULT_DATA
        _check_data(data, splits)
    folders: list[Path] = []
    yolo.add_callback("on_val_start", lambda validator: folders.append(Path(validator.save_dir)))
    begun = time.time()
    yolo.val(data=str(data), **arguments)
    return {"save_dir": str(folders[-1]), "weights": str(weights), **_report(folders[-1], begun)}


def main(verb: str, argv: Sequence[str] | None = None) -> int:
    """Run ``train`` or ``val`` from a command line, print the record (on the first rank) and return the exit status."""
    try:
        run = train if verb == "train" else val
        record = run(**parse(argv, verb))
    except Exception as error:
        found = error if isinstance(error, SyntaxError) else ours(error)
        if found is None:
            raise
        print(f"error: {found}", file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(record, indent=1))
    return 0


def parse(argv: Sequence[str] | None, verb: str) -> dict[str, Any]:
    """Return the arguments of ``train`` or ``val`` from a command line.

    Args:
        argv: Words after the script's name; those of the process if None.
        verb: ``"train"`` or ``"val"``.
    """
    subject = "model" if verb == "train" else "weights"
    parser = argparse.ArgumentParser(
        description=f"{verb} on COCO-format data",
        epilog="Everything else is key=value as for the yolo command: imgsz=320 epochs=3 amp=False",
    )
    parser.add_argument(f"--{subject}", help="model YAML or checkpoint" if verb == "train" else "checkpoint")
    if verb == "train":
        parser.add_argument("--no-gate", action="store_true", help="keep the paper's start in pretrained weights")
    parser.add_argument("--data", help=f"data YAML (default: {DEFAULT_DATA}, generated on first use)")
    for split in ("train", "val", "test"):
        parser.add_argument(f"--{split}-json", metavar="FILE", help=f"COCO JSON to {verb} with, instead of --data")
        parser.add_argument(f"--{split}-images", metavar="FOLDER", help="folder of its images")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any argument of Ultralytics")
    flags = vars(parser.parse_intermixed_args(argv))

    arguments = _overrides(flags["overrides"])
    if flags.get("no_gate"):
        arguments["gate"] = False
    for key, value in ((subject, flags[subject]), ("data", flags["data"]), ("data", _flag_data(flags))):
        if value is not None and key in arguments:
            raise DataError(f"{key} is given twice, as {arguments[key]} and as {value}")
        if value is not None:
            arguments[key] = value
    if verb == "val" and "model" in arguments:
        arguments.setdefault("weights", arguments["model"])
        del arguments["model"]
    if subject not in arguments:
        parser.error(f"--{subject} is needed")
    return arguments


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read key=value words as the yolo command does; a bare name of a switch turns it on."""
    from ultralytics.cfg import check_dict_alignment, parse_key_value_pair
    from ultralytics.utils import DEFAULT_CFG_DICT

    arguments: dict[str, Any] = {}
    for word in words:
        if "=" in word and word.partition("=")[2].strip():
            key, value = parse_key_value_pair(word)
            arguments[key] = value
        elif isinstance(DEFAULT_CFG_DICT.get(word), bool):
            arguments[word] = True
        else:
            raise DataError(f"{word!r} is not key=value; write for example imgsz=320")
    known = {**DEFAULT_CFG_DICT, "weights": None}
    check_dict_alignment(known, {key: value for key, value in arguments.items() if key != "trainer"})
    return arguments


def _flag_data(flags: dict[str, Any]) -> str | None:
    """Return a data YAML in the cache folder for the --*-json flags, or None without them."""
    splits = {}
    for split in ("train", "val", "test"):
        json_path, folder = flags[f"{split}_json"], flags[f"{split}_images"]
        if json_path is not None:
            splits[split] = (json_path, folder)
        elif folder is not None:
            raise DataError(f"--{split}-images {folder} needs --{split}-json")
    return str(write_description(splits)) if splits else None


def _check_data(data: str | Path, splits: Sequence[str]) -> None:
    """Raise before a model is built if the data is COCO format and broken; the host checks its own formats."""
    file = find_data(data)
    if file is None or not is_coco(read_yaml(file)):
        return
    found = describe(file)
    for split in splits:
        if split in found["absent"]:
            raise DataError(found["absent"][split])
        if not found.get(split):
            raise DataError(f"{data}: no '{split}:'; it names {', '.join(found['coco'])}")


def _without_gates(model: str | Path) -> Path:
    """Return the file of a model YAML whose rows say ``gate: false``; in the cache folder, for workers and resume."""
    if not _is_yaml(model):
        raise DataError(
            f"--no-gate is for a model YAML that gets pretrained weights; {model} has its structure already"
        )
    install()
    from ultralytics.nn.tasks import yaml_model_load

    content = without_gates(yaml_model_load(model))
    text = to_yaml({k: v for k, v in content.items() if k not in ("scale", "yaml_file")}, f"{model} without gates")
    return write_cached(text, "models", Path(model).name)


def _load(model: str | Path, task: str | None = None) -> Any:
    from ultralytics import RTDETR, YOLO

    install()
    try:
        yolo: Any = YOLO(str(model), task=task)
    except NotImplementedError:  # what the host says of RT-DETR's model YAMLs
        yolo = RTDETR(str(model))
    if yolo.task not in TASKS:
        raise DataError(f"{model} is a {yolo.task} model; COCO JSON is for {', '.join(TASKS)} models")
    return yolo


def _is_yaml(model: str | Path) -> bool:
    return Path(model).suffix in (".yaml", ".yml")


def _report(save_dir: Path, begun: float) -> dict[str, Any]:
    """Return the report written since then; an older one in the folder is of another run."""
    from ..data.validators import REPORT

    file = save_dir / REPORT
    # Some file systems keep whole seconds.
    is_new = file.is_file() and file.stat().st_mtime >= int(begun)
    return json.loads(file.read_text(encoding="utf-8")) if is_new else {}
