"""Values of a COCO JSON in another form than COCO's that can mean one thing only: numbers as text, nested lists, ids.

Whatever may mean two things is left as it is, for the checks to refuse it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .entry_checks import Id, is_number
from .json_entries import Annotation

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]*)?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")
_SWITCHES = {"0": 0, "1": 1, "false": 0, "true": 1}
_LONGEST_TEXT = 10_000_000


def number(value: Any) -> int | float | None:
    """Return a number, also one written as text, or None."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 80 or not _NUMBER.fullmatch(text):
            return None
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    return value if is_number(value) else None


def numbers(value: Any) -> list[Any] | None:
    """Return a flat list of numbers, also one written as text or of numbers as text, or None."""
    value = from_text(value)
    if not isinstance(value, list):
        return None
    found = [number(item) for item in value]
    return None if None in found else found


def from_text(value: Any) -> Any:
    """Return the list or mapping that a text is the JSON of, anything else as it is."""
    if not (isinstance(value, str) and value.lstrip()[:1] in ("[", "{") and len(value) <= _LONGEST_TEXT):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def triples(value: Any) -> list[Any] | None:
    """Return keypoints as one flat list of numbers, also ones written as text or one list for each, or None."""
    value = from_text(value)
    if isinstance(value, list) and value and all(isinstance(point, list) and len(point) == 3 for point in value):
        value = [item for point in value for item in point]
    return numbers(value)


def polygons(value: list[Any]) -> list[Any]:
    """Return polygons as flat lists, also where there is one flat list for all or a list for each point."""
    first = value[0] if value else None
    if isinstance(first, list) and len(first) > 2 and not isinstance(first[0], list):
        return value  # COCO's own form
    if value and not any(isinstance(item, list | dict) for item in value):
        return [value]
    if _is_points(value):
        return [[item for point in value for item in point]]
    return [[i for point in item for i in point] if _is_points(item) else item for item in value]


def _is_points(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 3 and all(isinstance(p, list) and len(p) == 2 for p in value)


def run_length_mask(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run-length mask whose size and counts are numbers where it has them as text, or text of Python bytes."""
    size, counts = _whole(numbers(value.get("size"))), from_text(value.get("counts"))
    if isinstance(counts, str) and re.fullmatch("b'.*'|b\".*\"", counts) and len(counts) <= _LONGEST_TEXT:
        try:
            counts = ast.literal_eval(counts).decode("ascii", "replace")
        except (ValueError, SyntaxError, MemoryError):
            counts = None
    elif isinstance(counts, list):
        counts = _whole(numbers(counts))
    return {"size": size, "counts": counts}


def _whole(values: list[Any] | None) -> list[Any] | None:
    """Return numbers with 5 in place of 5.0."""
    return None if values is None else [int(value) if value == int(value) else value for value in values]


def plain(entry: Annotation) -> Annotation:
    """Return an annotation whose box and crowd flag are numbers where it has them as text."""
    box, crowd = numbers(entry.bbox), entry.iscrowd
    if isinstance(crowd, str):
        crowd = _SWITCHES.get(crowd.strip().lower(), crowd)
    changed = Annotation(*(getattr(entry, field) for field in Annotation.__struct_fields__))
    changed.bbox, changed.iscrowd = entry.bbox if box is None else box, crowd
    return changed


def same_ids(ids: Iterable[Id], known: Sequence[Id]) -> dict[Id, int]:
    """Return for each id the position of the known one that is equal, or else alone has the same value."""
    position = {id_: i for i, id_ in enumerate(known)}
    by_value = ByValue(position)
    found = {}
    for id_ in ids:
        place = position.get(id_)
        place = by_value.get(id_) if place is None else place
        if place is not None:
            found[id_] = place
    return found


class ByValue:
    """Finds what stands under an id of another type: '7', '07', '7.0' and 7 have one value.

    Args:
        known: What stands under each id.
        names: What stands under names that may be given in place of ids.
    """

    def __init__(self, known: Mapping[Id, int], names: Iterable[tuple[str, int]] = ()):
        self._known, self._names = known, names
        self._places: dict[Id, set[int]] | None = None

    def get(self, id_: Id) -> int | None:
        """Return what alone stands under an id of this value, or None."""
        if self._places is None:
            self._places = {}
            for name, place in self._names:
                self._places.setdefault(f"name {name}", set()).add(place)
            for other, place in self._known.items():
                if (value := whole(other)) is not None:
                    self._places.setdefault(value, set()).add(place)
        value = whole(id_)
        places = self._places.get(f"name {id_}" if value is None else value, set())
        return next(iter(places)) if len(places) == 1 else None


def whole(id_: Id) -> int | None:
    """Return the value of an id that is a whole number, also of one written as text, or None."""
    if isinstance(id_, str):
        text = id_.strip()
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
    return int(id_)
