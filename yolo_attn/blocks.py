"""Attention inside a block, as a row writes it: ``[-1, 3, C2f, [128, True, {attention: CBAM}]]``.

Each bottleneck of the block gets the layer at the end of its residual branch: ``x + A(cv2(cv1(x)))``, the place that
SE-ResNet and the paper of CBAM give it. Pure functions on rows.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from .errors import RowError, nearest

KEY = "attention"
Row = list[Any]


def _always(args: Sequence[Any]) -> bool:
    return True


# Modules of the host that hold bottlenecks, some of them by their arguments alone.
HOLDERS: dict[str, Callable[[Sequence[Any]], bool]] = {
    **dict.fromkeys(("Bottleneck", "BottleneckCSP", "C2", "C2f", "C2fAttn", "C2fCIB"), _always),
    **dict.fromkeys(("C3", "C3Ghost", "C3k2", "C3x", "GhostBottleneck", "RepNCSPELAN4"), _always),
    "A2C2f": lambda args: len(args) > 1 and args[1] in (False, "False"),  # with area attention it has none
    "ResNetLayer": lambda args: len(args) < 4 or args[3] in (False, "False"),  # the first one is a plain convolution
}


def is_holder(row: Sequence[Any]) -> bool:
    """Return whether a row's block holds bottlenecks."""
    return row[2] in HOLDERS and HOLDERS[row[2]](row[3])


def attention_of(row: Sequence[Any]) -> tuple[str, list[Any]] | None:
    """Return name and arguments of the attention inside a row's block, or None if there is none.

    Raises:
        RowError: If it is written in another form.
    """
    keywords = _keywords(row)
    if keywords is None or KEY not in keywords:
        return None
    value = keywords[KEY]
    if len(keywords) > 1:
        others = ", ".join(map(repr, (key for key in keywords if key != KEY)))
        write = {
            KEY: [*(value if isinstance(value, list) else [value]), {k: keywords[k] for k in keywords if k != KEY}]
        }
        raise RowError(
            f"{row[2]} takes the keyword {KEY!r} alone, not {others}; arguments of the layer: {_flow(write)}"
        )
    listed = [value] if isinstance(value, str) and value != "None" else value
    if not isinstance(listed, (list, tuple)) or not listed or not isinstance(listed[0], str):
        raise RowError(
            f"{row[2]}: {KEY}: {value!r} names no layer; write {{{KEY}: CBAM}} or {{{KEY}: [CBAM, {{reduction: 8}}]}}, "
            "or leave it out"
        )
    return listed[0], list(listed[1:])


def find_slip(row: Sequence[Any], layers: Container[str] = ()) -> str:
    """Say what is wrong with how a row of the host's asks for attention; "" if nothing is.

    Args:
        row: The row.
        layers: Names of layers, which say in a block's row that attention is meant.
    """
    args = row[3]
    if isinstance(args, Mapping) and KEY in args:
        return f"{row[2]} takes its own arguments first, in a list; write [128, {_flow(dict(args))}]"
    for value in args if isinstance(args, (list, tuple)) else ():
        if isinstance(value, Mapping) and KEY in value and value is not args[-1]:
            return f"{row[2]}: {_flow(dict(value))} must be the last of its arguments"
        if isinstance(value, str) and (value.strip("{ ").startswith((f"{KEY}:", f"{KEY}="))):
            return f"{row[2]}: {value!r} is text; write {{{KEY}: CBAM}}"
        if isinstance(value, str) and row[2] in HOLDERS and value in layers:
            return f"{row[2]} has no argument {value!r}; write {{{KEY}: {value}}} for {value} inside"
    for key in _keywords(row) or ():
        if key == KEY:
            return ""
        if str(key).lower() == "att" or nearest(str(key).lower(), [KEY], cutoff=0.6):
            return f"{row[2]} has no keyword {key!r}; did you mean {KEY!r}?"
        if row[2] in HOLDERS and key in layers:
            return f"{row[2]} has no keyword {key!r}; write {{{KEY}: {key}}} for {key} inside"
    return ""


def with_attention(row: Sequence[Any], name: str, args: Sequence[Any] = ()) -> Row:
    """Return a row whose block has a layer inside, in place of one that is there."""
    bare = without_attention(row)
    value = [name, *args] if args else name
    return [*bare[:3], [*bare[3], {KEY: value}]]


def without_attention(row: Sequence[Any]) -> Row:
    """Return a row without attention inside its block."""
    keywords = _keywords(row)
    return list(row) if keywords is None or KEY not in keywords else [*row[:3], list(row[3][:-1])]


def layers_of(row: Any) -> list[str]:
    """Return what a row names that may be a layer: its module and the attention inside; nothing if it is no row."""
    if not isinstance(row, (list, tuple)) or len(row) < 3 or not isinstance(row[2], str):
        return []
    try:
        inside = attention_of(row) if len(row) == 4 else None
    except RowError:
        inside = None
    return [row[2], *([inside[0]] if inside else [])]


def _keywords(row: Sequence[Any]) -> Mapping[str, Any] | None:
    args = row[3]
    last = args[-1] if isinstance(args, (list, tuple)) and args else None
    return last if isinstance(last, Mapping) else None


def _flow(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()
