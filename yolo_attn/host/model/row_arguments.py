"""The arguments of a row as people write them: pasted widths, another class's order, strings, keywords."""

from __future__ import annotations

import ast
import contextlib
import json
import keyword
from collections import UserString
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from ... import registry
from ...blocks import KEY
from ...errors import ArgumentError, RowError
from ...graft import split_arguments
from ...layers import _pasted
from ...table import Layer

_LEAST_WIDTH = 64  # a smaller leading number is an argument, such as a reduction
_told: set[tuple[str, int]] = set()


@dataclass(frozen=True)
class Source:
    """The width of the row that a row reads: as built at this scale, and as the YAML writes it if it does."""

    width: int
    written: int | None
    scale: str
    is_ambiguous: bool  # whether the file means another width where it writes the number that ``width`` is
    is_inside: bool = False  # whether it is a bottleneck of a block, whose width no row writes

    def stands_for(self, number: Any) -> bool:
        """Return whether a number in a row is the width, at every scale that the file has."""
        return number == self.written or (number == self.width and not self.is_ambiguous)

    def deny(self, number: int) -> str:
        """Say why a number is not the width."""
        at = f" at scale {self.scale!r}" if self.scale else ""
        written = "" if self.written is None else f" (written {self.written})"
        holder = "the bottleneck" if self.is_inside else "the row it reads"
        if number == self.width:
            return f"{number} is the width of {holder}{at} alone{written}"
        return f"{number} is not the width of {holder}, {self.width}{at}{written}"


def find_source(d: Mapping[str, Any], widths: Sequence[int], i: int, f: int) -> Source:
    """Return what row ``i`` reads when it reads row ``f``; ``widths`` are those of the rows before."""
    written = _written_width(d, widths, i + f if f < 0 else f)
    scales = d.get("scales") or {}
    scale = _scale(d)
    rows = [row for index, row in enumerate(rows_of(d)) if index != i]
    others = {row[3][0] for row in rows if isinstance(row[3], (list, tuple)) and row[3] and _is_number(row[3][0])}
    # What fits one scale of several is a width only where nothing else can be meant by it.
    is_ambiguous = written is not None and scale != next(iter(scales), scale) and widths[f] in others
    return Source(widths[f], written, str(scale or ""), is_ambiguous)


def read(layer: Layer, name: str, args: Sequence[Any], source: Source) -> tuple[list[Any], dict[str, Any], list[str]]:
    """Return the positional arguments, the keywords and what to tell the user about them.

    Args:
        layer: Row of the table.
        name: The name that the row gives it.
        args: The row's arguments, as ``hold`` left them.
        source: What the row reads.

    Raises:
        RowError: If a number can only be meant as a width and is none, or another class's arguments do not fit.
        ArgumentError: If a keyword gives another width.
    """
    given = [_release(value) for value in args]
    positional, keywords = split_arguments(given)
    if any(isinstance(a, Mapping) for a in positional):
        raise RowError(f"{name} has arguments {given!r}; a mapping of keywords must be the last one")
    for key, equals, value in (a.partition("=") for a in positional if isinstance(a, str)):
        if equals and key.strip() in (*layer.arguments, "gate"):
            raise RowError(f"{name}: write {{{key.strip()}: {value.strip()}}} for {key + equals + value!r}")
    keywords = {str(key): literal(value) for key, value in keywords.items()}
    keywords = registry.without_widths(layer, keywords, (source.width, source.written or source.width))
    positional, dropped = _without_widths(positional, source)
    said = []
    if dropped:
        ignored = ", ".join(map(str, dropped))
        said.append(f"{name} takes its width ({source.width}) from the row it reads; {ignored} ignored")
    order = _pasted.find_order(layer.name, positional, source.width, len(dropped) > 1, in_row=True)
    if order and keywords.keys().isdisjoint(order.arguments):
        ours = _pasted.ours(layer.name, order, positional, layer.arguments, name)
        if ours:
            said.append(_order_of(layer, order, positional, ours))
        return [], {**ours, **keywords}, said
    if doubt := _pasted.doubt(layer.name, positional, source.width, len(dropped) > 1, layer.arguments, name):
        said.append(doubt)
    if positional and _is_width(positional[0]) and not _may_be_large(layer, bool(dropped)):
        raise RowError(_no_width(layer, name, positional, source))
    return positional, keywords, said


def bind_row(layer: Layer, name: str, args: Sequence[Any], source: Source) -> tuple[list[Any], bool, list[str]]:
    """Return the constructor's arguments, the width first, whether there is a gate, and what to tell the user.

    Args and errors are those of ``read``, and ArgumentError if the arguments do not fit the constructor.
    """
    positional, keywords, said = read(layer, name, args, source)
    gate = keywords.pop("gate", False)
    if not isinstance(gate, bool):
        raise RowError(f"{name}: gate={gate!r} must be true or false")
    bound = registry.bind(name, source.width, positional, keywords)
    registry.refuse_giants(layer, bound)
    return bound, gate, said


