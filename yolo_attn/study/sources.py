"""What a study's own layers and pretrained weights are made of, and the check that it stays so."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import registry
from ..blocks import attention_of
from ..errors import StudyError, YoloAttnError
from ..plugins import VARIABLE
from . import store

WEIGHTS = "init/weights.json"


def layers_of(models: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the hash of the file of each layer of the user's that model dictionaries name, by the layer's name."""
    rows = [row for model in models for row in (*model["backbone"], *model["head"])]
    named = {inside[0] if (inside := attention_of(row)) else row[2] for row in rows}
    own = registry.layers()[len(registry.BUILT_IN) :]
    found = {layer.name: _hash_of_class(layer.name) for layer in own if layer.name in named}
    return {name: digest for name, digest in found.items() if digest}


def check_layers(record: Mapping[str, Any]) -> None:
    """Check that the user's layers are those that a study was begun with.

    Raises:
        StudyError: If one is missing or has changed.
    """
    study = f"{record.get('name')} was begun with the layer"
    for name, then in (record.get("own_layers") or {}).items():
        try:
            now = _hash_of_class(name)
        except YoloAttnError as error:
            raise StudyError(f"{study} {name}, which is not here. Set {VARIABLE} as it was. {error}") from error
        if now != then:
            raise StudyError(
                f"{study} {name}, and its file {_file_of(name)} has changed since: its trials would not be of one "
                "kind. Put the file back, or begin another study with name="
            )


def check_weights(folder: Path, scale: str, pretrained: str | None) -> None:
    """Check that the pretrained weights of a scale are those of the starts that were written before.

    Raises:
        StudyError: If not.
    """
    if pretrained is None:
        return
    from ..host.study.models import checkpoint_file

    file = checkpoint_file(pretrained)
    known = store.read_json(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}
    digest = _hash_of(file)
    if known.setdefault(scale, digest) != digest:
        raise StudyError(
            f"{folder.name}: {file} has changed since the study began, and its trials would not be of one kind. "
            "Put the file back, or begin another study with name="
        )
    store.write_json(folder / WEIGHTS, known)


def _hash_of_class(name: str) -> str | None:
    """Return the hash of a layer's file, or None if it has none: a class from a notebook."""
    file = _file_of(name)
    return _hash_of(file) if file else None


def _file_of(name: str) -> Path | None:
    try:
        return Path(inspect.getfile(registry.find(name).load()))
    except (TypeError, OSError):
        return None


def _hash_of(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
