"""The checks of the rows of a model. Each finding says what was probably meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from reprlib import Repr

from .. import registry
from ..graft import NO_MAP, absolute, listed
from .finding import Finding
from .graph import Graph
from .keys import is_row

# Their inputs are levels of one pyramid, each half the size of the one before.
HEADS = frozenset(
    {"Detect", "WorldDetect", "YOLOEDetect", "v10Detect", "Segment", "Segment26", "YOLOESegment", "YOLOESegment26"}
    | {"Pose", "Pose26", "OBB", "OBB26", "RTDETRDecoder", "Depth", "SemanticSegment"}
)
_FIRST = (4, 8, 16)  # strides of a pyramid's first level


def check_rows(graph: Graph) -> list[Finding]:
    """Return what is wrong with rows that all read what is there."""
    return [finding for check in (_no_maps, _sizes, _head, _twice, _dead, _bypasses) for finding in check(graph)]


def find_missing_sources(graph: Graph) -> list[Finding]:
    """Return a finding for each row of another form and for each index from which a row cannot read."""
    found = []
    for index, row in enumerate(graph.rows):
        if not is_row(row):
            found.append(
                Finding(
                    index, "form", f"row {index}: {_short(row)} is not of the form [from, number, module, args]", True
                )
            )
            continue
        for source in row[0] if isinstance(row[0], (list, tuple)) and row[0] else [row[0]]:
            allowed = f"give -1 or an index from 0 to {index - 1}" if index else "the first row reads the input, -1"
            if not _is_there(source, index):
                message = f"row {index}: {graph.module(index)} reads from {_short(source)}; {allowed}"
                found.append(Finding(index, "from", message, True))
    return found


def _is_there(source: object, index: int) -> bool:
    """Return whether a row can read from ``source``."""
    if isinstance(source, bool) or not isinstance(source, int):
        return False
    return source == -1 if index == 0 else source < index and absolute(source, index) >= 0


def _no_maps(graph: Graph) -> Iterator[Finding]:
    """Yield rows that read what is no map."""
    for reader, sources in enumerate(graph.reads):
        for source in dict.fromkeys(s for s in sources if s >= 0):
            kind = graph.module(source)
            gives = "the output" if kind in HEADS else NO_MAP.get(kind)
            if gives and (kind, graph.module(reader)) != ("CBLinear", "CBFuse"):
                message = f"{graph.name(reader)}, reads {graph.name(source)}, which gives {gives}, not one map"
                yield Finding(reader, "size", message, True)
        maps = [s for s in sources[:-1] if s >= 0 and graph.module(s) != "CBLinear" and graph.is_known(s)]
        if graph.module(reader) == "CBFuse" and maps:
            message = f"{graph.name(reader)}, reads {graph.name(maps[0])}; all it reads but the last must be CBLinear"
            yield Finding(reader, "size", message, True)


def _twice(graph: Graph) -> Iterator[Finding]:
    """Yield rows that read one row more than once."""
    for reader, sources in enumerate(graph.reads):
        for source in dict.fromkeys(sources):
            if sources.count(source) > 1:
                what = graph.name(source) if source >= 0 else "the input"
                yield Finding(reader, "twice", f"{graph.name(reader)}, reads {sources}: {what}, more than once")


def _sizes(graph: Graph) -> Iterator[Finding]:
    """Yield rows that join maps of two sizes."""
    for index, sources in enumerate(graph.reads):
        strides = [graph.stride(source) for source in sources]
        args = graph.rows[index][3] if graph.module(index) == "Concat" else None
        if args in ([], [1]) and len({stride for stride in strides if stride is not None}) > 1:
            reads = [f"row {s} (stride {_number(stride)})" for s, stride in zip(sources, strides, strict=True)]
            message = f"{graph.name(index)}, joins maps of two sizes: {' and '.join(reads)}"
            yield Finding(index, "size", message + _other_size(graph, index, strides), True)


def _other_size(graph: Graph, index: int, strides: Sequence[float | None]) -> str:
    """Say which row near the one that is read by its number has a map of the size of the others."""
    written = listed(graph.rows[index][0])
    for position in sorted(range(len(written)), key=lambda position: written[position] < 0):
        others = {stride for other, stride in enumerate(strides) if other != position}
        fitting = [row for row in range(index - 1) if {graph.strides[row]} == others]
        if strides[position] not in others and fitting:
            wrong = graph.reads[index][position]
            best = min(fitting, key=lambda row: (abs(row - wrong), row < wrong))
            return f"; {best} instead of {wrong}?"
    return ""


def _head(graph: Graph) -> Iterator[Finding]:
    """Yield what is wrong with the last row, whose output is the model's."""
    last = len(graph.rows) - 1
    reads = graph.reads[last]
    if graph.module(last) not in HEADS:
        if graph.is_known(last):
            yield Finding(last, "head", f"{graph.name(last)}, gives the output, but it is no head such as Detect")
        return
    strides = [stride for stride in map(graph.stride, reads) if stride is not None]
    if len(strides) < len(reads) or _is_pyramid(strides):
        return
    by_size = sorted(range(len(reads)), key=lambda position: strides[position])
    if _is_pyramid([strides[position] for position in by_size]):
        meant = [reads[position] for position in by_size]
    else:
        meant = _levels(graph, strides)
    hint = f": {meant} instead?" if meant and meant != reads else ""
    said = f"{graph.name(last)}, reads {reads} with strides {', '.join(map(_number, strides))}"
    yield Finding(last, "head", f"{said}; it takes level after level, each of twice the stride{hint}")


