"""The lists of a COCO JSON as entries, decoded one at a time so that a file of any size fits into memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ..errors import DataError


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()
LARGEST = 1e12  # numbers from here on are no pixels
_BLOCK = 1 << 22


class Image(msgspec.Struct, gc=False):
    """An entry of 'images'; what the file does not have is ``MISSING``, nothing is checked."""

    id: Any = MISSING
    file_name: Any = MISSING
    width: Any = MISSING
    height: Any = MISSING


class Category(msgspec.Struct, gc=False):
    """An entry of 'categories'; what the file does not have is ``MISSING``, nothing is checked."""

    id: Any = MISSING
    name: Any = MISSING
    keypoints: Any = MISSING


class Annotation(msgspec.Struct, gc=False):
    """An entry of 'annotations'; what the file does not have is ``MISSING``, nothing is checked."""

    id: Any = MISSING
    image_id: Any = MISSING
    category_id: Any = MISSING
    bbox: Any = MISSING
    area: Any = MISSING
    iscrowd: Any = MISSING
    segmentation: Any = MISSING
    keypoints: Any = MISSING


class Entries(NamedTuple):
    """The entries of one file; ``annotations`` can be walked once, and is None where the file has no such key."""

    images: list[Image]
    categories: list[Category]
    annotations: Iterable[Annotation] | None


class RefusedError(Exception):
    """The quick reader takes offence at the text; ``all_entries`` says what is wrong with it, if anything is."""


class _Document(msgspec.Struct, gc=False):
    images: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    annotations: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


def quick_entries(content: bytes) -> Entries:
    """Return the entries of a sound file, decoding each annotation when it is asked for.

    Raises:
        RefusedError: If the text is not strict JSON (NaN, Infinity, a byte order mark, a lone surrogate, damage) or
            not of the expected structure; also while the annotations are walked.
    """
    try:
        _check_utf8(content)
        document = msgspec.json.decode(content, type=_Document)
        images = list(_decoded(document.images, Image))
        categories = list(_decoded(document.categories, Category))
    except (ValueError, RecursionError) as error:
        raise RefusedError from error
    if isinstance(document.annotations, msgspec.UnsetType):
        return Entries(images, categories, None)
    return Entries(images, categories, _decoded(document.annotations, Annotation))


def _check_utf8(content: bytes) -> None:
    """Raise a ValueError unless the text is UTF-8: the decoder does not look into what it skips."""
    if not content.isascii():
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(content), _BLOCK):
            decoder.decode(content[start : start + _BLOCK])
        decoder.decode(b"", final=True)


def _decoded(raws: list[msgspec.Raw], kind: type) -> Iterator[Any]:
    decode: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder(kind).decode
    try:
        for raw in raws:
            yield decode(raw)
    except (ValueError, RecursionError) as error:
        raise RefusedError from error


def all_entries(path: str, content: bytes, needs_annotations: bool) -> Entries:
    """Return the entries of any JSON that Python reads.

    Args:
        path: The file, for messages.
        content: Its text.
        needs_annotations: Whether a file without 'annotations' is an error.

    Raises:
        DataError: If the text is no JSON, or its structure is not that of a COCO file.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, or cut off ({len(content)} bytes): {error}") from error
    if not isinstance(document, dict):
        raise DataError(
            f"{path}: a COCO file is one object with 'images', 'annotations' and 'categories'; this is a "
            f"{type(document).__name__}" + (" (predictions?)" if isinstance(document, list) else "")
        )
    keys = ["images", "annotations", "categories"]
    if "annotations" not in document and not needs_annotations:
        keys.remove("annotations")
    lists = {key: _objects(path, document, key) for key in keys}
    return Entries(
        [_entry(Image, given) for given in lists["images"]],
        [_entry(Category, given) for given in lists["categories"]],
        (_entry(Annotation, given) for given in lists["annotations"]) if "annotations" in lists else None,
    )


def _objects(path: str, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    if key not in document:
        there = ", ".join(map(repr, list(document)[:10])) or "nothing"
        raise DataError(f"{path}: key {key!r} is missing; a COCO file has it, this one has {there}")
    entries = document[key]
    if not isinstance(entries, list):
        raise DataError(f"{path}: {key!r} must be a list, not {type(entries).__name__}")
    bad = [i for i, entry in enumerate(entries) if not isinstance(entry, dict)]
    if bad:
        raise DataError(
            f"{path}: {key!r} must hold objects; {len(bad)} of {len(entries)} are not, the first is number {bad[0]}: "
            f"{short(entries[bad[0]])}"
        )
    return entries


def _entry(kind: type[msgspec.Struct], given: dict[str, Any]) -> Any:
    return kind(*(given.get(field, MISSING) for field in kind.__struct_fields__))


def short(value: Any) -> str:
    """Return the value as text of at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def shown(value: Any, most: int = 400) -> str:
    """Return what a user wrote as text that can be printed, of a bounded length."""
    text = str(value)
    text = text if text.isprintable() else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
