"""The keys of a model YAML: missing, unknown or repeated ones, and the scale asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ..errors import nearest
from .finding import Finding

PARTS = ("backbone", "head")
# What Ultralytics reads in a model YAML or writes into the dictionary, and the anchors of older files.
KEYS = (
    *PARTS, "nc", "scales", "scale", "depth_multiple", "width_multiple", "activation", "kpt_shape", "end2end",
    "reg_max", "text_model", "ch", "channels", "inplace", "yaml_file", "names", "anchors",
)  # fmt: skip


def repeated_keys(text: str) -> list[Finding]:
    """Return the keys that a YAML text gives more than once in one mapping: the last one holds, in silence."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return []
    found = []
    for path, lines in _key_lines(node, "") if node is not None else ():
        if len(lines) > 1:
            where = ", ".join(str(line) for line in lines)
            message = f"{path!r} is given {len(lines)} times, in lines {where}: only the last one is read"
            found.append(Finding(None, "key", message))
    return found


def _key_lines(node: Any, prefix: str) -> list[tuple[str, list[int]]]:
    """Return the keys of a mapping and of mappings in it, with their lines; aliases are not followed again."""
    lines: dict[str, list[int]] = {}
    below = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            lines.setdefault(name, []).append(key.start_mark.line + 1)
            if value.start_mark.index >= key.start_mark.index:  # an alias stands for what was said above
                below += _key_lines(value, f"{name}.")
    return [*lines.items(), *below]


def check_keys(model: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the keys of a model."""
    found = []
    unread = [key for key in model if key not in KEYS and not str(key).startswith(("_", ".", "x-"))]
    with_rows = [key for key in unread if _is_rows(model[key])]
    lower = {str(key).lower() for key in model}
    if lower.isdisjoint(PARTS) and not with_rows:
        return [Finding(None, "section", "it has neither 'backbone' nor 'head', so it is no model YAML", True)]
    for part in PARTS:
        if not (isinstance(model.get(part), (list, tuple)) and model[part]):
            near = nearest(part, map(str, unread), cutoff=0.7)
            hint = f"; its rows stand under {with_rows[0]!r}" if with_rows else near
            what = "is empty" if part in model else "is missing"
            found.append(Finding(None, "section", f"{part!r} {what}; it takes a list of rows{hint}", True))
    if with_rows:
        keys = " and ".join(map(repr, with_rows))
        are, their = ("is", "its") if len(with_rows) == 1 else ("are", "their")
        order = "" if len(with_rows) == 1 else ", in this order,"
        message = f"{keys} {are} not read by Ultralytics; move {their} rows{order} to the start of 'head' and renumber"
        found.append(Finding(None, "section", message))
    for key in unread:
        if key not in with_rows:
            hint = nearest(str(key), [known for known in KEYS if known not in model], cutoff=0.7)
            found.append(Finding(None, "key", f"{str(key)!r} is not read by Ultralytics{hint}"))
    head = model.get("head")
    last: Any = head[-1] if isinstance(head, (list, tuple)) and head else None
    nc = model.get("nc")
    if nc is None and is_row(last) and last[2] != "Classify":
        found.append(Finding(None, "key", "'nc' is missing: it gives the number of classes", True))
    elif nc is not None and (isinstance(nc, bool) or not isinstance(nc, int) or nc < 1):
        found.append(Finding(None, "key", f"nc: {nc!r} is no number of classes such as 80", True))
    return found + _check_scales(model.get("scales"), model.get("scale"))


def _check_scales(scales: Any, scale: Any) -> list[Finding]:
    """Return what is wrong with the scales, of which one is asked for; without a name the host takes the first."""
    if not isinstance(scales, Mapping) or not scales:
        return []
    if scale and scale not in list(scales):
        there = ", ".join(map(str, scales))
        message = f"scale {scale!r} is asked for, but 'scales' has {there}: add it there, or ask for one of these"
        return [Finding(None, "scale", message, True)]
    used = scale or next(iter(scales))
    return [
        Finding(None, "scale", f"scales: {name}: {values!r} is not [depth, width, max_channels]", name == used)
        for name, values in scales.items()
        if not isinstance(values, (list, tuple))
        or len(values) != 3
        or not all(isinstance(value, (int, float)) for value in values)
    ]


def is_row(value: Any) -> bool:
    """Return whether a value has the form of a row."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and isinstance(value[2], str)


def _is_rows(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_row, value))