def _levels(graph: Graph, strides: Sequence[float]) -> list[int]:
    """Return for each level that a head of these strides may mean its last row before the output, or nothing."""
    last = {stride: row for row, stride in enumerate(graph.strides[:-1]) if graph.module(row) != "Concat"}
    for first in dict.fromkeys((min(strides), 8.0)):
        wanted = [first]
        while len(wanted) < len(strides) or wanted[-1] < max(strides):
            wanted.append(2 * wanted[-1])
        if first in _FIRST and all(stride in last for stride in wanted):
            return [last[stride] for stride in wanted]
    return []


def _dead(graph: Graph) -> Iterator[Finding]:
    """Yield rows from which no path leads to the output: those that no row reads, with those behind them."""
    dead = set(range(len(graph.rows))) - graph.live()
    told: set[int] = set()
    for index in sorted(dead):
        if not graph.readers[index]:
            behind = sorted((graph.behind(index) & dead) - told)
            told.update(behind)
            rows = f"{'rows' if len(behind) > 1 else 'row'} {', '.join(map(str, behind))}"
            only = f", {rows} only by rows that lead to it," if behind else ""
            message = f"{graph.name(index)}, is read by no row{only} and learns nothing{_instead(graph, index)}"
            yield Finding(index, "dead", message)


def _instead(graph: Graph, index: int) -> str:
    """Say which row probably meant to read a row that no row reads."""
    after = index + 2
    for reader in range(after + 1, len(graph.rows)):
        # A row was inserted between the two that a Concat reads as -2 and -1.
        if graph.reads[reader] == [index + 1, after] and graph.reads[after] == [index + 1]:
            return f"; {graph.module(reader)} reads {graph.reads[reader]}: {index} instead of {index + 1}?"
    choices = [
        (index - source, -reader, source)
        for reader in range(index + 1, len(graph.rows))
        for source in graph.reads[reader]
        if 0 <= source < index and len(graph.reads[reader]) > 1 and _may_replace(graph, index, source)
    ]
    if not choices:
        return ""
    _, reader, source = min(choices)
    return f"; {graph.module(-reader)} reads {graph.reads[-reader]}: {index} instead of {source}?"


def _may_replace(graph: Graph, row: int, other: int) -> bool:
    stride = graph.strides[row]
    return other in graph.reads[row] or (stride is not None and stride == graph.strides[other])


def _bypasses(graph: Graph) -> Iterator[Finding]:
    """Yield rows that read a row in the middle of a stage, past the row after it, which works on it."""
    live = graph.live()
    for reader, sources in enumerate(graph.reads):
        for source in sources:
            after = source + 1
            if source < 0 or after == reader or not {reader, after} <= live or not graph.goes_on(source):
                continue
            if graph.stage(after) & set(sources) or (len(sources) == 1 and _is_branch(graph, source, reader)):
                continue
            message = f"{graph.name(reader)}, reads {graph.name(source)}, past {graph.name(after)}, which works on it"
            yield Finding(reader, "bypass", f"{message}: {graph.end(after)} instead of {source}?")


def _is_branch(graph: Graph, source: int, reader: int) -> bool:
    """Return whether a row that reads one row alone, past the row after it, may do so on purpose."""
    after = source + 1
    ours = registry.names()
    joins = graph.module(graph.reads[source][0] if graph.module(source) in ours else source) == "Concat"
    is_stage = any(graph.shrinks(row) for row in graph.readers[graph.end(after)])
    meet = bool(graph.stage(after) & graph.stage(reader))
    return meet or not (graph.module(after) in ours or joins or is_stage)


def _is_pyramid(strides: Sequence[float]) -> bool:
    """Return whether strides are those of levels in their order."""
    return all(b == 2 * a for a, b in pairwise(strides)) and (len(strides) == 1 or strides[0] in _FIRST)


def _short(value: object) -> str:
    """Return a value as it is written, cut where it is long: aliases can make it endless."""
    cut = Repr()
    cut.maxlevel, cut.maxlist, cut.maxtuple, cut.maxdict, cut.maxstring, cut.maxother = 3, 5, 5, 5, 60, 60
    return cut.repr(value)


def _number(stride: float | None) -> str:
    return "unknown" if stride is None else f"{stride:g}"
