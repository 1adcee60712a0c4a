"""COCO JSON with its images as labels of a task: checked, counted, never converted on disk.

``load_index`` finds the images, takes their true sizes, and turns boxes, masks and keypoints into classes and
normalised coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from . import label_cache
from .box_checks import WARNINGS, check_boxes
from .coco_json import CocoJson, Id, forget, read_coco_json
from .image_names import LAST_PARTS, SAME, elsewhere, image_in
from .images import Images, Located, locate, probe
from .json_entries import short
from .labels import TASKS, make_labels
from .plain_values import same_ids

_SHOWN = 5
_LARGE = 100_000  # annotations of a file that is not held in memory once there is an index


@dataclass(frozen=True)
class CocoIndex:
    """The labels of one split: images that can be read, and their objects as classes and normalised coordinates.

    Attributes:
        path: The JSON file.
        task: ``"detect"``, ``"segment"`` or ``"pose"``.
        category_ids: Category id of each class; the class is the position.
        names: Name of each class.
        files: Path of each image.
        ids: The ids of each image; more than one where the JSON lists a file more than once.
        sizes: ``(n, 2)`` height and width of each image as it is decoded, turned as its EXIF data says.
        cls: ``(m,)`` class of each object.
        bboxes: ``(m, 4)`` centre x, centre y, width, height relative to the image, float32.
        starts: ``(n + 1,)`` the objects of image i are those from ``starts[i]`` to ``starts[i + 1]``.
        points: ``(p, 2)`` x and y of the outlines of all objects relative to the image, float32.
        point_starts: ``(m + 1,)`` the points of object j are those from ``point_starts[j]`` to the next.
        kpts: ``(m, k, 3)`` x and y relative to the image and visibility, float32.
        counts: Counts of what is there, mended and left out.
        named: Examples for some counts.
    """

    path: str
    task: str
    category_ids: tuple[Id, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]
    ids: tuple[tuple[Id, ...], ...]
    sizes: np.ndarray
    cls: np.ndarray
    bboxes: np.ndarray
    starts: np.ndarray
    points: np.ndarray
    point_starts: np.ndarray
    kpts: np.ndarray
    counts: dict[str, int]
    named: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def kpt_shape(self) -> tuple[int, int]:
        """Number of keypoints of an object, and 3 for x, y and visibility."""
        return self.kpts.shape[1], 3

    def labels(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return fresh arrays of image i: classes ``(n, 1)`` and boxes ``(n, 4)``, both float32."""
        own = slice(self.starts[i], self.starts[i + 1])
        return self.cls[own, None].astype(np.float32), self.bboxes[own].copy()

    def segments(self, i: int) -> list[np.ndarray]:
        """Return a fresh outline ``(p, 2)`` of each object of image i, float32, in the order of ``labels``."""
        bounds = self.point_starts[self.starts[i] : self.starts[i + 1] + 1]
        return [self.points[a:b].copy() for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]

    def keypoints(self, i: int) -> np.ndarray:
        """Return a fresh array ``(n, k, 3)`` of the keypoints of image i, float32, in the order of ``labels``."""
        return self.kpts[self.starts[i] : self.starts[i + 1]].copy()

    def summary(self, others: Sequence[str] = ()) -> str:
        """Return one line with every count that is not zero; the first names of missing or unreadable images in it.

        Args:
            others: Splits that the same JSON serves; images of theirs are not said to be missing.
        """
        c = self.counts
        parts = [
            f"{Path(self.path).name}: {c['images']} images ({c['negatives']} without objects), "
            f"{c['boxes']} boxes, {len(self.names)} classes"
        ]
        elsewhere = f"images of {' and '.join(others)}, or missing" if others else ""
        for key, phrase in (_PHRASES | ({"missing_images": elsewhere} if others else {})).items():
            if c.get(key) and (key not in ("bad_polygons", "reshaped_masks") or self.task == "segment"):
                parts.append(f"{c[key]} {phrase}" + _examples(self.named.get(key, ()), c[key]))
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """Return what in the file is hardly meant as it stands, one sentence each, with a count and an example."""
        return [
            f"{Path(self.path).name}: {count} {WARNINGS[key].format(example=_examples(self.named.get(key, ()), 0))}"
            for key in WARNINGS
            if (count := self.counts.get(key))
        ]


