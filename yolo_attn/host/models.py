"""Model YAMLs by name: the drop-in files of this package, found after everything the host finds itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .. import registry
from ..errors import nearest
from ..graft import graft, to_yaml

_SCALE = re.compile(r"^(yolo[a-z]*\d+)([nsmlx])(-.+)$")


def cfg_folder() -> Path:
    """Return the folder of our YAMLs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "cfg"
    return inside if inside.is_dir() else package.parent / "cfg"


def model_names() -> list[str]:
    """Return the names of the drop-in model YAMLs."""
    return sorted(path.name for path in (cfg_folder() / "models").glob("*.yaml"))


def find_model(name: str) -> Path | None:
    """Return the drop-in YAML for ``yolov8-cbam.yaml`` or, with a scale letter, ``yolov8n-cbam.yaml``; or None."""
    if name not in {Path(name).name, str(Path(name))}:
        return None
    for candidate in (name, _SCALE.sub(r"\1\3", name)):
        path = cfg_folder() / "models" / candidate
        if path.suffix == ".yaml" and path.is_file():
            return path
    return None


def yaml_model_load_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``yaml_model_load`` that knows our models where the host finds no file of that name."""

    @functools.wraps(original)
    def yaml_model_load(path: str | Path) -> dict[str, Any]:
        try:
            return original(path)
        except FileNotFoundError as error:
            found = find_model(str(path))
            if found is None:
                raise FileNotFoundError(f"{error}{_nearest_model(str(path))}") from error
        from ultralytics.nn.tasks import guess_model_scale

        d = yaml.safe_load(found.read_text(encoding="utf-8"))
        d["scale"] = guess_model_scale(path)
        d["yaml_file"] = str(path)
        return d

    return yaml_model_load


def _nearest_model(name: str) -> str:
    """Return a hint if the part after the base model is nearly one of ours, else nothing: most names are the host's."""
    base, dash, rest = name.partition("-")
    known = [f"{base}-{model.partition('-')[2]}" for model in model_names()] if dash else []
    alike = [model for model in known if nearest(rest, [model.partition("-")[2]], cutoff=0.75)]
    return nearest(name, alike)


def base_model(name: str) -> dict[str, Any]:
    """Return the dictionary of a model YAML that the installed Ultralytics ships, such as ``yolov8.yaml``."""
    from ultralytics.utils.checks import check_yaml

    return yaml.safe_load(Path(check_yaml(name)).read_text(encoding="utf-8"))


def drop_in_files() -> dict[str, str]:
    """Return name and text of every drop-in YAML: each layer at each place of YOLOv8."""
    places = {
        "": ("backbone", "after the last backbone layer"),
        "-neck": ("neck", "after each of the three layers that feed the head"),
    }
    base = base_model("yolov8.yaml")
    files = {}
    for layer in registry.TABLE:
        for suffix, (place, words) in places.items():
            name = f"yolov8-{layer.slug}{suffix}.yaml"
            scaled = name.replace("yolov8", "yolov8n")
            title = (
                f"YOLOv8 with {layer.name} {words}.\n"
                f"{layer.paper}, {layer.year}, arXiv {layer.arxiv}.\n"
                f"Use: yolo train model={scaled} data=shapes.yaml (scales n, s, m, l, x)"
            )
            files[name] = to_yaml(graft(base, layer.name, place), title)
    return files
