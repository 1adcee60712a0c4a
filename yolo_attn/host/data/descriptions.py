"""Data YAMLs: the host resolves those of COCO-format data and our demo sets.

The reader of the data is imported when data are named, not at every start of the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..model.yamls import cfg_folder

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
    from ...coco.data_yaml import is_coco, read_yaml

    return is_coco(read_yaml(path))


def check_det_dataset_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``check_det_dataset`` that resolves COCO-format data YAMLs; everything else goes to the host's own."""

    @functools.wraps(original)
    def check_det_dataset(dataset: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        file = find_data(dataset)
        if file is None:
            return original(dataset, *args, **kwargs)
        from ...coco.data_yaml import describe

        return describe(file)

    return check_det_dataset


def check_keypoints(file: Path | None) -> None:
    """Raise ``DataError`` if a COCO-format data YAML has no keypoints that can be trained on."""
    if file is not None:
        from ...coco.data_yaml import describe

        describe(file, task="pose")
