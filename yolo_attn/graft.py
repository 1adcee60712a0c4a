"""Surgery on a model YAML: insert attention rows, renumber what moved, let every reader read the attention.

Pure functions from dictionary to dictionary; nothing here knows Ultralytics' classes, only the form of its rows:
``[from, repeats, module, args]`` in ``backbone`` and ``head``, where ``from`` is an index or a list of indices.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from . import blocks, registry
from .errors import RowError, nearest

Model = dict[str, Any]
Graft = tuple[str, str | int | Sequence[str | int], Sequence[Any]]
# Inside the blocks of these parts of a model; they insert no row.
BLOCK_PLACES = {"blocks": ("backbone", "head"), "backbone-blocks": ("backbone",), "neck-blocks": ("head",)}
PLACES = ("backbone", "stages", "neck", *BLOCK_PLACES)
PLACE = r"stages|blocks|(?:backbone|neck)(?:-p[1-9]|-blocks)?"  # as the name of a model gives it
_LEVEL = re.compile(r"(backbone|neck)-p([1-9])")

# Factor by which a row shrinks the map; modules that are not named keep its size.
SHRINK: dict[str, Callable[[Sequence[Any]], float]] = {
    **dict.fromkeys(("Conv", "DWConv", "GhostConv", "SCDown"), lambda args: args[2] if len(args) > 2 else 1),
    **dict.fromkeys(("ADown", "AConv", "Focus"), lambda args: 2),
    "HGStem": lambda args: 4,
    "ResNetLayer": lambda args: 4 if args[3] else args[2],
    "nn.MaxPool2d": lambda args: args[1] if len(args) > 1 else args[0],
    "nn.Upsample": lambda args: 1 / args[1],
    **dict.fromkeys(("ConvTranspose", "nn.ConvTranspose2d"), lambda args: 1 / args[2]),
    "TorchVision": lambda args: 32,  # a classification backbone
}
# Their output is no single map.
NO_MAP = {"CBLinear": "several maps", "ImagePoolingAttn": "text features"}


def graft(model: Mapping[str, Any], layer: str, at: str | int | Sequence[str | int], args: Sequence[Any] = ()) -> Model:
    """Return a copy of a model with an attention layer inserted.

    Every row that read the layer before an insertion reads the attention afterwards.

    Args:
        model: A model dictionary with ``backbone`` and ``head``; it is not changed.
        layer: YAML name or alias of the layer, or ``timm-<name>`` for a layer of timm.
        at: A place, or several: ``"backbone"`` (after its last row), ``"stages"`` (after the last row of each backbone
            stage from P2 on), ``"neck"`` (after each row that feeds the head), one level of them
            (``"backbone-p4"``, ``"neck-p3"``), the index of a row to insert after, or ``"blocks"``
            (``"backbone-blocks"``, ``"neck-blocks"``): no row, but inside each bottleneck of the blocks that are there.
        args: Arguments of the row: positional ones, or one mapping, or both.

    Raises:
        UnknownLayerError: If there is no such layer.
        RowError: If a place does not exist in this model.

    Example:
        >>> graft(yaml.safe_load(open("yolov8.yaml")), "CBAM", "backbone")
    """
    return graft_all(model, [(layer, at, args)])


def graft_all(model: Mapping[str, Any], grafts: Iterable[Graft]) -> Model:
    """Return a copy of a model with several layers inserted; places and indices are those of the model given.

    Args:
        model: A model dictionary; it is not changed.
        grafts: Layer, place and arguments as ``graft`` takes them. At the same row the first comes first.
    """
    grafts = list(grafts)
    return insert(fill(model, grafts), plan(model, grafts))


def plan(model: Mapping[str, Any], grafts: Iterable[Graft]) -> dict[int, list[list[Any]]]:
    """Return the rows that ``graft_all`` inserts after each row of a model."""
    rows: dict[int, list[list[Any]]] = {}
    for name, args, places in _by_place(grafts):
        found = {index for place in places if place not in BLOCK_PLACES for index in find_rows(model, place)}
        for index in sorted(found):
            rows.setdefault(index, []).append([-1, 1, name, list(args)])
    return dict(sorted(rows.items()))


def fill(model: Mapping[str, Any], grafts: Iterable[Graft]) -> Model:
    """Return a copy of a model with the layers of ``graft_all`` that stand inside blocks.

    Raises:
        RowError: If a part of the model has no block with bottlenecks, or one of them has attention inside.
    """
    result = copy.deepcopy(dict(model))
    for name, args, places in _by_place(grafts):
        for place in places:
            if place in BLOCK_PLACES:
                rows = [*result["backbone"], *result["head"]]
                for index in _holders(result, str(place)):
                    row = rows[index]
                    if inside := blocks.attention_of(row):
                        raise RowError(f"at={place!r}: row {index}, {row[2]}, has {inside[0]} inside; one is allowed")
                    row[:] = blocks.with_attention(row, name, copy.deepcopy(list(args)))
    return result


def _by_place(grafts: Iterable[Graft]) -> Iterator[tuple[str, list[Any], Sequence[str | int]]]:
    """Yield module, arguments and places of each graft."""
    for layer, at, args in grafts:
        name, given = registry.row_of(layer)
        yield name, [*given, *args], [at] if isinstance(at, (str, int)) else at


def _holders(model: Mapping[str, Any], place: str) -> list[int]:
    """Return the indices of the rows of a place whose blocks hold bottlenecks."""
    parts = [part for part in ("backbone", "head") for _ in model[part]]
    rows = enumerate(zip(parts, [*model["backbone"], *model["head"]], strict=True))
    found = [index for index, (part, row) in rows if part in BLOCK_PLACES[place] and blocks.is_holder(row)]
    if not found:
        raise RowError(f"at={place!r}: no block there has bottlenecks. Blocks that have: {', '.join(blocks.HOLDERS)}")
    return found


def find_rows(model: Mapping[str, Any], place: str | int) -> list[int]:
    """Return the indices of the rows that a place stands for.

    Raises:
        RowError: If the place does not exist in this model.
    """
    rows = [*model["backbone"], *model["head"]]
    last = len(rows) - 1
    if isinstance(place, int) and not isinstance(place, bool):
        if not 0 <= place < last:
            raise RowError(f"at={place}: give the index of a row from 0 to {last - 1} (row {last} is the output)")
        found = [place]
    elif place == "backbone":
        found = [len(model["backbone"]) - 1]
    elif place == "stages":
        found = list(_stages(model).values())
    elif place == "neck":
        found = _feeding(model)
    elif place in BLOCK_PLACES:
        found = _holders(model, str(place))
    elif isinstance(place, str) and (level := _LEVEL.fullmatch(place)):
        levels = _stages(model) if level[1] == "backbone" else _neck(model)
        if int(level[2]) not in levels:
            there = ", ".join(f"{level[1]}-p{number}" for number in levels)
            raise RowError(f"at={place!r}: this model has {there}")
        found = [levels[int(level[2])]]
    else:
        hint = "say which: 'backbone-" + f"{place}' or 'neck-{place}'" if re.fullmatch(r"p\d", str(place)) else ""
        raise RowError(
            f"at={place!r}: {hint or 'give ' + ', '.join(map(repr, PLACES))}, a level such as 'backbone-p4' or "
            f"'neck-p3', or the index of a row{nearest(str(place), PLACES)}"
        )
    for index in found:
        if rows[index][2] in NO_MAP:
            raise RowError(f"at={place!r}: row {index}, {rows[index][2]}, gives {NO_MAP[rows[index][2]]}, not one map")
    return found


def split_arguments(args: Sequence[Any] | Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Split the arguments of a row into positional ones and the keywords of a mapping at the end."""
    positional = [args] if isinstance(args, Mapping) else list(args)
    keywords = positional.pop() if positional and isinstance(positional[-1], Mapping) else {}
    return positional, dict(keywords)


