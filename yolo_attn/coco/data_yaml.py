"""Data YAMLs whose splits are COCO JSON files, resolved to what Ultralytics expects of a data set.

::

    path: .                        # root of what follows; the YAML's own folder if left out
    train: annotations/train.json
    val: annotations/val.json
    images: images                 # one folder, or {train: images/train, val: images/val}; see ``usual_folders``
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..cache import VARIABLE, cache_folder, make_folder, write_text
from ..errors import DataError, nearest
from .coco_json import Header, Id, merge_categories
from .json_entries import shown
from .keypoints import describe_keypoints
from .label_cache import read_header
from .splits import tell_apart, warnings

SPLITS = ("train", "val", "test")
# Value of the key `generate` -> function that makes the data set on first use and returns its folder.
GENERATORS = {"shapes": "yolo_attn.coco.shapes:ensure_shapes"}


def read_yaml(path: str | Path) -> dict[str, Any] | None:
    """Return the mapping in a YAML file, or None if there is none to read."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def is_coco(data: Mapping[str, Any] | None) -> bool:
    """Return whether a data description names a COCO JSON as one of its splits, or generates one."""
    return data is not None and ("generate" in data or any(_is_json(data.get(split)) for split in SPLITS))


def usual_folders(json_path: Path, split: str) -> list[Path]:
    """Return the existing folders where images are looked for when none is named, the most specific first.

    For ``ann/instances_x.json`` as ``train`` these are ``ann/../images/train``, ``ann/../images/x``, ``ann/../x``,
    ``ann/../train``, ``ann/images/train``, ``ann``, ``ann/images``, ``ann/../images``, ``ann/data`` and
    ``ann/../data``.
    """
    here, up = json_path.parent, json_path.parent.parent
    # COCO's own names: instances_val2017, person_keypoints_val2017, image_info_test-dev2017 with images in test2017.
    stem = re.sub("^(instances|person_keypoints|image_info)_", "", json_path.stem).replace("-dev", "")
    folders = [
        up / "images" / split, up / "images" / stem, up / stem, up / split, here / "images" / split,
        here, here / "images", up / "images", here / "data", up / "data",
    ]  # fmt: skip
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]  # noqa: PTH112  (of a name that is too long pathlib raises)


def describe(data: str | Path | Mapping[str, Any], task: str = "detect") -> dict[str, Any]:
    """Resolve a COCO-format data description.

    Args:
        data: A data YAML, or its content (relative paths then start from the working directory).
        task: ``"pose"`` makes it an error when the JSON files have no keypoints that can be trained on.

    Returns:
        What Ultralytics keeps of a data set (``path, train, val, test, names, nc, channels, yaml_file``; a split that
        is not named is None, the others are absolute paths of the JSON files, each split's spelled in its own way),
        and ``coco``: for each split its ``json``, ``images`` folders and ``fingerprint`` (SHA-256 of the JSON),
        ``absent``: for each split whose files are not there what is missing, ``category_ids``: the category id of
        each class, ``notes`` and ``warnings``: what is worth knowing about the splits. Where the JSON files have
        keypoints also ``kpt_shape``, and where these have names ``kpt_names`` and, if some say left and right,
        ``flip_idx``.

    Raises:
        DataError: If the description or one of its JSON files cannot be used, or no split has its files.
    """
    if isinstance(data, Mapping):
        given, file, base = dict(data), None, Path.cwd()
    else:
        file = Path(data).absolute()
        given, base = read_yaml(file) or {}, file.parent
        if not given:
            raise DataError(f"{data}: not a data YAML; it needs lines like 'train: annotations/train.json'")
    label = str(file or "data")
    root = _generated(label, given["generate"]) if "generate" in given else _root(label, given, base)

    coco: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    paths: dict[str, str] = {}
    for split in SPLITS:
        value = given.get("validation") if split == "val" and "val" not in given else given.get(split)
        if value is None:
            continue
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not _is_json(value):
            raise DataError(f"{label}: '{split}: {shown(value)}' must name one .json file, as the other splits do")
        json_path = _absolute(root, value)
        paths[split] = str(json_path)
        try:
            if not os.path.isfile(json_path):  # noqa: PTH113
                raise _AbsentError(f"{label}: '{split}: {shown(value)}': no such file: {shown(json_path)}")
            folders = _image_folders(label, given.get("images"), split, root)
            # Last of all, names may be paths below the root, as in 'images/val/scene/0001.jpg'.
            folders = folders or list(dict.fromkeys([*usual_folders(json_path, split), root]))
        except _AbsentError as error:
            absent[split] = str(error)
            continue
        coco[split] = {"json": str(json_path), "images": [str(folder) for folder in folders]}
    if not coco:
        raise DataError(
            next(iter(absent.values()), f"{label}: names no split; it needs 'train:' and 'val:'{_typo(given)}")
        )
    nowhere: dict[str, Any] = {split: {"json": paths[split], "images": [problem]} for split, problem in absent.items()}
    paths |= tell_apart(coco | nowhere)

    headers = {}
    for split, where in coco.items():
        headers[split] = read_header(where["json"], require_annotations=split != "test")
        where["fingerprint"] = headers[split].fingerprint
    categories = merge_categories(list(headers.values()))
    names = {i: name for i, (_, name) in enumerate(categories)}
    _check_names(label, given, list(names.values()), is_whole=not absent)
    return {
        **{k: v for k, v in given.items() if k not in {"generate", "images", "validation"}},
        "path": root,
        **{split: paths.get(split) for split in SPLITS},
        "names": names,
        "nc": len(names),
        "channels": given.get("channels", 3),
        **({"yaml_file": str(file)} if file else {}),
        "coco": coco,
        "absent": absent,
        "category_ids": [id_ for id_, _ in categories],
        **describe_keypoints(label, given, headers, len(names), task),
        "notes": _notes(headers),
        "warnings": warnings(coco),
    }


