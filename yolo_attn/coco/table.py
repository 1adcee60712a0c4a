"""One COCO JSON, read and checked once, as plain columns. Images are not looked at here."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .columns import Columns, Id, Keypoints, check, distinct, is_count, is_id
from .masks import Masks
from .rows import RefusedError, Rows, all_rows, quick_rows

_KEPT = 4  # tables held per process


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
        masks: ``masks[i]`` is the 'segmentation' of annotation i as the file has it; None if no annotation has one
            that can be used.
        keypoints: ``(m, k, 3)`` x and y in pixels and visibility, zeros where an annotation has none; None if no
            category and no annotation has keypoints.
        keypoint_names: Names of the keypoints, empty if the categories have none.
        is_annotated: Whether the file has 'annotations' at all; lists of test images do not.
        fingerprint: SHA-256 of the file's content.
        pose_problem: Why the keypoints cannot be trained on, or "".
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
    masks: Masks | None = None
    keypoints: np.ndarray | None = None
    keypoint_names: tuple[str, ...] = ()
    is_annotated: bool = True
    fingerprint: str = ""
    pose_problem: str = ""


@dataclass(frozen=True)
class Header:
    """What a data description needs of a COCO JSON that has passed all checks: the fields of ``CocoTable``, no rows.

    Attributes:
        keypoint_count: Keypoints of an object, 0 if the file has none.
    """

    path: str
    fingerprint: str
    categories: tuple[tuple[Id, str], ...]
    is_annotated: bool
    keypoint_count: int
    keypoint_names: tuple[str, ...]
    pose_problem: str


_tables: OrderedDict[tuple[str, int, int], CocoTable] = OrderedDict()


def read_table(path: str | Path, require_annotations: bool = True) -> CocoTable:
    """Read and check one COCO JSON. A file that has not changed is read once per process.

    Args:
        path: The JSON file.
        require_annotations: Whether a file without the key 'annotations' is an error.

    Raises:
        DataError: If the file is missing, is not JSON, lacks a key, or has entries that cannot be used; the message
            names the file, the key and how many entries are affected.
    """
    key = file_state(path)
    if key in _tables:
        _tables.move_to_end(key)
    else:
        _tables[key] = _read(key[0])
        if len(_tables) > _KEPT:
            _tables.popitem(last=False)
    table = _tables[key]
    if require_annotations and not table.is_annotated:
        all_rows(table.path, _content(table.path), needs_annotations=True)  # raises, and says what is there instead
    return table


def header(table: CocoTable) -> Header:
    """Return the header of a table."""
    return Header(
        path=table.path,
        fingerprint=table.fingerprint,
        categories=table.categories,
        is_annotated=table.is_annotated,
        keypoint_count=0 if table.keypoints is None else table.keypoints.shape[1],
        keypoint_names=table.keypoint_names,
        pose_problem=table.pose_problem,
    )


def forget(path: str | Path) -> None:
    """Let go of a table that is no longer needed in this process: with masks it can be hundreds of megabytes."""
    _tables.pop(file_state(path), None)


def file_state(path: str | Path) -> tuple[str, int, int]:
    """Return absolute path, time of change in ns and size of a file.

    Raises:
        DataError: If there is no such file.
    """
    path = Path(path).absolute()
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no such file; check the path in your data YAML") from error
    return str(path), stat.st_mtime_ns, stat.st_size


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _read(path: str) -> CocoTable:
    content = _content(path)
    fingerprint = hashlib.sha256(content).hexdigest()
    try:
        return _table(path, quick_rows(content), fingerprint)
    except RefusedError:
        return _table(path, all_rows(path, content, needs_annotations=False), fingerprint)


def _table(path: str, rows: Rows, fingerprint: str) -> CocoTable:
    counts = dict.fromkeys(
        ("duplicate_images", "duplicate_categories", "unknown_image", "unknown_category", "bad_masks", "bad_polygons"),
        0,
    )
    check(path, "categories", rows.categories, "id", is_id, "an integer or a string")
    check(path, "categories", rows.categories, "name", lambda v: isinstance(v, str | int | float), "a name")
    if not rows.categories:
        raise DataError(f"{path}: 'categories' is empty; a detector needs at least one category")
    names = distinct(path, "categories", "name", rows.categories, counts, "duplicate_categories")
    ordered = sorted(names, key=sort_key)

    check(path, "images", rows.images, "id", is_id, "an integer or a string")
    check(path, "images", rows.images, "file_name", lambda v: isinstance(v, str), "a string")
    if not rows.images:
        raise DataError(f"{path}: 'images' is empty")
    files = distinct(path, "images", "file_name", rows.images, counts, "duplicate_images")
    image_index = {id_: i for i, id_ in enumerate(files)}
    sizes = np.zeros((len(files), 2), dtype=np.int64)
    for row in rows.images:
        if is_count(row.width) and is_count(row.height):
            sizes[image_index[row.id]] = row.width, row.height

    columns = Columns(image_index, {id_: i for i, id_ in enumerate(ordered)}, Keypoints(rows.categories))
    for annotation in rows.annotations or ():
        columns.add(annotation)
    return CocoTable(
        path=path,
        categories=tuple((id_, str(names[id_])) for id_ in ordered),
        image_ids=tuple(files),
        file_names=tuple(files.values()),
        image_sizes=sizes,
        **columns.build(path, counts),
        counts=counts,
        is_annotated=rows.annotations is not None,
        fingerprint=fingerprint,
    )


def merge_categories(tables: Sequence[CocoTable | Header]) -> tuple[tuple[Id, str], ...]:
    """Return the categories of all splits sorted by id, so that every split has the same classes.

    Raises:
        DataError: If two splits give one id different names, or one name different ids.
    """
    merged: dict[Id, tuple[str, str]] = {}
    ids_of: dict[str, tuple[set[Id], str]] = {}
    for table in tables:
        mine: dict[str, set[Id]] = {}
        for id_, name in table.categories:
            mine.setdefault(name, set()).add(id_)
        for name, ids in mine.items():
            known_ids, where = ids_of.setdefault(name, (ids, table.path))
            if known_ids.isdisjoint(ids):
                raise DataError(
                    f"{table.path}: 'categories' gives {name!r} the id {min(ids, key=sort_key)!r}, {where} gives it "
                    f"{min(known_ids, key=sort_key)!r}; give a category the same id and name in every split"
                )
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
