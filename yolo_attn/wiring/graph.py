"""The rows of a model YAML as a graph: what each reads, who reads it, and at what stride.

A stride is known only where every module on the way is known to keep the map's size or to change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import registry
from ..graft import SHRINK, absolute, listed
from .keys import PARTS, is_row

_KEEP = frozenset(
    {"A2C2f", "AIFI", "Bottleneck", "BottleneckCSP", "C1", "C2", "C2f", "C2fAttn", "C2fCIB", "C2fPSA", "C2PSA", "C3"}
    | {"C3Ghost", "C3k2", "C3TR", "C3x", "CBFuse", "CBLinear", "Concat", "ELAN1", "HGBlock", "PSA", "RepC3"}
    | {"RepNCSPELAN4", "SPP", "SPPELAN", "SPPF", "nn.BatchNorm2d", "nn.Dropout", "nn.Identity", "nn.LeakyReLU"}
    | {"nn.ReLU", "nn.SiLU", "nn.ZeroPad2d"}
)
# The model itself hands their output on.
READ_BY_THE_MODEL = frozenset({"ImagePoolingAttn"})


@dataclass(frozen=True)
class Graph:
    """The rows of a model as a graph.

    Attributes:
        rows: ``backbone`` and ``head`` in one list.
        reads: Index of each row that a row reads, -1 for the input.
        readers: Rows that read a row.
        strides: Stride of each row's map, None where a module on the way is not known.
    """

    rows: list[Any]
    reads: list[list[int]]
    readers: list[list[int]]
    strides: list[float | None]

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Graph:
        """Return the graph of a model that has both its parts."""
        rows = [row for part in PARTS for row in model[part]]
        reads = [_sources(row, index) for index, row in enumerate(rows)]
        readers: list[list[int]] = [[] for _ in rows]
        for index, sources in enumerate(reads):
            for source in dict.fromkeys(sources):
                if 0 <= source < len(rows):
                    readers[source].append(index)
        graph = cls(rows, reads, readers, [])
        for index, row in enumerate(rows):
            graph.strides.append(_stride(row, [graph.stride(source) for source in reads[index]]))
        return graph

    def stride(self, source: int) -> float | None:
        """Return the stride of what a row reads, 1 for the input."""
        return 1.0 if source < 0 else self.strides[source] if source < len(self.strides) else None

    def name(self, index: int) -> str:
        """Return a row in words: ``row 22, CBAM``."""
        return f"row {index}, {self.module(index)}"

    def module(self, index: int) -> str:
        """Return the name of a row's module."""
        return self.rows[index][2] if is_row(self.rows[index]) else "?"

    def is_known(self, index: int) -> bool:
        """Return whether it is known what a row does to the size of a map."""
        name = self.module(index)
        return name in _KEEP or name in SHRINK or name in registry.names()

    def live(self) -> set[int]:
        """Return the rows from which a path leads to the output."""
        ends = [index for index in range(len(self.rows)) if self.module(index) in READ_BY_THE_MODEL]
        ends.append(len(self.rows) - 1)
        return set(ends).union(*map(self.behind, ends))

    def behind(self, index: int) -> set[int]:
        """Return the rows from which a path leads to a row."""
        found: set[int] = set()
        todo = list(self.reads[index])
        while todo:
            source = todo.pop()
            if source >= 0 and source not in found:
                found.add(source)
                todo += self.reads[source]
        return found

    def shrinks(self, index: int) -> bool:
        """Return whether a row makes the map smaller."""
        source, own = self.stride(self.reads[index][0]), self.strides[index]
        return source is not None and own is not None and own > source

    def goes_on(self, index: int) -> bool:
        """Return whether the next row works on a row's map, and on nothing else, without changing its size."""
        after = index + 1
        size = self.strides[index]
        return after < len(self.rows) and self.reads[after] == [index] and None is not size == self.strides[after]

    def stage(self, index: int) -> set[int]:
        """Return the rows that come from a row without a change of size."""
        found, todo = set(), [index]
        while todo:
            row = todo.pop()
            if row not in found:
                found.add(row)
                todo += [r for r in self.readers[row] if self.strides[r] == self.strides[index]]
        return found

    def end(self, index: int) -> int:
        """Return the last of the rows from here that follow one another without a change of size."""
        while self.goes_on(index):
            index += 1
        return index


def _sources(row: Any, index: int) -> list[int]:
    if not is_row(row) or not isinstance(row[0], (int, list, tuple)):
        return []
    return [absolute(s, index) for s in listed(row[0]) if isinstance(s, int) and not isinstance(s, bool)]


def _stride(row: Any, sources: Sequence[float | None]) -> float | None:
    """Return the stride of a row from those of what it reads, or None if it cannot be known."""
    if not sources or not is_row(row):
        return None
    _, repeats, name, args = row
    stride = sources[-1]  # CBFuse resizes to it
    if name == "Concat":  # joins maps of one size
        known = {source for source in sources if source is not None}
        stride = known.pop() if len(known) == 1 else None
    if stride is None or name in _KEEP or name in registry.names():
        return stride
    if name not in SHRINK:
        return None
    try:
        factor = float(SHRINK[name](args))
    except (TypeError, ValueError, LookupError, ArithmeticError):
        return None
    return stride * factor if factor == 1 or (repeats == 1 and factor > 0) else None