# Key of a count -> how the summary says it.
_PHRASES = {
    "crowd": "crowd regions not trained on",
    "clipped": "boxes clipped to their image",
    "degenerate": "boxes without area dropped",
    "duplicate_boxes": "repeated boxes dropped",
    "boxes_as_segments": "objects without a mask that can be used, outlined by their box",
    "other_sizes": "run-length masks of another size than their image",
    "reshaped_masks": "masks that are one flat list or a list of points, read as polygons",
    "holes_filled": "masks with holes filled",
    "tiny_masks": "masks within a pixel, as if relative to their image; COCO means pixels",
    "boxes_redrawn": "objects whose 'bbox' is not the box around their mask, which is trained on",
    "without_keypoints": "objects without labelled keypoints dropped",
    "bad_keypoints": "keypoints outside their image or of negative visibility taken as not labelled",
    "numbers_as_text": "annotations with numbers written as text, read as numbers",
    "ids_of_other_type": "annotations with an id of another type than that of the image or category, matched by value",
    "read_names": "images found though 'file_name' is not their path",
    "missing_images": "images missing",
    "other_images": "images left out: a file of that name is there, but not of the size that the JSON says",
    "unreadable_images": "images unreadable",
    "cut_images": "JPEG files that end too early, used as far as they go",
    "lost_boxes": "boxes lost with missing or unreadable images",
    "size_differs": "images of another size than the JSON says (the image counts)",
    "duplicate_images": "repeated image entries joined",
    "duplicate_categories": "repeated categories dropped",
    "unknown_image": "annotations of unknown images dropped",
    "unknown_category": "annotations of unknown categories dropped",
    "bad_polygons": "polygons without three points left out of their mask",
}


def load_index(
    json_path: str | Path,
    image_roots: Iterable[str | Path],
    categories: Sequence[tuple[Id, str]] | None = None,
    task: str = "detect",
    cache: bool = True,
) -> CocoIndex:
    """Read one COCO JSON with its images into labels. Nothing is written but a file in the cache folder.

    What Ultralytics' own converter does with COCO files is done here too. Crowd regions are not trained on. In a
    segment run all polygons of an object become one outline, a run-length mask its outer outline, an object without a
    mask its box; the box is then the one around the outline, whatever 'bbox' says, but what has no area in 'bbox' is
    no object. In a pose run objects without a labelled keypoint are left out, and 'bbox' is the box. Unlike there,
    coordinates outside the image are clipped to it, and nothing is left out uncounted.

    Args:
        json_path: The JSON file. It may lack 'annotations', as lists of test images do.
        image_roots: Folders that file names are relative to; the first that has the file wins.
        categories: ``(id, name)`` in class order, when several splits share them; the JSON's own sorted by id if None.
        task: ``"detect"``, ``"segment"`` or ``"pose"``.
        cache: Whether labels of the same content, images and task are taken from the cache folder.

    Raises:
        DataError: If the JSON cannot be used for the task or none of its images can be read.
    """
    if task not in TASKS:
        raise DataError(f"{json_path}: task {task!r} cannot be trained from a COCO JSON; known: {', '.join(TASKS)}")
    roots = [str(Path(root).absolute()) for root in image_roots]
    classes = None if categories is None else [list(category) for category in categories]
    known = None
    if cache:
        entry = label_cache.load(label_cache.make_key(task, label_cache.fingerprint(json_path), roots, classes))
        if entry is not None:
            values, arrays = entry
            known = Images(tuple(values["paths"]), arrays["states"], arrays["image_sizes"], arrays["is_cut"])
            paths, states, _ = _located(json_path, values["names"], roots)
            if paths == known.paths and np.array_equal(states, known.states):
                return _index(str(Path(json_path).absolute()), values, arrays)
    coco = read_coco_json(json_path, require_annotations=False)
    values, arrays = _made(coco, roots, classes, task, _located(json_path, coco.file_names, roots), known)
    if cache:
        label_cache.save(label_cache.make_key(task, coco.fingerprint, roots, classes), values, arrays)
    if len(coco.boxes) > _LARGE:
        forget(json_path)
    return _index(coco.path, values, arrays)


def _located(json_path: str | Path, names: Sequence[str], roots: list[str]) -> Located:
    try:
        return locate(names, roots)
    except DataError as error:
        raise DataError(f"{json_path}: {error}") from None


