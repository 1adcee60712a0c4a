"""Images whose name in a JSON is not their path: labelling tools write the paths of other machines, links and servers.

A name is read in ever looser ways, and a way is only taken while it means one file and no other name means the same.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import DataError
from .json_entries import short

# What Label Studio puts before the name of a file: of an uploaded one, and of one that it has fetched itself.
_UPLOAD = re.compile("^(?:[0-9a-f]{6}(?:[0-9a-f]{2})?__|[0-9a-f]{8}-)")
_SPLIT = re.compile(r"^(train|val|valid|validation|test)(?:ing)?[-_]?(?:\d{4})?$")
SAME, READ, LAST_PARTS = range(3)  # the path itself; its letters or what follows a root's name; its last parts
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_MOST_LOOKED_AT = 50_000  # files below the data looked through for an example


class Finder:
    """Finds files by their name in a JSON below some folders; each folder is listed once.

    Args:
        roots: Folders that names are relative to.
        taken: Files that other names mean exactly.
        has_exact: Whether names of this JSON are paths below a root, which leaves nothing to read into the others.
    """

    def __init__(self, roots: Sequence[str], taken: Iterable[str], has_exact: bool):
        self._roots = roots
        self._taken = set(taken)
        self._has_exact = has_exact
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, names: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Return the file of each name that has one, and how it was read: ``SAME``, ``READ`` or ``LAST_PARTS``.

        Raises:
            DataError: If a name may mean several files, or a file be meant by several names.
        """
        left = dict.fromkeys(names)
        found: dict[str, tuple[str, int]] = {}
        ways = ((self._same, SAME), (self._any_case, READ), (self._after_root, READ), (self._by_last_parts, LAST_PARTS))
        for read, way in ways:
            if way == LAST_PARTS and (found or self._has_exact):
                break
            now: dict[str, str] = {}
            for name in left:
                files = dict.fromkeys(read(name))
                fresh = [file for file in files if file not in self._taken or way == SAME]
                if len(fresh) > 1:
                    raise DataError(
                        f"file_name {short(name)} may mean {' or '.join(fresh[:3])}; name one folder with 'images:' in "
                        "the data YAML, or write the path below it as 'file_name'"
                    )
                if fresh:
                    now[name] = fresh[0]
            if way != SAME:
                _refuse_shared(now)
            found |= {name: (file, way) for name, file in now.items()}
            self._taken.update(now.values())
            left = {name: None for name in left if name not in now}
        return found

    def _same(self, name: str) -> Iterator[str]:
        """Read the name as a path below a root, however it is written; the first root that has it wins."""
        for parts in _readings(name):
            for root in self._roots:
                file = self._walk(root, parts, ignore_case=False)
                if file:
                    yield file[0]
                    return

    def _any_case(self, name: str) -> Iterator[str]:
        """Read the name as the same path in small or capital letters."""
        for parts in _readings(name):
            for root in self._roots:
                yield from self._walk(root, parts, ignore_case=True)

    def _after_root(self, name: str) -> Iterator[str]:
        """Read what follows the name of a root: ``C:/data/images/a.jpg`` and a root ``.../images`` mean ``a.jpg``."""
        for parts in _readings(name):
            for start in range(1, len(parts)):
                files = [
                    file
                    for root in self._roots
                    if parts[start - 1].lower() == os.path.basename(root).lower() and _fits(parts[:start], root)  # noqa: PTH119
                    for file in self._walk(root, parts[start:], ignore_case=True)
                ]
                if files:
                    yield from files
                    return

    def _by_last_parts(self, name: str) -> Iterator[str]:
        """Read as many of the last parts as lead to a file; parts that name another split than the root rule it out."""
        for parts in _readings(name):
            for start in range(1, len(parts)):
                files = [
                    file
                    for root in self._roots
                    if _fits(parts[:start], root)
                    for file in self._walk(root, parts[start:], ignore_case=True)
                ]
                if files:
                    yield from files
                    return
        for parts in _readings(name):
            for plain in _without_upload(parts[-1]):
                files = [f for root in self._roots if _fits(parts, root) for f in self._walk(root, (plain,), True)]
                if files:
                    yield from files
                    return

    def _walk(self, folder: str, parts: Sequence[str], ignore_case: bool) -> list[str]:
        """Return the files that a path below a folder means; accents may be composed either way."""
        first, *rest = parts
        listed = self._list(folder)
        here = listed.get(_folded(first), [])
        same = [name for name in here if _composed(name) == _composed(first)]
        found = []
        for name in same or (here if ignore_case else ()):
            path = os.path.join(folder, name)  # noqa: PTH118
            if rest:
                found += self._walk(path, rest, ignore_case)
            elif os.path.isfile(path):  # noqa: PTH113
                found.append(path)
        return found

    def _list(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208
            except (OSError, ValueError):
                names = []
            by_name: dict[str, list[str]] = {}
            for name in names:
                by_name.setdefault(_folded(name), []).append(name)
            self._listed[folder] = by_name
        return self._listed[folder]


def _readings(name: str) -> list[tuple[str, ...]]:
    """Return the parts of the paths that a name may stand for: as it is, and with what an address has decoded."""
    texts = [name]
    if "://" in name or "?" in name:
        try:
            address = urlsplit(name)
            given = parse_qs(address.query).get("d", [])  # Label Studio's own files: /data/local-files/?d=folder/a.jpg
        except ValueError:
            address, given = urlsplit(""), []
        texts += [*given, address.path] if given or address.path else []
    texts += [unquote(text) for text in texts if "%" in text]
    readings = []
    for text in texts:
        path = posixpath.normpath(re.sub("^[A-Za-z]:(?=/)", "", text.strip().replace("\\", "/")))
        parts = tuple(part for part in path.split("/") if part and part not in (".", ".."))
        if parts and "\0" not in path:
            readings.append(parts)
    return list(dict.fromkeys(readings))


def _without_upload(name: str) -> Iterator[str]:
    """Return a name without what Label Studio has put before it, once for each time."""
    while (plain := _UPLOAD.sub("", name)) not in (name, ""):
        yield plain
        name = plain


def _fits(dropped: Sequence[str], root: str) -> bool:
    """Return whether leaving out these folders of a name does not lead into the folder of another split."""
    said = {_split(part) for part in dropped} - {""}
    own = next((split for part in reversed(Path(root).parts[-2:]) if (split := _split(part))), "")
    return not said or not own or own in said


def _split(part: str) -> str:
    match = _SPLIT.match(part.lower())
    return match[1][:3] if match else ""


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).lower()


