"""What an entry of a COCO JSON must be; what is wrong is counted and told once, with the first example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DataError
from .json_entries import LARGEST, MISSING, short

Id = int | str


class Flaw:
    """How many entries break a rule, and the first of them."""

    def __init__(self, field: str, wanted: str):
        self.field, self.wanted = field, wanted
        self.count, self.number = 0, 0
        self.entry: Any = None

    def add(self, number: int, entry: Any) -> None:
        """Count entry ``number``, which breaks the rule."""
        if not self.count:
            self.number, self.entry = number, entry
        self.count += 1

    def message(self, path: str, key: str, total: int) -> str:
        """Return what is wrong with how many of ``total`` entries, and the first of them."""
        value = getattr(self.entry, self.field)
        said = f"no {self.field!r}" if value is MISSING else f"{self.field!r} is {short(value)}"
        id_ = None if self.entry.id is MISSING else self.entry.id
        return (
            f"{path}: {key!r}: {self.field!r} must be {self.wanted}; {self.count} of {total} entries break that, the "
            f"first is number {self.number} (id {short(id_)}): {said}"
        )


def check(path: str, key: str, entries: Sequence[Any], field: str, is_good: Callable[[Any], bool], wanted: str) -> None:
    """Raise unless ``field`` of every entry is good; say how many are not and show the first."""
    flaw = Flaw(field, wanted)
    for number, entry in enumerate(entries):
        if not is_good(getattr(entry, field)):
            flaw.add(number, entry)
    if flaw.count:
        raise DataError(flaw.message(path, key, len(entries)))


def distinct(
    path: str, key: str, field: str, entries: Sequence[Any], counts: dict[str, int], counted: str
) -> dict[Id, Any]:
    """Map the id of each entry to its ``field``; repeats are counted, contradictions are an error."""
    by_id: dict[Id, Any] = {}
    clashes = []
    for entry in entries:
        value = getattr(entry, field)
        known = by_id.setdefault(entry.id, value)
        if known != value:
            clashes.append((entry.id, known, value))
    if clashes:
        id_, one, other = map(short, clashes[0])
        raise DataError(
            f"{path}: {key!r}: an id must stand for one {field!r}; {len(clashes)} entries break that, the first: id "
            f"{id_} is {one} and {other}"
        )
    counts[counted] = len(entries) - len(by_id)
    return by_id


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number that arithmetic can be done with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 1 on."""
    return is_number(value) and value >= 1 and value == int(value)


def is_box(value: Any) -> bool:
    """Return whether a value is a list of four such numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def is_switch(value: Any) -> bool:
    """Return whether a value is 0 or 1, or is not there."""
    return value is MISSING or value is None or (isinstance(value, int | float) and value in (0, 1))


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a whole number or a string."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int | str) and not isinstance(value, bool)
