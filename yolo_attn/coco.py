"""COCO JSON with its images as detection labels: checked, counted, never converted on disk.

``load_index`` finds the images, takes their true sizes, and turns the boxes into classes and normalised coordinates.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .coco_table import CocoTable, Id, read_table
from .errors import DataError

_SHOWN = 5
_THREADS = 16
# A box edge that moves by less than this is rounding of the writer, not a box outside the image.
_ROUNDING_PX = 0.01


@dataclass(frozen=True)
class CocoIndex:
    """The labels of one split: images that can be read, and their boxes as classes and normalised coordinates.

    Attributes:
        path: The JSON file.
        category_ids: Category id of each class; the class is the position.
        names: Name of each class.
        files: Path of each image.
        ids: The ids of each image; more than one where the JSON lists a file more than once.
        sizes: ``(n, 2)`` height and width of each image as it is decoded, turned as its EXIF data says.
        cls: ``(m,)`` class of each box.
        bboxes: ``(m, 4)`` centre x, centre y, width, height relative to the image, float32.
        starts: ``(n + 1,)`` the boxes of image i are those from ``starts[i]`` to ``starts[i + 1]``.
        counts: Counts of what is there, mended and left out.
        named: Examples for some counts.
    """

    path: str
    category_ids: tuple[Id, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]
    ids: tuple[tuple[Id, ...], ...]
    sizes: np.ndarray
    cls: np.ndarray
    bboxes: np.ndarray
    starts: np.ndarray
    counts: dict[str, int]
    named: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.files)

    def labels(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return fresh arrays of image i: classes ``(n, 1)`` and boxes ``(n, 4)``, both float32."""
        rows = slice(self.starts[i], self.starts[i + 1])
        return self.cls[rows, None].astype(np.float32), self.bboxes[rows].copy()

    def summary(self) -> str:
        """Return one line with every count that is not zero; the first names of missing or unreadable images in it."""
        c = self.counts
        parts = [
            f"{Path(self.path).name}: {c['images']} images ({c['negatives']} without objects), "
            f"{c['boxes']} boxes, {len(self.names)} classes"
        ]
        for key, phrase in _PHRASES.items():
            if c.get(key):
                parts.append(f"{c[key]} {phrase}" + _examples(self.named.get(key, ()), c[key]))
        return "; ".join(parts)


# Key of a count -> how the summary says it.
_PHRASES = {
    "crowd": "crowd regions not trained on",
    "clipped": "boxes clipped to their image",
    "degenerate": "boxes without area dropped",
    "duplicate_boxes": "repeated boxes dropped",
    "missing_images": "images missing",
    "unreadable_images": "images unreadable",
    "lost_boxes": "boxes lost with missing or unreadable images",
    "size_differs": "images of another size than the JSON says (the image counts)",
    "duplicate_images": "repeated image entries joined",
    "duplicate_categories": "repeated categories dropped",
    "unknown_image": "annotations of unknown images dropped",
    "unknown_category": "annotations of unknown categories dropped",
}


def load_index(
    json_path: str | Path,
    image_roots: Iterable[str | Path],
    categories: Sequence[tuple[Id, str]] | None = None,
) -> CocoIndex:
    """Read one COCO JSON with its images into labels. Nothing is written.

    Args:
        json_path: The JSON file.
        image_roots: Folders that file names are relative to; the first that has the file wins.
        categories: ``(id, name)`` in class order, when several splits share them; the JSON's own sorted by id if None.

    Raises:
        DataError: If the JSON cannot be used or none of its images can be read.
    """
    table = read_table(json_path)
    roots = [Path(root).absolute() for root in image_roots]
    classes = tuple(categories) if categories is not None else table.categories
    with ThreadPoolExecutor(_THREADS) as pool:
        probed = list(pool.map(lambda name: _probe(name, roots), table.file_names))

    missing = [name for name, (file, _) in zip(table.file_names, probed, strict=True) if file is None]
    unreadable = [file for file, size in probed if file is not None and size is None]
    order: dict[str, int] = {}  # path -> position
    ids: list[tuple[Id, ...]] = []
    sizes: list[tuple[int, int]] = []
    position = np.full(len(probed), -1, dtype=np.int64)
    differs = joined = 0
    for i, (file, size) in enumerate(probed):
        if file is None or size is None:
            continue
        if file in order:
            joined += 1
            ids[order[file]] += (table.image_ids[i],)
        else:
            order[file] = len(order)
            ids.append((table.image_ids[i],))
            sizes.append((size[1], size[0]))
            stated = tuple(table.image_sizes[i].tolist())
            differs += stated not in {(0, 0), size}
        position[i] = order[file]
    if not order:
        where = ", ".join(map(str, roots)) or "no folder (none of the usual ones exists)"
        state = f"{len(missing)} missing, {len(unreadable)} unreadable"
        raise DataError(
            f"{table.path}: none of the {len(table.file_names)} 'images' can be used ({state}); looked for "
            f"{table.file_names[0]!r} in {where}. Name their folder with 'images:' in the data YAML"
        )

    class_of = {id_: i for i, (id_, _) in enumerate(classes)}
    of_category = np.array([class_of[id_] for id_, _ in table.categories], dtype=np.int64)
    hw = np.array(sizes, dtype=np.int64)
    image, cls, bboxes, box_counts = _normalise(table, position, of_category[table.category_of], hw)
    starts = np.searchsorted(image, np.arange(len(order) + 1))
    counts = {
        **table.counts,
        **box_counts,
        "images": len(order),
        "negatives": int((np.diff(starts) == 0).sum()),
        "boxes": len(cls),
        "missing_images": len(missing),
        "unreadable_images": len(unreadable),
        "size_differs": differs,
    }
    counts["duplicate_images"] += joined
    for array in (hw, cls, bboxes, starts):
        array.setflags(write=False)
    return CocoIndex(
        path=table.path,
        category_ids=tuple(id_ for id_, _ in classes),
        names=tuple(name for _, name in classes),
        files=tuple(order),
        ids=tuple(ids),
        sizes=hw,
        cls=cls,
        bboxes=bboxes,
        starts=starts,
        counts=counts,
        named={"missing_images": tuple(missing[:_SHOWN]), "unreadable_images": tuple(unreadable[:_SHOWN])},
    )