def _refuse_shared(found: dict[str, str]) -> None:
    """Raise if two names mean one file that neither names exactly."""
    names_of: dict[str, list[str]] = {}
    for name, file in found.items():
        names_of.setdefault(file, []).append(name)
    clash = next(((file, names) for file, names in names_of.items() if len(names) > 1), None)
    if clash:
        file, names = clash
        count = sum(len(names) for names in names_of.values() if len(names) > 1)
        raise DataError(
            f"{count} 'file_name' mean a file that others mean too: {' and '.join(map(short, names[:3]))} would all be "
            f"{file}; name the folder above with 'images:' in the data YAML, so that their folders tell them apart"
        )


def elsewhere(names: Iterable[str], folders: Iterable[str]) -> list[str]:
    """Return files with the last part of one of some names, anywhere below the first of some folders that has any."""
    wanted = {_folded(parts[-1]) for name in names for parts in _readings(name)}
    wanted |= {plain for last in wanted for plain in _without_upload(last)}
    seen, found = 0, []
    for folder in dict.fromkeys(folders):
        for parent, below, files in os.walk(folder):
            below[:] = sorted(sub for sub in below if not sub.startswith("."))
            found += [os.path.join(parent, file) for file in sorted(files) if _folded(file) in wanted]  # noqa: PTH118
            seen += len(files) + len(below)
            if seen > _MOST_LOOKED_AT:
                return found
        if found:
            break
    return found


def image_in(folders: Iterable[str]) -> str:
    """Return the name of an image in the first of some folders that has one, or ""."""
    for folder in folders:
        names = [entry.name for entry in os.scandir(folder)] if os.path.isdir(folder) else []  # noqa: PTH112
        found = min((name for name in names if name.lower().endswith(_SUFFIXES)), default="")
        if found:
            return found
    return ""
