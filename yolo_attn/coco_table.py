"""One COCO JSON, read and checked once, as plain columns. Images are not looked at here."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError

Id = int | str
_LARGEST = 1e12


@dataclass(frozen=True)
class CocoTable:
    """What one COCO JSON says, as columns.

    Attributes:
        path: The JSON file.
        categories: ``(id, name)`` sorted by id.
        image_ids: Ids of the images as the file has them.
        file_names: File names of the images as the file has them.
        image_sizes: ``(n, 2)`` width and height the file gives, 0 where it gives none.
        image_of: ``(m,)`` index of the image of each annotation.
        category_of: ``(m,)`` index of the category of each annotation.
        boxes: ``(m, 4)`` x, y, width, height in pixels, unchanged.
        areas: ``(m,)`` area in square pixels, NaN where the file gives none.
        crowd: ``(m,)`` whether the annotation is a crowd region.
        annotation_ids: Ids of the annotations, or None where one has none.
        counts: What was left out, by name.
    """

    path: str
    categories: tuple[tuple[Id, str], ...]
    image_ids: tuple[Id, ...]
    file_names: tuple[str, ...]
    image_sizes: np.ndarray
    image_of: np.ndarray
    category_of: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    annotation_ids: tuple[Any, ...]
    counts: dict[str, int]


def read_table(path: str | Path) -> CocoTable:
    """Read and check one COCO JSON. A file that has not changed is read once per process.

    Args:
        path: The JSON file.

    Raises:
        DataError: If the file is missing, is not JSON, lacks a key, or has entries that cannot be used; the message
            names the file, the key and how many entries are affected.
    """
    path = Path(path).absolute()
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no such file; check the path in your data YAML") from error
    return _read_table(str(path), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _read_table(path: str, mtime_ns: int, size: int) -> CocoTable:
    document = _read_json(path, size)
    images, annotations, categories = (_rows(path, document, k) for k in ("images", "annotations", "categories"))

    counts = dict.fromkeys(("duplicate_images", "duplicate_categories", "unknown_image", "unknown_category"), 0)
    _check(path, "categories", categories, "id", _is_id, "an integer or a string")
    _check(path, "categories", categories, "name", lambda v: isinstance(v, str | int | float), "a name")
    if not categories:
        raise DataError(f"{path}: 'categories' is empty; a detector needs at least one category")
    names = _distinct(path, "categories", "name", categories, counts, "duplicate_categories")
    ordered = sorted(names, key=sort_key)
    category_index = {id_: i for i, id_ in enumerate(ordered)}

    _check(path, "images", images, "id", _is_id, "an integer or a string")
    _check(path, "images", images, "file_name", lambda v: isinstance(v, str), "a string")
    if not images:
        raise DataError(f"{path}: 'images' is empty")
    files = _distinct(path, "images", "file_name", images, counts, "duplicate_images")
    image_index = {id_: i for i, id_ in enumerate(files)}
    sizes = np.zeros((len(files), 2), dtype=np.int64)
    for row in images:
        stated: list[Any] = [row.get("width"), row.get("height")]
        if all(map(_is_count, stated)):
            sizes[image_index[row["id"]]] = stated

    _check(path, "annotations", annotations, "image_id", _is_id, "an integer or a string")
    _check(path, "annotations", annotations, "category_id", _is_id, "an integer or a string")
    _check(path, "annotations", annotations, "bbox", _is_box, "four finite numbers [x, y, width, height]")
    kept = []
    for row in annotations:
        if row["image_id"] not in image_index:
            counts["unknown_image"] += 1
        elif row["category_id"] not in category_index:
            counts["unknown_category"] += 1
        else:
            kept.append(row)
    if annotations and not kept:
        a = annotations[0]
        raise DataError(
            f"{path}: all {len(annotations)} 'annotations' point nowhere: {counts['unknown_image']} to unknown images, "
            f"{counts['unknown_category']} to unknown categories. The first has image_id {a['image_id']!r} and "
            f"category_id {a['category_id']!r}; 'images' has ids like {images[0]['id']!r}, 'categories' like "
            f"{ordered[0]!r}"
        )
    return CocoTable(
        path=path,
        categories=tuple((id_, str(names[id_])) for id_ in ordered),
        image_ids=tuple(files),
        file_names=tuple(files.values()),
        image_sizes=sizes,
        image_of=np.array([image_index[row["image_id"]] for row in kept], dtype=np.int64),
        category_of=np.array([category_index[row["category_id"]] for row in kept], dtype=np.int64),
        boxes=np.array([row["bbox"] for row in kept], dtype=np.float64).reshape(-1, 4),
        areas=np.array([row["area"] if _is_number(row.get("area")) else np.nan for row in kept], dtype=np.float64),
        crowd=np.array([row.get("iscrowd") == 1 for row in kept], dtype=bool),
        annotation_ids=tuple(row.get("id") for row in kept),
        counts=counts,
    )


def merge_categories(tables: Sequence[CocoTable]) -> tuple[tuple[Id, str], ...]:
    """Return the categories of all splits sorted by id, so that every split has the same classes.

    Raises:
        DataError: If two splits give one id different names.
    """
    merged: dict[Id, tuple[str, str]] = {}
    for table in tables:
        for id_, name in table.categories:
            known, where = merged.setdefault(id_, (name, table.path))
            if known != name:
                raise DataError(
                    f"{table.path}: 'categories' calls id {id_!r} {name!r}, {where} calls it {known!r}; "
                    "give a category the same id and name in every split"
                )
    return tuple((id_, merged[id_][0]) for id_ in sorted(merged, key=sort_key))


def sort_key(id_: Id) -> tuple[bool, Id]:
    """Return the key that sorts ids of any kind: numbers first, then strings."""
    return isinstance(id_, str), id_


def _read_json(path: str, size: int) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, or cut off ({size} bytes): {error}") from error
    if not isinstance(document, dict):
        raise DataError(
            f"{path}: a COCO file is one object with 'images', 'annotations' and 'categories'; this is a "
            f"{type(document).__name__}" + (" (predictions?)" if isinstance(document, list) else "")
        )
    return document


def _rows(path: str, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    if key not in document:
        there = ", ".join(map(repr, list(document)[:10])) or "nothing"
        raise DataError(f"{path}: key {key!r} is missing; a COCO file has it, this one has {there}")
    rows = document[key]
    if not isinstance(rows, list):
        raise DataError(f"{path}: {key!r} must be a list, not {type(rows).__name__}")
    bad = [i for i, row in enumerate(rows) if not isinstance(row, dict)]
    if bad:
        raise DataError(
            f"{path}: {key!r} must hold objects; {len(bad)} of {len(rows)} are not, the first is number {bad[0]}: "
            f"{_short(rows[bad[0]])}"
        )
    return rows


def _check(
    path: str, key: str, rows: list[dict[str, Any]], field: str, is_good: Callable[[Any], bool], what: str
) -> None:
    """Raise unless ``field`` of every row is good; say how many are not and show the first."""
    bad = [i for i, row in enumerate(rows) if not is_good(row.get(field))]
    if bad:
        row = rows[bad[0]]
        said = f"{field!r} is {_short(row[field])}" if field in row else f"no {field!r}"
        raise DataError(
            f"{path}: {key!r}: {field!r} must be {what}; {len(bad)} of {len(rows)} entries break that, the first is "
            f"number {bad[0]} (id {_short(row.get('id'))}): {said}"
        )


def _distinct(
    path: str, key: str, field: str, rows: list[dict[str, Any]], counts: dict[str, int], counted: str
) -> dict[Id, Any]:
    """Map the id of each row to its ``field``; repeats are counted, contradictions are an error."""
    by_id: dict[Id, Any] = {}
    clashes = []
    for row in rows:
        known = by_id.setdefault(row["id"], row[field])
        if known != row[field]:
            clashes.append((row["id"], known, row[field]))
    if clashes:
        id_, one, other = clashes[0]
        raise DataError(
            f"{path}: {key!r}: an id must stand for one {field!r}; {len(clashes)} entries break that, the first: id "
            f"{id_!r} is {one!r} and {other!r}"
        )
    counts[counted] += len(rows) - len(by_id)
    return by_id


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 1 and value == int(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_id(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int | str) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