def write_description(splits: Mapping[str, tuple[str | Path, str | Path | None]]) -> Path:
    """Write a data YAML for JSON files and image folders into the cache folder, named by its content.

    Args:
        splits: Split -> (JSON file, image folder or None).

    Raises:
        DataError: If the cache folder cannot be written.
    """
    content: dict[str, Any] = {split: str(Path(json_path).absolute()) for split, (json_path, _) in splits.items()}
    images = {split: str(Path(folder).absolute()) for split, (_, folder) in splits.items() if folder is not None}
    if images:
        content["images"] = images
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return write_cached(text, "data")


def write_cached(text: str, kind: str, name: str = "") -> Path:
    """Write a YAML into the cache folder under a name made of its content, and return its path.

    Args:
        text: The content.
        kind: Folder in the cache.
        name: Name of the file, in a folder named by the content; without one the file itself is.

    Raises:
        DataError: If the cache folder cannot be written.
    """
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = cache_folder() / kind / (f"{key}/{name}" if name else f"{key}.yaml")
    try:
        make_folder(kind, *([key] if name else []))
        write_text(file, text)
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}; set {VARIABLE} to a folder you can write") from error
    return file


class _AbsentError(DataError):
    """A file or folder of a split is not there, which matters only to those who use the split."""


def _is_json(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return isinstance(value, str | Path) and str(value).lower().endswith(".json")


def _generated(label: str, name: Any) -> Path:
    if not isinstance(name, str) or name not in GENERATORS:
        raise DataError(f"{label}: 'generate: {shown(name)}' is unknown; known: {', '.join(GENERATORS)}")
    module, _, function = GENERATORS[name].partition(":")
    return getattr(importlib.import_module(module), function)()


def _root(label: str, given: Mapping[str, Any], base: Path) -> Path:
    value = given.get("path")
    if value is None:
        return base
    if not isinstance(value, str | Path):
        raise DataError(f"{label}: 'path: {shown(value)}' must be a folder")
    tried = dict.fromkeys([_absolute(base, value), _absolute(Path.cwd(), value)])
    for root in tried:
        if os.path.isdir(root):  # noqa: PTH112
            return root
    raise DataError(f"{label}: 'path: {shown(value)}': no such folder; looked for {' and '.join(map(shown, tried))}")


def _image_folders(label: str, images: Any, split: str, root: Path) -> list[Path]:
    if isinstance(images, Mapping):
        unknown = [key for key in images if key not in SPLITS]
        if unknown:
            raise DataError(f"{label}: 'images:' has {unknown[0]!r}; its keys are {', '.join(SPLITS)}")
        images = images.get(split)
    values = images if isinstance(images, list) else [] if images is None else [images]
    folders = []
    for value in values:
        folder = _absolute(root, value) if isinstance(value, str | Path) else None
        if folder is None or not os.path.isdir(folder):  # noqa: PTH112
            raise _AbsentError(
                f"{label}: 'images: {shown(value)}' for {split!r}: no such folder"
                + (f": {shown(folder)}" if folder else "")
            )
        folders.append(folder)
    return folders


def _absolute(base: Path, value: str | Path) -> Path:
    return Path(os.path.normpath(base / os.path.expanduser(value)))  # noqa: PTH111


def _check_names(label: str, given: Mapping[str, Any], names: list[str], is_whole: bool) -> None:
    """Names and their number come from the JSON; saying something else beside it is an error.

    Without all splits, there may be more classes than the JSON files that are here have.
    """
    said = given.get("names")
    if isinstance(said, Mapping):
        in_order = sorted(said, key=lambda key: (0, key, "") if isinstance(key, int) else (1, 0, str(key)))
        said = [said[key] for key in in_order]
    if not is_whole and isinstance(said, list) and set(names) <= set(map(str, said)):
        return
    if said is not None and (not isinstance(said, list) or list(map(str, said)) != names):
        raise DataError(
            f"{label}: 'names: {shown(said)}' are not those of the JSON files, {shown(names)}; leave 'names:' out, "
            "they are read from the JSON, in the order of the category ids"
        )
    if given.get("nc") not in (None, len(names)) and is_whole:
        raise DataError(
            f"{label}: 'nc: {shown(given['nc'])}' but the JSON files have {len(names)} categories; leave 'nc:' out"
        )


def _notes(headers: Mapping[str, Header]) -> list[str]:
    """Say which categories are not in every split."""
    splits: dict[tuple[Id, str], list[str]] = {}
    for split, found in headers.items():
        for category in found.categories:
            splits.setdefault(category, []).append(split)
    return [
        f"category {name!r} (id {id_!r}) is only in {' and '.join(those)}"
        for (id_, name), those in splits.items()
        if len(those) < len(headers)
    ]


def _typo(given: Mapping[str, Any]) -> str:
    hints = {hint for key in given if (hint := nearest(str(key), SPLITS, cutoff=0.7))}
    return "".join(sorted(hints))
