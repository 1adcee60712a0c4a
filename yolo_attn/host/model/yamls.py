"""Model YAMLs by name: the drop-in files of this package, found after everything the host finds itself."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ... import registry
from ...errors import ModelNameError, RowError
from ...graft import graft, graft_all, split_names, to_yaml
from .model_names import explain, stem_of
from .sizes import refuse_file

_SCALE = re.compile(r"^(yolo[a-z]*\d+)([nsmlx])(-.+)$")
_SCALED = re.compile(r"(\d)[nslmx](.*)$")


def cfg_folder() -> Path:
    """Return the folder of our YAMLs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "cfg"
    return inside if inside.is_dir() else package.parent / "cfg"


def model_names() -> list[str]:
    """Return the names of the drop-in model YAMLs."""
    return sorted(path.name for path in (cfg_folder() / "models").glob("*.yaml"))


def find_model(name: str) -> Path | None:
    """Return the drop-in YAML for ``yolov8-cbam.yaml`` or, with a scale letter, ``yolov8n-cbam.yaml``; or None."""
    if name != Path(name).name:
        return None
    ours = model_names()
    return next((cfg_folder() / "models" / n for n in (name, _SCALE.sub(r"\1\3", name)) if n in ours), None)


def yaml_model_load_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``yaml_model_load`` that also knows ``<model>-<slug>[-<place>]...yaml`` where no file has that name."""

    @functools.wraps(original)
    def yaml_model_load(path: str | Path) -> dict[str, Any]:
        for file in (path, _SCALED.sub(r"\1\2", str(path), count=1)):  # where the host looks, in turn
            refuse_file(Path(file))
        try:
            return original(path)
        except FileNotFoundError as error:
            name = str(path)
            found = find_model(name)
            d = yaml.safe_load(found.read_text(encoding="utf-8")) if found else _grafted(name, original)
            if d is None:
                wrong = explain(name, original)
                if not wrong:
                    raise
                raise ModelNameError(f"{name!r} does not exist{wrong}") from error
        from ultralytics.nn.tasks import guess_model_scale

        d["scale"] = d.get("scale") or guess_model_scale(path)
        d["yaml_file"] = name
        return d

    return yaml_model_load


def _grafted(name: str, load: Callable[..., Any]) -> dict[str, Any] | None:
    """Return the model that ``<model>-<slug>[-<place>]...yaml`` names, or None if it names none."""
    stem = stem_of(name) if name == Path(name).name else ""
    for base, layers in split_names(stem):
        with contextlib.suppress(FileNotFoundError):
            model = load(f"{base}.yaml")
            try:
                return graft_all(model, [(layer, place, []) for layer, place in layers])
            except RowError as error:
                raise RowError(f"{name}: {error}") from error
    return None


def base_model(name: str) -> dict[str, Any]:
    """Return the dictionary of a model YAML that the installed Ultralytics ships, such as ``yolov8.yaml``."""
    from ultralytics.utils.checks import check_yaml

    return yaml.safe_load(Path(check_yaml(name)).read_text(encoding="utf-8"))


def drop_in_files() -> dict[str, str]:
    """Return name and text of every drop-in YAML: each layer, and one of timm's, at each place of YOLOv8."""
    places = {
        "": ("backbone", "after the last backbone layer"),
        "-neck": ("neck", "after each of the three layers that feed the head"),
    }
    base = base_model("yolov8.yaml")
    files = {}
    for layer in (*registry.TABLE, registry.slugs()["timm-eca"]):
        title = " ".join([layer.name, *layer.given])
        for suffix, (place, words) in places.items():
            name = f"yolov8-{layer.slug}{suffix}.yaml"
            scaled = name.replace("yolov8", "yolov8n")
            text = (
                f"YOLOv8 with {title} {words}.\n"
                f"{layer.paper}, {layer.year}{layer.arxiv and f', arXiv {layer.arxiv}'}.\n"
                f"Use: yolo train model={scaled} data=shapes.yaml (scales n, s, m, l, x)"
            )
            files[name] = to_yaml(graft(base, layer.slug if layer.given else layer.name, place), text)
    return files
