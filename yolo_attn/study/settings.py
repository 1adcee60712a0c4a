"""What a study is to do: words of the command line, a YAML file or an existing study become one set of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import registry
from ..errors import RowError, StudyError, nearest
from ..host.study import arguments

RECORD = "study.json"
PROJECT = "runs/study"
CONTROLS = ("pointwise", "larger")
# Keys of a study, with an example each; all others are training arguments of Ultralytics.
KEYS: dict[str, Any] = {
    "data": "neu.yaml", "model": "yolov8n", "layers": "cbam,coordatt", "at": "backbone,neck", "seeds": 3,
    "epochs": 50, "pretrained": "yolov8n.pt", "larger_pretrained": "yolov8s.pt", "gate": False,
    "controls": "pointwise,larger", "pointwise": "most", "models": "own.yaml", "workers": 1, "loader_workers": 8,
    "device": "0,1", "backend": "local", "ray_address": "10.0.0.1:6379", "name": "neu", "project": PROJECT,
}  # fmt: skip
# How the trials are run: it changes no number, and may change from one command to the next.
REMEMBERED = ("workers", "device", "backend", "ray_address")
RUNNING = (*REMEMBERED, "name", "project")
CHECKPOINTS = ("pretrained", "larger_pretrained")
# Lists that a study may get more of.
GROWING = ("layers", "at", "seeds", "models", "controls")
REFUSED = {
    "seed": "a study has seeds=",
    "resume": "the same command goes on with a study by itself",
    "time": "trials of one length in time are of different lengths in epochs: give epochs=",
    "save_dir": "a study has name= and project=",
    "exist_ok": "a study goes on where its folder is",
    "task": "a study compares detection models",
    "mode": "a study trains and validates",
    "save": "a study needs the checkpoints",
    "val": "a study needs the validation",
    "split": "trials are judged by the validation split",
    "deterministic": "a study is deterministic",
    "cfg": "write its keys into the study's YAML",
    "trainer": "a study has its own",
}
DEFAULT_SEEDS = 3
MOST_SEEDS = 100


@dataclass
class Request:
    """What a command asks for.

    Attributes:
        settings: What the numbers depend on, as ``study.json`` keeps it; only what was given where the study exists.
        running: How the trials are run: ``workers``, ``devices``, ``backend``, ``ray_address``.
        folder: Folder of the study.
    """

    settings: dict[str, Any]
    running: dict[str, Any]
    folder: Path


def read(words: Sequence[str]) -> Request:
    """Return what a command asks for.

    Args:
        words: ``key=value`` words; the first may be a YAML file of a study or the folder of an existing one.

    Raises:
        StudyError: If a word, a key or a value cannot be.
    """
    words = list(words)
    first = words.pop(0) if words and "=" not in words[0] else None
    given = arguments.read_words(words)
    folder = None
    if first is not None:
        path = Path(first)
        if (path / RECORD).is_file():
            folder = path
            given = {**_remembered(path, given), **given}
        elif path.is_file() and path.suffix in (".yaml", ".yml"):
            given = {**_read_yaml(path), **given}
        else:
            raise StudyError(
                f"{first}: no such study, and no YAML file of one. Give the folder of a study, a file such as "
                "my-study.yaml, or data=... layers=..."
            )
    for key in given:
        if key in REFUSED:
            raise StudyError(f"{key}={given[key]}: {REFUSED[key]}")
    arguments.check(given, KEYS)
    if folder is not None:
        for key in ("name", "project"):
            if key in given:
                raise StudyError(f"{key}={given[key]}: {folder} is a study and keeps its name")
    else:
        for key in ("data", "model"):
            if not isinstance(given.get(key), str):
                raise StudyError(f"{key}= is missing; a study needs data=, model= and layers=")
        if not given.get("layers") and not given.get("models"):
            raise StudyError("layers= is missing; name at least one, such as layers=cbam,coordatt")
        name = str(given.get("name") or Path(given["data"]).stem)
        if Path(name).name != name or name == "..":
            raise StudyError(f"name={name}: a name, not a path; the folder around it is project=")
        folder = Path(str(given.get("project") or PROJECT)) / name
    running = {key: given[key] for key in RUNNING if key in given}
    running["devices"] = arguments.devices(given.get("device"))
    if len({arguments.kind(device) for device in running["devices"]}) > 1:
        raise StudyError(f"device={given['device']}: devices of one kind, or trials are no pairs: device=0,1 or cpu")
    workers = given.get("workers", len(running["devices"]))
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise StudyError(f"workers={workers}: how many trials run at once, at least 1 (the loader's: loader_workers=)")
    running["workers"] = workers
    running["backend"] = str(given.get("backend") or "local")
    if running["backend"] != "ray" and "ray_address" in given:
        raise StudyError(f"ray_address={given['ray_address']}: it goes with backend=ray")
    if running["backend"] == "ray" and "workers" not in given:
        raise StudyError(
            "backend=ray: workers= is missing; how many trials run at once on the cluster, such as workers=8"
        )
    asked = {key: value for key, value in given.items() if key not in RUNNING}
    return Request(_resolve(asked, is_new=not (folder / RECORD).is_file()), running, folder)


def _remembered(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the trials of a study were run last, but for what a command says otherwise."""
    if "backend" in given:
        return {}
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["running"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    # As many at once as there were devices: with other devices that is another number.
    return {key: value for key, value in found.items() if key != "workers" or "device" not in given}


def _resolve(given: Mapping[str, Any], is_new: bool) -> dict[str, Any]:
    """Return settings in one form each; those that were not given get their defaults if the study is new."""
    found: dict[str, Any] = {}
    read_as = {
        "data": _file("data"), "model": _file("model"), "layers": layers, "at": _places, "seeds": seeds,
        "epochs": _positive("epochs"), "batch": _positive("batch"), "imgsz": _positive("imgsz"),
        "pretrained": _checkpoint("pretrained"), "larger_pretrained": _checkpoint("larger_pretrained"),
        "gate": _gate, "controls": _controls, "pointwise": _pointwise, "models": _files,
        "loader_workers": _whole("loader_workers"),
    }  # fmt: skip
    defaults = {
        "layers": [], "at": ["backbone", "neck"], "seeds": DEFAULT_SEEDS, "pretrained": None,
        "larger_pretrained": None, "gate": None, "controls": list(CONTROLS), "pointwise": "most", "models": [],
    }  # fmt: skip
    for key, read_value in read_as.items():
        if key in given:
            found[key] = read_value(given[key])  # type: ignore[operator]
        elif is_new:
            host = {"loader_workers": "workers"}.get(key, key)
            found[key] = read_value(defaults[key] if key in defaults else arguments.default(host))  # type: ignore[operator]
    train = {key: value for key, value in given.items() if key not in read_as}
    if train or is_new:
        found["train"] = dict(sorted({"plots": False, **train}.items()) if is_new else sorted(train.items()))
    return json.loads(json.dumps(found, default=str))


def layers(value: Any) -> list[dict[str, Any]]:
    """Return the layers that a setting names, each as ``layer`` (as ``graft`` takes it), ``slug`` and ``args``.

    Raises:
        UnknownLayerError: If there is no such layer.
        StudyError: If an entry is of another form.
    """
    found: list[dict[str, Any]] = []
    for entry in _listed(value):
        if isinstance(entry, Mapping) and len(entry) == 1:
            ((name, args),) = entry.items()
        else:
            name, args = entry, []
        if not isinstance(name, str) or not isinstance(args, (list, Mapping)):
            raise StudyError(f"layers: {entry!r}: give a name such as cbam, or {{CBAM: {{kernel_size: 3}}}}")
        row = registry.slugs().get(name.lower()) or registry.find(name)
        row = registry.find(row.name) if not row.given else row
        given = list(args) if isinstance(args, list) else [dict(args)] if args else []
        slug = "-".join([row.slug, *map(_word, given)])
        one = {"layer": row.slug if row.given else row.name, "slug": slug, "args": given}
        if one in found:
            raise StudyError(f"layers: {name} is named twice")
        found.append(one)
    return found


def seeds(value: Any) -> list[int]:
    """Return seeds: the first so many for a number, or those listed."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        if value > MOST_SEEDS:
            raise StudyError(
                f"seeds={value}: that would be {value:,} trainings of each variant; the one seed {value} is "
                f"seeds=[{value}]"
            )
        return list(range(value))
    found = _listed(value) if not isinstance(value, (int, float)) else []
    if not found or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in found
    ):
        raise StudyError(f"seeds={value}: how many, or which ones: seeds=3 or seeds=0,3,5")
    if len(set(found)) < len(found):
        raise StudyError(f"seeds={value}: one is there twice")
    return found


def _places(value: Any) -> list[str | int]:
    found = _listed(value)
    if not found or not all(isinstance(place, (str, int)) for place in found):
        raise StudyError(f"at={value}: name places, at least one, such as at=backbone,neck")
    return list(dict.fromkeys(found))


def _controls(value: Any) -> list[str]:
    found = [str(control) for control in _listed(value) if control not in ("none", "plain")]
    for control in found:
        if control not in CONTROLS:
            raise StudyError(
                f"controls={control}: there are {', '.join(CONTROLS)}, and none{nearest(control, CONTROLS)}"
            )
    return found


def _pointwise(value: Any) -> str:
    if value not in ("most", "each"):
        raise StudyError(
            f"pointwise={value}: most (one control a place, of as many parameters as its most expensive layer) or each "
            "(one for each layer)"
        )
    return value


def _gate(value: Any) -> bool | None:
    if value is not None and value is not False:
        raise StudyError(
            f"gate={value}: in pretrained weights layers have a gate unless you say gate=false; from scratch none has"
        )
    return value


def _checkpoint(key: str) -> Any:
    def read_value(value: Any) -> str | None:
        if value in (None, False, "none"):
            return None
        if not isinstance(value, str):
            raise StudyError(f"{key}={value}: name a checkpoint, such as {key}=yolov8n.pt, or none")
        return _located(value)

    return read_value


def _file(key: str) -> Any:
    def read_value(value: Any) -> str:
        if not isinstance(value, str):
            raise StudyError(f"{key}={value}: name a file")
        return _located(value)

    return read_value


def _located(name: str) -> str:
    """Return the name of a file as a path that means the same from any folder, if there is such a file here."""
    return str(Path(name).absolute()) if Path(name).is_file() else name


def _files(value: Any) -> list[str]:
    return list(map(_file("models"), _listed(value)))


def _whole(key: str, least: int = 0) -> Any:
    def read_value(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            hint = "; all variants must see the same batches" if key == "batch" else ""
            raise StudyError(f"{key}={value} must be a whole number of at least {least}{hint}")
        return value

    return read_value


def _positive(key: str) -> Any:
    return _whole(key, least=1)


def _listed(value: Any) -> list[Any]:
    """Return a value as a list: one, or several with commas between, or a YAML list as text."""
    if value is None or value == "none":
        return []
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise StudyError(f"{value!r} is no YAML: {error}") from error
    if isinstance(value, str):
        words = [word.strip() for word in value.split(",") if word.strip()]
        return [int(word) if word.isdecimal() else word for word in words]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _word(value: Any) -> str:
    """Return an argument as part of a name."""
    if isinstance(value, Mapping):
        return "-".join(f"{key}-{_word(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "-".join(map(_word, value))
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in str(value))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RowError(f"{path} is no YAML in UTF-8: {error}") from error
    if not isinstance(found, dict):
        raise StudyError(f"{path} is no study: write lines like 'layers: [cbam, coordatt]'")
    if {"names", "nc", "train"} & found.keys():
        raise StudyError(f"{path} is no study but describes data; give it as data={path}")
    return {str(key): value for key, value in found.items()}