def set_gate(args: Sequence[Any] | Mapping[str, Any], gate: bool) -> list[Any]:
    """Return the arguments of a row with ``gate`` said in them."""
    positional, keywords = split_arguments(args)
    return [*positional, {**keywords, "gate": gate}]


def without_gates(model: Mapping[str, Any]) -> Model:
    """Return a copy of a model whose attention rows keep the paper's start in pretrained weights."""
    result = copy.deepcopy(dict(model))
    ours = registry.names()
    for row in (*result["backbone"], *result["head"]):
        if row[2] in ours:
            row[3] = set_gate(row[3], False)
        elif inside := blocks.attention_of(row):
            row[3] = blocks.with_attention(row, inside[0], set_gate(inside[1], False))[3]
    return result


def strides(model: Mapping[str, Any]) -> list[int]:
    """Return the stride of every row: pixels of the input for one of its map (0 for the output row)."""
    result: list[int] = []
    for index, (source, _, name, args) in enumerate([*model["backbone"], *model["head"]]):
        # Concat joins maps of one size, CBFuse resizes to the last one.
        first = absolute(listed(source)[-1], index)
        stride = result[first] if first >= 0 else 1
        result.append(round(stride * SHRINK[name](args)) if name in SHRINK else stride)
    result[-1] = 0
    return result


def _stages(model: Mapping[str, Any]) -> dict[int, int]:
    """Return for each level of the backbone, from P2 on, its last row."""
    ends: dict[int, int] = {}
    for index, (row, stride) in enumerate(zip(model["backbone"], strides(model), strict=False)):
        if row[2] not in NO_MAP and stride >= 4:
            ends[stride.bit_length() - 1] = index
    return dict(sorted(ends.items()))