def _without_widths(positional: list[Any], source: Source) -> tuple[list[Any], list[int]]:
    """Return arguments without the width in front, or two of them for input and output, and what was dropped."""
    dropped: list[int] = []
    while positional and _is_width(positional[0]) and len(dropped) < 2:
        number = positional[0]
        if not (number == dropped[0] if dropped else source.stands_for(number)):
            break
        dropped.append(number)
        positional = positional[1:]
    return positional, dropped


def _order_of(layer: Layer, order: _pasted.Order, positional: Sequence[Any], ours: Mapping[str, Any]) -> str:
    """Say how arguments in another class's order are read."""
    values = ", ".join(map(str, positional))
    if len(ours) == len(positional) == 1:
        ((key, _),) = ours.items()
        return f"{values} is read as {key}, as in {order.usage}; write {{{layer.arguments[0]}: {values}}} for the other"
    return f"{values} is read as {_pasted.written(ours)}, as in {order.usage}"


def _no_width(layer: Layer, name: str, positional: Sequence[Any], source: Source) -> str:
    keywords = dict(zip(layer.arguments, positional, strict=False))
    meant = ", ".join(f"{key}: {_text(value)}" for key, value in keywords.items())
    widths = 2 if positional[:1] == positional[1:2] else 1  # input and output
    rest = [*map(_text, positional[widths:])]
    write, other = f"[{', '.join(rest)}]", f"{{{meant}}}"
    if source.is_inside:
        write = f"{{{KEY}: [{', '.join([name, *rest])}]}}" if rest else f"{{{KEY}: {name}}}"
        other = f"{{{KEY}: [{name}, {other}]}}"
    return f"{name}: {source.deny(positional[0])}. {name} takes its width from there: write {write}" + (
        f", or {other} if that is meant" if meant and _can_be_built(layer, source.width, keywords) else ""
    )


def _can_be_built(layer: Layer, width: int, keywords: Mapping[str, Any]) -> bool:
    try:
        registry.refuse_giants(layer, registry.bind(layer.name, width, (), keywords))
    except (ArgumentError, ValueError):
        return False
    return True


def _text(value: Any) -> str:
    return json.dumps(value, default=str)  # which YAML reads


def _may_be_large(layer: Layer, has_width: bool) -> bool:
    """Return whether a large number that is not the width can be the first argument, which then is a width itself."""
    parameter = next(iter(layer.parameters()), None)
    if parameter is None or parameter.default is parameter.empty:
        return parameter is not None
    return has_width and (parameter.default is None or _is_width(parameter.default))


def hold(args: Sequence[Any]) -> list[Any]:
    """Return the arguments of a row with their strings read, where the host would stumble over one.

    The host reads strings as literals or as names of its own, such as ``nc``, and leaves others alone.
    """
    return [_hold(value) if isinstance(value, str) else value for value in args]


def _hold(text: str) -> Any:
    if text.isidentifier() and not keyword.iskeyword(text):
        return text
    value = literal(text)
    return UserString(value) if isinstance(value, str) else value


def _release(value: Any) -> Any:
    return value.data if isinstance(value, UserString) else value


def literal(value: Any) -> Any:
    """Read ``None``, ``True`` and numbers written as strings, as the host does for positional arguments."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ast.literal_eval(value)
    return value


def tell_once(d: Mapping[str, Any], i: int, said: Sequence[str]) -> None:
    """Log how the arguments of row ``i`` are read, the first time that its model is built."""
    from ultralytics.utils import LOGGER

    file = str(d.get("yaml_file") or "model")
    if said and (file, i) not in _told:
        _told.add((file, i))
        LOGGER.info(f"{file}, row {i}: {'; '.join(said)}")


def rows_of(d: Mapping[str, Any]) -> list[Any]:
    """Return the rows of a model dictionary."""
    return [*d["backbone"], *d["head"]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_width(value: Any) -> bool:
    return _is_number(value) and value >= _LEAST_WIDTH


def _scale(d: Mapping[str, Any]) -> Any:
    return d.get("scale") or next(iter(d.get("scales") or {}), None)


def _written_width(d: Mapping[str, Any], widths: Sequence[int], index: int) -> int | None:
    """Return the unscaled width that the YAML gives a row, or None if it gives none."""
    if not 0 <= index < len(widths) or index >= len(rows_of(d)):
        return None
    sources, _, name, args = rows_of(d)[index]
    if name == "Concat":
        parts = [_written_width(d, widths, index + s if s < 0 else s) for s in sources]
        return None if None in parts else sum(part for part in parts if part is not None)
    first = args[0] if isinstance(args, (list, tuple)) and args else None
    if isinstance(first, int) and _is_number(first) and widths[index] in (first, _scaled(d, first)):
        return first
    if isinstance(sources, int):
        before = index + sources if sources < 0 else sources
        if 0 <= before < index and widths[before] == widths[index]:
            return _written_width(d, widths, before)
    return None


def _scaled(d: Mapping[str, Any], number: int) -> int:
    """Return the width that the host makes of a written one."""
    scales = d.get("scales")
    gain, most = (scales[_scale(d)])[1:3] if scales else (d.get("width_multiple", 1.0), float("inf"))
    return ceil(min(number, most) * gain / 8) * 8