def _normalise(
    table: CocoTable, position: np.ndarray, cls: np.ndarray, hw: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """Return image, class and normalised box of every box to train on, in the order of the images, and counts."""
    image = position[table.image_of]
    found = image >= 0
    counts = {"crowd": int(table.crowd[found].sum()), "lost_boxes": int((~found & ~table.crowd).sum())}
    wanted = found & ~table.crowd
    image, cls, boxes = image[wanted], cls[wanted], table.boxes[wanted]

    limit = np.concatenate([hw, hw], axis=1)[image][:, [1, 0, 3, 2]].astype(np.float64)  # w, h, w, h
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, limit)
    extent = clipped[:, 2:] - clipped[:, :2]
    xywh = np.concatenate([(clipped[:, :2] + clipped[:, 2:]) / 2, extent], axis=1) / limit
    xywh = xywh.astype(np.float32)
    solid = (boxes[:, 2:] > 0).all(1) & (xywh[:, 2:] > 0).all(1)
    moved = (np.abs(clipped - corners) > _ROUNDING_PX).any(1)
    counts["degenerate"] = int((~solid).sum())
    counts["clipped"] = int((moved & solid).sum())
    image, cls, xywh = image[solid], cls[solid], xywh[solid]

    rows = np.column_stack([image, cls, xywh]).astype(np.float64)
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1]) if len(rows) else np.zeros(0, dtype=np.int64)
    counts["duplicate_boxes"] = len(rows) - len(first)
    by_image = first[np.argsort(image[first], kind="stable")]
    return image[by_image], cls[by_image], xywh[by_image], counts


def _probe(name: str, roots: Sequence[Path]) -> tuple[str | None, tuple[int, int] | None]:
    """Return path and (width, height) of an image; the path is None where it is missing, the size where unreadable."""
    file = _locate(name, roots)
    return (None, None) if file is None else (str(file), _image_size(file))


def _locate(name: str, roots: Sequence[Path]) -> Path | None:
    # Other systems write the same name with backslashes or with accents composed the other way.
    spellings = dict.fromkeys([name, name.replace("\\", "/")])
    if not name.isascii():
        spellings |= dict.fromkeys(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    for spelling in spellings:
        for root in roots:
            try:
                if (root / spelling).is_file():
                    return root / spelling
            except (OSError, ValueError):
                continue
    return None


def _image_size(file: Path) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with Image.open(file) as image:
            (w, h), kind = image.size, image.format
            # Asking a PNG without EXIF data for it would decode the whole picture.
            exif = image.getexif() if kind in {"JPEG", "MPO", "TIFF"} or "exif" in image.info else {}
            turned = exif.get(274) in {5, 6, 7, 8}
            image.verify()
    except Exception:  # Pillow raises its plugins' own errors for damaged files, struct.error and SyntaxError included
        return None
    if not turned:
        return w, h
    return (h, w) if kind in {"JPEG", "MPO", "PNG"} else _decoded_size(file)


def _decoded_size(file: Path) -> tuple[int, int] | None:
    """Return the size the host will see, for formats whose rotation Pillow and OpenCV treat by version."""
    import cv2

    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else (image.shape[1], image.shape[0])


def _examples(names: Sequence[str], count: int) -> str:
    if not names:
        return ""
    return f" ({', '.join(names)}{', ...' if count > len(names) else ''})"