def _neck(model: Mapping[str, Any]) -> dict[int, int]:
    """Return for each level that the head reads the row that feeds it."""
    every = strides(model)
    return dict(sorted((every[row].bit_length() - 1, row) for row in _feeding(model)))


def _feeding(model: Mapping[str, Any]) -> list[int]:
    """Return the rows that feed the head."""
    source, last = model["head"][-1][0], len(model["backbone"]) + len(model["head"]) - 1
    return sorted(absolute(s, last) for s in listed(source))


def insert(model: Mapping[str, Any], rows: Mapping[int, Sequence[list[Any]]]) -> Model:
    """Return a copy of a model with ``rows[k]`` inserted after row ``k``; readers of ``k`` read the last of them."""
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
            sources = [s if s == -1 else moved[absolute(s, here)] for s in listed(source)]
            new = [copy.deepcopy(list(r)) for r in rows.get(here, ())]
            result[part] += [[sources[0] if single else sources, *rest], *new]
            moved.append(index + len(new))
            index += 1 + len(new)
    return result


def remove(model: Mapping[str, Any], names: Container[str]) -> Model:
    """Return a copy of a model without the rows of the named modules, whose readers read what they read.

    Blocks that have one of the named modules inside lose it.
    """
    moved: list[int] = []
    result = copy.deepcopy(dict(model))
    result["backbone"], result["head"] = [], []
    kept = 0
    for part in ("backbone", "head"):
        for row in model[part]:
            inside = blocks.layers_of(row)[1:]
            source, *rest = copy.deepcopy(blocks.without_attention(row) if inside and inside[0] in names else row)
            here = len(moved)
            single = isinstance(source, int)
            reads = [absolute(s, here) for s in listed(source)]
            if row[2] in names:
                moved.append(moved[reads[0]] if reads[0] >= 0 else -1)
                continue
            there = [moved[s] if s >= 0 else s for s in reads]
            # -1 stays -1 where it still means the row before.
            sources = [-1 if s in (kept - 1, -1) and o == -1 else s for s, o in zip(there, listed(source), strict=True)]
            result[part].append([sources[0] if single else sources, *rest])
            moved.append(kept)
            kept += 1
    return result


def listed(source: int | Sequence[int]) -> list[int]:
    """Return what a row reads as a list."""
    return [source] if isinstance(source, int) else list(source)


def absolute(source: int, index: int) -> int:
    """Return the index that ``source`` means in row ``index``; below 0 it is the input."""
    return index + source if source < 0 else source


def split_name(name: str) -> list[tuple[str, str, str]]:
    """Return the ways to read a model's name as ``<base>-<slug>[-<place>]``, the longest base first.

    Args:
        name: Name without ``.yaml``, such as ``yolo26n-seg-biformer-neck``; an alias may stand for the slug.

    Returns:
        Base, YAML name of the layer or ``timm-<name>``, place (``"backbone"`` if none is named).

    Example:
        >>> split_name("yolo26n-seg-biformer-neck")
        [('yolo26n-seg', 'BiFormer', 'neck')]
    """
    readings = []
    for slug, layer in registry.slugs().items():
        pattern = rf"(.+)-{re.escape(slug)}(?:-({PLACE}))?"
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match and not match[1].lower().endswith("-timm"):  # timm-eca is one word
            readings.append((match[1], layer.slug if layer.given else layer.name, (match[2] or "backbone").lower()))
    return sorted(readings, key=lambda reading: -len(reading[0]))


def split_names(name: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the ways to read a model's name as a base and one layer or several, the longest base first.

    Example:
        >>> split_names("yolov8n-cbam-caa-neck")
        [('yolov8n-cbam', [('CAA', 'neck')]), ('yolov8n', [('CBAM', 'backbone'), ('CAA', 'neck')])]
    """
    readings: list[tuple[str, list[tuple[str, str]]]] = []
    for base, *last in split_name(name):
        layer = (last[0], last[1])
        readings += [(base, [layer]), *((first, [*layers, layer]) for first, layers in split_names(base))]
    return sorted(readings, key=lambda reading: -len(reading[0]))


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
    every, previous, index = strides(model), 1, 0
    for part in ("backbone", "head"):
        lines += ["", f"{part}:", "  # [from, repeats, module, args]"]
        for row in model[part]:
            stride = every[index]
            level = f"-P{stride.bit_length() - 1}/{stride}" if stride not in (0, previous) else ""
            lines.append(f"  - {_flow(row)} # {index}{level}")
            previous = stride
            index += 1
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("\n...")
