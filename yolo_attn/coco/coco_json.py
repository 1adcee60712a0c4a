"""One COCO JSON, read and checked once, as plain columns. Images are not looked at here."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .annotation_columns import AnnotationColumns, Keypoints
from .entry_checks import Id, check, distinct, is_count, is_id
from .json_entries import Entries, RefusedError, all_entries, quick_entries
from .masks import Masks
from .plain_values import number, same_ids

_KEPT = 4  # files held per process


@dataclass(frozen=True)
class CocoJson:
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
        examples: An example for some counts.
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
    examples: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """What a data description needs of a COCO JSON that has passed all checks: the fields of ``CocoJson``, no entries.

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


_held: OrderedDict[tuple[str, int, int], CocoJson] = OrderedDict()


def read_coco_json(path: str | Path, require_annotations: bool = True) -> CocoJson:
    """Read and check one COCO JSON. A file that has not changed is read once per process.

    Args:
        path: The JSON file.
        require_annotations: Whether a file without the key 'annotations' is an error.

    Raises:
        DataError: If the file is missing, is not JSON, lacks a key, or has entries that cannot be used; the message
            names the file, the key and how many entries are affected.
    """
    key = file_state(path)
    if key in _held:
        _held.move_to_end(key)
    else:
        _held[key] = _read(key[0])
        if len(_held) > _KEPT:
            _held.popitem(last=False)
    coco = _held[key]
    if require_annotations and not coco.is_annotated:
        all_entries(coco.path, _content(coco.path), needs_annotations=True)  # raises, and says what is there instead
    return coco


def header(coco: CocoJson) -> Header:
    """Return the header of a file that has been read."""
    return Header(
        path=coco.path,
        fingerprint=coco.fingerprint,
        categories=coco.categories,
        is_annotated=coco.is_annotated,
        keypoint_count=0 if coco.keypoints is None else coco.keypoints.shape[1],
        keypoint_names=coco.keypoint_names,
        pose_problem=coco.pose_problem,
    )


def forget(path: str | Path) -> None:
    """Let go of what was read of a file that is no longer needed in this process: with masks it can be large."""
    _held.pop(file_state(path), None)


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


def _read(path: str) -> CocoJson:
    content = _content(path)
    fingerprint = hashlib.sha256(content).hexdigest()
    try:
        return _checked(path, quick_entries(content), fingerprint)
    except RefusedError:
        return _checked(path, all_entries(path, content, needs_annotations=False), fingerprint)


def _checked(path: str, entries: Entries, fingerprint: str) -> CocoJson:
    counts = dict.fromkeys(
        ("duplicate_images", "duplicate_categories", "unknown_image", "unknown_category", "bad_masks", "bad_polygons"),
        0,
    )
    check(path, "categories", entries.categories, "id", is_id, "an integer or a string")
    check(path, "categories", entries.categories, "name", lambda v: isinstance(v, str | int | float), "a name")
    if not entries.categories:
        raise DataError(f"{path}: 'categories' is empty; a detector needs at least one category")
    names = distinct(path, "categories", "name", entries.categories, counts, "duplicate_categories")
    ordered = sorted(names, key=sort_key)

    check(path, "images", entries.images, "id", is_id, "an integer or a string")
    check(path, "images", entries.images, "file_name", lambda v: isinstance(v, str), "a string")
    if not entries.images:
        raise DataError(f"{path}: 'images' is empty")
    files = distinct(path, "images", "file_name", entries.images, counts, "duplicate_images")
    image_index = {id_: i for i, id_ in enumerate(files)}
    sizes = np.zeros((len(files), 2), dtype=np.int64)
    for entry in entries.images:
        width, height = number(entry.width), number(entry.height)
        if is_count(width) and is_count(height):
            sizes[image_index[entry.id]] = np.array([width, height])

    category_index = {id_: i for i, id_ in enumerate(ordered)}
    named = [str(names[id_]) for id_ in ordered]
    columns = AnnotationColumns(image_index, category_index, named, Keypoints(entries.categories))
    for annotation in entries.annotations or ():
        columns.add(annotation)
    return CocoJson(
        path=path,
        categories=tuple(zip(ordered, named, strict=True)),
        image_ids=tuple(files),
        file_names=tuple(files.values()),
        image_sizes=sizes,
        **columns.build(path, counts),
        counts=counts,
        is_annotated=entries.annotations is not None,
        fingerprint=fingerprint,
    )


def merge_categories(files: Sequence[CocoJson | Header]) -> tuple[tuple[Id, str], ...]:
    """Return the categories of all splits sorted by id, so that every split has the same classes.

    Raises:
        DataError: If two splits give one id different names, or one name different ids.
    """
    merged: dict[Id, tuple[str, str]] = {}
    ids_of: dict[str, tuple[set[Id], str]] = {}
    for coco in files:
        # An id that differs from one of another file in its type only, 7 and '7', is the same id.
        known_so_far = list(merged)
        place = same_ids((id_ for id_, _ in coco.categories), known_so_far)
        is_distinct = len(set(place.values())) == len(place)
        categories = [
            (known_so_far[place[id_]] if id_ in place and is_distinct else id_, name) for id_, name in coco.categories
        ]
        mine: dict[str, set[Id]] = {}
        for id_, name in categories:
            mine.setdefault(name, set()).add(id_)
        for name, ids in mine.items():
            known_ids, where = ids_of.setdefault(name, (ids, coco.path))
            if known_ids.isdisjoint(ids):
                raise DataError(
                    f"{coco.path}: 'categories' gives {name!r} the id {min(ids, key=sort_key)!r}, {where} gives it "
                    f"{min(known_ids, key=sort_key)!r}; give a category the same id and name in every split"
                )
        for id_, name in categories:
            known, where = merged.setdefault(id_, (name, coco.path))
            if known != name:
                raise DataError(
                    f"{coco.path}: 'categories' calls id {id_!r} {name!r}, {where} calls it {known!r}; "
                    "give a category the same id and name in every split"
                )
    return tuple((id_, merged[id_][0]) for id_ in sorted(merged, key=sort_key))


def sort_key(id_: Id) -> tuple[bool, Id]:
    """Return the key that sorts ids of any kind: numbers first, then strings."""
    return isinstance(id_, str), id_
