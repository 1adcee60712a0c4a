"""The images of a COCO JSON: where they are, how large they are as decoded, and whether they can be read."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .image_names import Finder

_THREADS = 16
_CHUNK = 512  # files per task of a thread; a task for each would cost more than the look at it
_END_OF_JPEG = b"\xff\xd9"
# Formats that OpenCV decodes whenever Pillow finds them whole.
_PLAIN = {"JPEG", "MPO", "PNG", "WEBP"}


@dataclass(frozen=True)
class Images:
    """What is known of each image a JSON lists.

    Attributes:
        paths: Path of each image, "" where there is none.
        states: ``(n, 2)`` time of change in ns and size in bytes.
        sizes: ``(n, 2)`` width and height as decoded, turned as the EXIF data says; 0 where it cannot be read.
        is_cut: ``(n,)`` whether a JPEG ends too early; what is there of it can be read.
    """

    paths: tuple[str, ...]
    states: np.ndarray
    sizes: np.ndarray
    is_cut: np.ndarray


class Located(NamedTuple):
    """Where images are: ``paths`` and ``states`` as in ``Images``, and how each name was read (``image_names``)."""

    paths: tuple[str, ...]
    states: np.ndarray
    ways: np.ndarray


def locate(names: Sequence[str], roots: Sequence[str]) -> Located:
    """Return where each image is; the first root that has a file of that name wins.

    Raises:
        DataError: If a name that is no path below a root may mean several files.
    """
    found = _in_threads(lambda name: _locate(name, roots), names)
    ways = np.zeros(len(names), dtype=np.int8)
    lost = [i for i, (path, *_) in enumerate(found) if not path]
    if lost:
        taken = {path for path, *_ in found if path}
        read = Finder(roots, taken, bool(taken)).find(names[i] for i in lost)
        for i in lost:
            if names[i] in read:
                path, ways[i] = read[names[i]]
                found[i] = _looked_at(path) or found[i]
    states = np.array([state for _, *state in found], dtype=np.int64).reshape(-1, 2)
    return Located(tuple(path for path, *_ in found), states, ways)


def probe(paths: tuple[str, ...], states: np.ndarray, known: Images | None = None) -> Images:
    """Return sizes of located images; what is known of a file that has not changed since is taken over."""
    earlier: dict[tuple[str, int, int], tuple[int, int, bool]] = {}
    if known is not None:
        values = zip(known.sizes[:, 0].tolist(), known.sizes[:, 1].tolist(), known.is_cut.tolist(), strict=True)
        keys = zip(known.paths, *known.states.T.tolist(), strict=True)
        earlier = dict(zip(keys, values, strict=True))

    def look(key: tuple[str, int, int]) -> tuple[int, int, bool]:
        return earlier[key] if key in earlier else _size(key[0]) if key[0] else (0, 0, False)

    seen = np.array(_in_threads(look, list(zip(paths, *states.T.tolist(), strict=True))), dtype=np.int64).reshape(-1, 3)
    return Images(paths, states, seen[:, :2], seen[:, 2].astype(bool))


def _in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    chunks = [items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK)]
    if len(chunks) < 2:
        chunks = [[item] for item in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [result for chunk in pool.map(lambda chunk: list(map(function, chunk)), chunks) for result in chunk]


def _locate(name: str, roots: Sequence[str]) -> tuple[str, int, int]:
    for spelling in _spellings(name):
        for root in roots:
            found = _looked_at(os.path.join(root, spelling))  # noqa: PTH118  (three times as fast as Path)
            if found:
                return found
    return "", 0, 0


def _looked_at(path: str) -> tuple[str, int, int] | None:
    """Return path, time of change and size of a file, or None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return (_plain(path), found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None


def _spellings(name: str) -> Iterable[str]:
    # Other systems write the same name with backslashes or with accents composed the other way.
    yield name
    if "\\" in name:
        yield name.replace("\\", "/")
    if not name.isascii():
        yield from {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} - {name}


def _plain(path: str) -> str:
    if f"{os.sep}.." in path:
        short = os.path.normpath(path)
        try:
            path = short if os.path.samefile(short, path) else path  # noqa: PTH121
        except OSError:  # a link on the way: what follows it is not where the text says
            return path
    return str(Path(path)) if os.sep != "/" or "//" in path or "./" in path else path


def _size(file: str) -> tuple[int, int, bool]:
    """Return width and height of an image as decoded, 0 if it cannot be read, and whether it ends too early."""
    from PIL import Image

    unreadable = 0, 0, False
    try:
        with Path(file).open("rb") as stream:
            with Image.open(stream) as image:
                (w, h), kind = image.size, image.format
                # Asking a PNG without EXIF data for it would decode the whole picture.
                exif = image.getexif() if kind in {"JPEG", "MPO", "TIFF"} or "exif" in image.info else {}
                is_turned = exif.get(274) in {5, 6, 7, 8}
                image.verify()
            is_cut = kind in {"JPEG", "MPO"} and _is_cut(stream)
    except Exception:  # Pillow raises its plugins' own errors for damaged files, struct.error and SyntaxError included
        return unreadable
    # What the host's decoder makes of rarer formats, or of rotation in them, is seen by asking it.
    if is_cut or kind not in _PLAIN or (is_turned and kind not in {"JPEG", "MPO", "PNG"}):
        decoded = _decoded_size(file)
        return unreadable if decoded is None else (*decoded, is_cut)
    return (h, w, False) if is_turned else (w, h, False)


def _is_cut(stream: BinaryIO) -> bool:
    """Return whether a JPEG ends too early; one that ends as it should costs the reading of two bytes."""
    from PIL import Image

    stream.seek(-2, os.SEEK_END)
    if stream.read() == _END_OF_JPEG:
        return False
    stream.seek(0)
    try:
        with Image.open(stream) as image:
            image.load()  # cameras append data of their own after the end
    except OSError:
        return True
    return False


def _decoded_size(file: str) -> tuple[int, int] | None:
    """Return the size the host will see: rotation by Pillow and OpenCV differs by version for some formats."""
    import cv2

    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else (image.shape[1], image.shape[0])
