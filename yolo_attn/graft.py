"""Surgery on a model YAML: insert attention rows, renumber what moved, let every reader read the attention.

Pure functions from dictionary to dictionary; nothing here knows Ultralytics' classes, only the form of its rows:
``[from, repeats, module, args]`` in ``backbone`` and ``head``, where ``from`` is an index or a list of indices.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from . import registry
from .errors import RowError

Model = dict[str, Any]
PLACES = ("backbone", "neck")


def graft(model: Mapping[str, Any], layer: str, at: str | int | Sequence[str | int], args: Sequence[Any] = ()) -> Model:
    """Return a copy of a model with an attention layer inserted.

    Every row that read the layer before an insertion reads the attention afterwards.

    Args:
        model: A model dictionary with ``backbone`` and ``head``; it is not changed.
        layer: YAML name or alias of the layer.
        at: ``"backbone"`` (after its last row), ``"neck"`` (after each row that feeds the head), the index of a row
            to insert after, or several of these.
        args: Arguments of the row: positional ones, or one mapping, or both.

    Raises:
        UnknownLayerError: If there is no such layer.
        RowError: If a place does not exist in this model.

    Example:
        >>> graft(yaml.safe_load(open("yolov8.yaml")), "CBAM", "backbone")
    """
    name = registry.find(layer).name
    places = [at] if isinstance(at, (str, int)) else list(at)
    after = sorted({index for place in places for index in find_rows(model, place)})
    return insert(model, {index: [-1, 1, name, copy.deepcopy(list(args))] for index in after})


def find_rows(model: Mapping[str, Any], place: str | int) -> list[int]:
    """Return the indices of the rows that a place stands for.

    Raises:
        RowError: If the place does not exist in this model.
    """
    last = len(model["backbone"]) + len(model["head"]) - 1
    if isinstance(place, int) and not isinstance(place, bool):
        if not 0 <= place < last:
            raise RowError(f"at={place}: give the index of a row from 0 to {last - 1} (row {last} is the output)")
        return [place]
    if place == "backbone":
        return [len(model["backbone"]) - 1]
    if place == "neck":
        source = model["head"][-1][0]
        return sorted(_absolute(s, last) for s in ([source] if isinstance(source, int) else source))
    raise RowError(f"at={place!r}: give {', '.join(map(repr, PLACES))} or the index of a row")


def insert(model: Mapping[str, Any], rows: Mapping[int, list[Any]]) -> Model:
    """Return a copy of a model with ``rows[k]`` inserted after row ``k``; readers of ``k`` read the new row."""
    # moved[k]: where to find what row k used to give, the inserted row if there is one.
    moved: list[int] = []
    result = copy.deepcopy(dict(model))
    result["backbone"], result["head"] = [], []
    index = 0
    for part in ("backbone", "head"):
        for row in model[part]:
            source, *rest = copy.deepcopy(row)
            here = len(moved)
            single = isinstance(source, int)
            sources = [s if s == -1 else moved[_absolute(s, here)] for s in ([source] if single else source)]
            result[part].append([sources[0] if single else sources, *rest])
            if here in rows:
                result[part].append(copy.deepcopy(rows[here]))
                index += 1
            moved.append(index)
            index += 1
    return result


def _absolute(source: int, index: int) -> int:
    return index + source if source < 0 else source


def to_yaml(model: Mapping[str, Any], title: str) -> str:
    """Write a model the way people write them: one row a line, each with its index and the stride where it changes.

    Args:
        model: The model dictionary.
        title: Comment lines at the top.
    """
    lines = [f"# {line}".rstrip() for line in title.splitlines()] + [""]
    for key, value in model.items():
        if key == "scales":
            lines += ["scales: # [depth, width, max_channels]", *(f"  {k}: {_flow(v)}" for k, v in value.items())]
        elif key not in ("backbone", "head"):
            lines.append(f"{key}: {_flow(value)}")
    strides: list[int] = []
    previous = 1
    for part in ("backbone", "head"):
        lines += ["", f"{part}:", "  # [from, repeats, module, args]"]
        for row in model[part]:
            index = len(strides)
            strides.append(_stride(row, index, strides))
            changed = strides[-1] != previous and not isinstance(row[0], list)
            level = f"-P{strides[-1].bit_length() - 1}/{strides[-1]}" if changed else ""
            previous = strides[-1]
            lines.append(f"  - {_flow(row)} # {index}{level}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("\n...")


def _stride(row: Sequence[Any], index: int, strides: Sequence[int]) -> int:
    source, _, name, args = row
    first = _absolute(source if isinstance(source, int) else source[0], index)
    stride = strides[first] if first >= 0 else 1
    if name == "Conv" and len(args) > 2:
        return stride * args[2]
    if name == "nn.Upsample":
        return stride // args[1]
    return stride