def _made(
    coco: CocoJson, roots: list[str], classes: list[list[Any]] | None, task: str, located: Located, known: Images | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what an index is made of, as plain values and arrays that can be written to a file."""
    images = probe(located.paths, located.states, known)
    stated = coco.image_sizes
    is_stated = stated.min(1) > 0
    # A file found by its last parts alone is the image only if the size does not speak against it.
    is_other = (located.ways == LAST_PARTS) & is_stated & (images.sizes.min(1) > 0)
    is_other &= (stated != images.sizes).any(1) & (stated != images.sizes[:, ::-1]).any(1)
    other = [f"{coco.file_names[i]} as {images.paths[i]}" for i in np.flatnonzero(is_other)]
    images.sizes[is_other] = 0
    is_missing = np.array([not path for path in images.paths]) | is_other
    is_usable = images.sizes.min(1) > 0
    missing = [coco.file_names[i] for i in np.flatnonzero(is_missing)]
    unreadable = [images.paths[i] for i in np.flatnonzero(~is_missing & ~is_usable)]
    cut = [images.paths[i] for i in np.flatnonzero(is_usable & images.is_cut)]
    read = [f"{coco.file_names[i]} as {images.paths[i]}" for i in np.flatnonzero((located.ways != SAME) & is_usable)]
    if not is_usable.any():
        raise DataError(_no_image(coco, roots, missing, unreadable, other))
    _, position, first = _files(images)
    differs = is_usable & is_stated & (stated != images.sizes).any(1)

    classes = classes if classes is not None else [list(category) for category in coco.categories]
    class_of = same_ids([id_ for id_, _ in coco.categories], [id_ for id_, _ in classes])
    of_category = np.array([class_of[id_] for id_, _ in coco.categories], dtype=np.int64)
    labels = make_labels(coco, task, position, of_category[coco.category_of], images.sizes[first][:, ::-1])
    starts = np.searchsorted(labels.image, np.arange(len(first) + 1))
    odd, examples = check_boxes(coco, np.where(is_usable[:, None], images.sizes, 0), task == "pose")
    counts = {
        **coco.counts,
        **labels.counts,
        **odd,
        "images": len(first),
        "negatives": int((np.diff(starts) == 0).sum()),
        "boxes": len(labels.cls),
        "missing_images": len(missing),
        "unreadable_images": len(unreadable),
        "cut_images": len(cut),
        "other_images": len(other),
        "read_names": len(read),
        "size_differs": int(differs.sum()),
        "duplicate_images": coco.counts["duplicate_images"] + int(is_usable.sum()) - len(first),
    }
    named = {"missing_images": missing, "unreadable_images": unreadable, "cut_images": cut, "other_images": other}
    named |= {"read_names": read[:1], **coco.examples, **examples}
    values = {
        "task": task,
        "classes": classes,
        "names": coco.file_names,
        "image_ids": coco.image_ids,
        "paths": images.paths,
        "counts": counts,
        "named": {key: [_printable(name) for name in names[:_SHOWN]] for key, names in named.items()},
    }
    arrays = {
        "states": images.states,
        "image_sizes": images.sizes,
        "is_cut": images.is_cut,
        "cls": labels.cls,
        "bboxes": labels.boxes,
        "starts": starts,
        "points": labels.points,
        "point_starts": labels.point_starts,
        "kpts": labels.keypoints,
    }
    return values, arrays


def _no_image(coco: CocoJson, roots: list[str], missing: list[str], unreadable: list[str], other: list[str]) -> str:
    """Return why no image can be used, and what to write where a file of the first one's name lies elsewhere."""
    where = ", ".join(roots) or "no folder (none of the usual ones exists)"
    text = (
        f"{coco.path}: none of the {len(coco.file_names)} 'images' can be used ({len(missing)} missing, "
        f"{len(unreadable)} unreadable); looked for {short(coco.file_names[0])} in {where}. "
    )
    if other:
        return f"{text}Only a file of that name but of another size than the JSON says is there: {_printable(other[0])}"
    if not missing:
        return f"{text}The first that cannot be read is {_printable(unreadable[0])}"
    here = Path(coco.path).parent
    files = elsewhere(missing, [*roots, str(here), str(here.parent)])
    by_folder: dict[str, str] = {}
    for file in files:
        by_folder.setdefault(str(Path(file).parent), file)
    shown = ", ".join(map(_printable, list(by_folder.values())[:_SHOWN]))
    if len(by_folder) == 1:
        (folder,) = by_folder
        mend = f"'images: {_printable(folder)}' in the data YAML"
        if folder in roots:
            mend = f"its name there as 'file_name', {short(Path(files[0]).name)}"
        return f"{text}There is {shown}: if that is the image, write {mend}"
    if by_folder:
        return (
            f"{text}There are {shown}: name the folder of the right one with 'images:' in the data YAML, or one for "
            "each split, 'images: {train: ..., val: ...}'"
        )
    there = image_in(roots)
    like = f", or write names as they are there as 'file_name', like {short(there)}" if there else ""
    return f"{text}Name their folder with 'images:' in the data YAML{like}"


def _index(path: str, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> CocoIndex:
    images = Images(tuple(values["paths"]), arrays["states"], arrays["image_sizes"], arrays["is_cut"])
    files, position, first = _files(images)
    ids: list[tuple[Id, ...]] = [()] * len(files)
    for place, id_ in zip(position.tolist(), values["image_ids"], strict=True):
        if place >= 0:
            ids[place] += (id_,)
    columns = {key: arrays[key] for key in ("cls", "bboxes", "starts", "points", "point_starts", "kpts")}
    columns["sizes"] = images.sizes[first][:, ::-1].copy()
    for array in columns.values():
        array.setflags(write=False)
    return CocoIndex(
        path=path,
        task=values["task"],
        category_ids=tuple(id_ for id_, _ in values["classes"]),
        names=tuple(name for _, name in values["classes"]),
        files=tuple(files),
        ids=tuple(ids),
        counts=values["counts"],
        named={key: tuple(names) for key, names in values["named"].items()},
        **columns,
    )


def _files(images: Images) -> tuple[list[str], np.ndarray, list[int]]:
    """Return the distinct files that can be read, the place of each entry among them (-1: none), the first of each."""
    places: dict[str, int] = {}
    position = np.full(len(images.paths), -1, dtype=np.int64)
    first: list[int] = []
    for i in np.flatnonzero(images.sizes.min(1) > 0).tolist():
        position[i] = places.setdefault(images.paths[i], len(places))
        if len(first) < len(places):
            first.append(i)
    return list(places), position, first


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _examples(names: Sequence[str], count: int) -> str:
    if not names:
        return ""
    return f" ({', '.join(names)}{', ...' if count > len(names) else ''})"
