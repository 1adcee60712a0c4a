"""What has been made of COCO files once, kept in the cache folder by content: entries of arrays and plain values.

An entry that is damaged, or that cannot be written, is as good as none: the work is done again, and nobody is told.
Entries are written beside their place and moved there, so that several processes can read and write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..cache import cache_folder, make_marked_folder, replacing
from ..errors import DataError
from .coco_json import Header, file_state, header, read_coco_json

FOLDER = "label-entries"
_FORMAT = 2
_DIGEST = 32  # bytes of a SHA-256
_ALIGNED = 64
_MOST_ENTRIES = 64
_MOST_BYTES = 4_000_000_000
_STALE_S = 24 * 3600.0
_MARK = b"yolo-attn label entry".ljust(_ALIGNED - _DIGEST - 8)  # in every entry: nothing without it is deleted
_NAMES = re.compile(r"[0-9a-f]{32}\.bin"), re.compile(r"\.[0-9a-f]{32}\.bin\.\d+\.\d+")  # entries, drafts of entries
_fingerprints: dict[tuple[str, int, int], str] = {}


def fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of a file; one that has not changed is read once per process.

    Raises:
        DataError: If the file cannot be read.
    """
    state = file_state(path)
    if state not in _fingerprints:
        digest = hashlib.sha256()
        try:
            with Path(state[0]).open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{state[0]}: cannot be read: {error.strerror}") from error
        _fingerprints[state] = digest.hexdigest()
    return _fingerprints[state]


def read_header(path: str | Path, require_annotations: bool = True) -> Header:
    """Return the header of a COCO JSON; a file whose content has passed all checks before is only hashed.

    Raises:
        DataError: As ``read_coco_json``.
    """
    key = make_key("header", fingerprint(path))
    entry = load(key)
    if entry is not None and (entry[0]["is_annotated"] or not require_annotations):
        found = entry[0]
        here = file_state(path)[0]
        return Header(
            path=here,
            fingerprint=found["fingerprint"],
            categories=tuple((id_, name) for id_, name in found["categories"]),
            is_annotated=found["is_annotated"],
            keypoint_count=found["keypoint_count"],
            keypoint_names=tuple(found["keypoint_names"]),
            pose_problem=found["pose_problem"].replace(found["path"], here, 1),
        )
    made = header(read_coco_json(path, require_annotations))
    save(make_key("header", made.fingerprint), asdict(made), {})
    return made


def make_key(*parts: Any) -> str:
    """Return the name of an entry that depends on these values, on this version and on what decodes images."""
    import cv2
    import PIL

    everything = [_FORMAT, __version__, PIL.__version__, cv2.__version__, *parts]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:32]


def load(key: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Return values and arrays of an entry, or None if there is no sound one. The arrays cannot be written to."""
    try:
        content = _file(key).read_bytes()
    except OSError:
        return None
    body = memoryview(content)[_DIGEST:]
    if content[:_DIGEST] != hashlib.sha256(body).digest():
        return None
    said = json.loads(content[int.from_bytes(body[:8], "little") :])
    arrays = {
        name: np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
        for name, (dtype, shape, start) in said["arrays"].items()
    }
    return said["values"], arrays


def save(key: str, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write an entry, if the cache folder can be written."""
    file = _file(key)
    with contextlib.suppress(OSError):
        folder = make_marked_folder(FOLDER)
        with replacing(file) as draft, draft.open("xb") as output:
            output.writelines(_blocks(values, arrays))
        _prune(folder)


def _blocks(values: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[bytes | memoryview]:
    """Return an entry: digest of what follows, place of the last block, the arrays, and where they and the values are.

    Every block but the last is a multiple of ``_ALIGNED`` bytes long.
    """
    blocks: list[bytes | memoryview] = [b""]
    places, end = {}, _ALIGNED
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array)
        places[name] = plain.dtype.str, plain.shape, end
        padding = -plain.nbytes % _ALIGNED
        blocks += [plain.ravel().view(np.uint8).data, bytes(padding)]
        end += plain.nbytes + padding
    blocks.append(json.dumps({"values": values, "arrays": places}).encode())
    start = end.to_bytes(8, "little") + _MARK
    digest = hashlib.sha256(start)
    for block in blocks:
        digest.update(block)
    blocks[0] = digest.digest() + start
    return blocks


def _file(key: str) -> Path:
    return cache_folder() / FOLDER / f"{key}.bin"


def _prune(folder: Path) -> None:
    """Remove the oldest entries beyond a number and a size, and what killed processes left behind; nothing but ours."""
    entries, drafts = (_found(folder, name) for name in _NAMES)
    count = size = 0
    for state, file in entries:
        count, size = count + 1, size + state.st_size
        if count > 1 and (count > _MOST_ENTRIES or size > _MOST_BYTES) and _is_ours(file):
            file.unlink(missing_ok=True)
    for state, file in drafts:
        if state.st_mtime < time.time() - _STALE_S and (not state.st_size or _is_ours(file)):
            file.unlink(missing_ok=True)


def _found(folder: Path, name: re.Pattern[str]) -> list[tuple[os.stat_result, Path]]:
    """Return the ordinary files with such names, links left out, the newest first."""
    found = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            state = file.lstat()
            if name.fullmatch(file.name) and stat.S_ISREG(state.st_mode):
                found.append((state, file))
    return sorted(found, key=lambda item: -item[0].st_mtime)


def _is_ours(file: Path) -> bool:
    """Tell whether a file begins as an entry does."""
    with contextlib.suppress(OSError), file.open("rb") as content:
        return content.read(_ALIGNED)[_DIGEST + 8 :] == _MARK
    return False
