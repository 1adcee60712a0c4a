"""The splits of a data set against each other: which path means which split, and which images are in two of them."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from typing import Any

from ..errors import DataError
from . import label_cache
from .coco_json import read_coco_json
from .images import locate

_MOST_COMPARED = 1000  # pairs of equal name and size whose content is compared
_remembered: dict[tuple[Any, ...], tuple[int, int, str]] = {}


def tell_apart(coco: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Return the path that stands for each split: that of its JSON, spelled so that no two splits share one.

    The host hands on nothing but this path when it builds a dataset. One JSON may serve several splits, each with
    other images.

    Args:
        coco: Split -> its ``json`` and ``images`` folders.
    """
    paths: dict[str, str] = {}
    for split, where in coco.items():
        path = where["json"]
        while any(path == paths[other] and where["images"] != coco[other]["images"] for other in paths):
            path = os.path.join(os.path.dirname(path), os.curdir, os.path.basename(path))  # noqa: PTH118, PTH119, PTH120
        paths[split] = path
    return paths


def warnings(coco: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which images of a split that is validated on are trained on too, one sentence for each pair of splits.

    Args:
        coco: Split -> its ``json``, ``images`` folders and ``fingerprint``.
    """
    said = []
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if one not in coco or other not in coco:
            continue
        shared, total, example = shared_images(coco[one], coco[other])
        if not shared:
            continue
        effect = "numbers say nothing about new images" if one == "train" else "the two are not independent"
        if shared == total:
            said.append(f"all {total} images of '{other}:' are in '{one}:' too, like {example}: {effect}")
        else:
            said.append(f"{shared} of {total} images of '{other}:' are in '{one}:' too, like {example}: {effect}")
    return said


def shared_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[int, int, str]:
    """Return how many images of the other split are in the first too, how many it has, and a file that is shared.

    Images are the same when they are one file, by whatever path or link, or when name and content are equal.
    """
    key = tuple((split["fingerprint"], *split["images"]) for split in (one, other))
    if key not in _remembered:
        _remembered[key] = _shared_images(one, other)
    return _remembered[key]


def _shared_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[int, int, str]:
    mine, theirs = _file_names(one), _file_names(other)
    second = _located(theirs, other["images"])
    common = {_last(name) for name in mine} & {_last(name) for name in (*theirs, *second)}
    first = _located([name for name in mine if _last(name) in common], one["images"]) if common else {}
    # Of a JSON that serves several splits, only what lies in the folders of this one is its own.
    total = len(second) if one["fingerprint"] == other["fingerprint"] else len(theirs)
    by_name: dict[str, list[tuple[str, int]]] = {}
    for file, size in first.items():
        by_name.setdefault(_last(file), []).append((file, size))
    shared, compared = [], 0
    for file, size in second.items():
        twins = [twin for twin, length in by_name.get(_last(file), ()) if length == size and twin != file]
        is_shared = file in first
        while twins and not is_shared and compared < _MOST_COMPARED:
            compared += 1
            is_shared = _are_equal(twins.pop(), file)
        if is_shared:
            shared.append(file)
    return len(shared), total, shared[0] if shared else ""


def _file_names(split: Mapping[str, Any]) -> list[str]:
    """Return the file names in the JSON of a split; of a JSON that has been read before, from the cache folder."""
    key = label_cache.make_key("file names", split["fingerprint"])
    entry = label_cache.load(key)
    if entry is not None:
        return entry[0]["names"]
    names = list(read_coco_json(split["json"], require_annotations=False).file_names)
    label_cache.save(key, {"names": names}, {})
    return names


def _located(names: list[str], roots: list[str]) -> dict[str, int]:
    """Return the files of these names, links resolved, and their sizes; nothing where names are ambiguous."""
    try:
        paths, states, _ = locate(names, roots)
    except DataError:
        return {}
    return {os.path.realpath(path): size for path, (_, size) in zip(paths, states.tolist(), strict=True) if path}


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _are_equal(one: str, other: str) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def same_json(coco: Mapping[str, Mapping[str, Any]], split: str) -> list[str]:
    """Return the other splits whose images come from the JSON of this one, but from other folders."""
    mine = coco[split]
    return [
        other
        for other, where in coco.items()
        if where["fingerprint"] == mine["fingerprint"] and where["images"] != mine["images"]
    ]
