"""The host's datasets, fed from a COCO JSON: no label files, and no cache file beside the user's images."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.data import base
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.rtdetr.val import RTDETRDataset
from ultralytics.utils import LOCAL_RANK, LOGGER

from ...cache import VARIABLE, cache_folder, make_folder
from ...coco.index import Id, load_index
from ...coco.label_cache import read_header
from ...coco.plain_values import same_ids
from ...coco.splits import same_json
from ...errors import DataError

_CHANGED = ("clipped", "degenerate", "duplicate_boxes", "without_keypoints", "boxes_redrawn")
# Counts that mean that something is wrong with the files, not only with a box.
_SUSPICIOUS = (
    "missing_images", "unreadable_images", "cut_images", "size_differs", "unknown_image", "unknown_category",
    "numbers_as_text", "ids_of_other_type", "read_names", "other_sizes", "tiny_masks",
)  # fmt: skip


# Counts that images of other splits in the same JSON add to.
_OF_OTHERS = ("missing_images",)


def split_of(data: Mapping[str, Any], path: str | Path) -> str:
    """Return the split of a description that the host means by a path.

    Raises:
        DataError: If it is none of them, its files are not there, or the path may mean splits with other images.
    """
    coco, absent = data["coco"], data.get("absent", {})
    file = data.get("yaml_file", "the data")
    exact = [split for split in (*coco, *absent) if data.get(split) == path]
    found = exact or [split for split in coco if coco[split]["json"] == os.path.normpath(path)]
    if not found:
        raise DataError(f"{path} is none of the splits of {file}")
    if found[0] in absent:
        raise DataError(absent[found[0]])
    if len({tuple(coco[split]["images"]) for split in found}) > 1:
        raise DataError(f"{file}: {path} may mean {' or '.join(found)}, which have other images; give data[split]")
    return found[0]


class COCOLabels:
    """What a dataset of the host gains: one split of a description made by ``yolo_attn.coco.data_yaml.describe``.

    Attributes:
        image_ids: Path of an image -> its ids in the JSON. The host sorts its own list of images by shape later on.
        true_sizes: Path of an image -> its height and width as it is decoded.
        json_file: The JSON file.
        changed_boxes: Boxes of the JSON that the labels lack, clip or redraw, crowd regions not counted.
        category_ids: Category id of each class as this JSON has it.
        objects: Of a dataset to validate on, place of the image in ``image_ids``, class, and box (x, y, width, height
            in pixels) of each object, as the labels have it; the host writes to the labels themselves.
    """

    image_ids: dict[str, tuple[Id, ...]]
    true_sizes: dict[str, tuple[int, int]]
    json_file: str
    changed_boxes: int
    category_ids: tuple[Id, ...]
    objects: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    # The host's own attributes.
    augment: bool
    cache: Any
    data: dict[str, Any]
    fraction: float
    im_files: list[str]
    prefix: str
    use_keypoints: bool
    use_segments: bool

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Return the images that the JSON lists and that can be read, in the host's order, cut to ``fraction``."""
        name = split_of(self.data, img_path[0] if isinstance(img_path, list) else img_path)
        split = self.data["coco"][name]
        json_path, others = split["json"], same_json(self.data["coco"], name)
        names = [self.data["names"].get(i, "") for i in range(len(self.data["category_ids"]))]
        categories = list(zip(self.data["category_ids"], names, strict=True))
        self.json_file = json_path
        task = "segment" if self.use_segments else "pose" if self.use_keypoints else "detect"
        self._index = load_index(json_path, split["images"], categories, task)
        self.changed_boxes = sum(self._index.counts.get(name, 0) for name in _CHANGED)
        own = [id_ for id_, _ in read_header(json_path, require_annotations=False).categories]
        of_class = {place: id_ for id_, place in same_ids(own, self.data["category_ids"]).items()}
        self.category_ids = tuple(of_class.get(i, id_) for i, id_ in enumerate(self.data["category_ids"]))
        if LOCAL_RANK in {-1, 0}:
            counts = {key: self._index.counts.get(key) for key in _SUSPICIOUS if not (others and key in _OF_OTHERS)}
            say = LOGGER.warning if any(counts.values()) else LOGGER.info
            say(f"{self.prefix}{self._index.summary(others)}")
            for note in self.data.get("notes", ()):
                LOGGER.info(f"{self.prefix}{note}")
            for warning in self._index.warnings():
                LOGGER.warning(f"{self.prefix}{warning}")
            # One description serves the datasets of all splits; what concerns several of them is said once.
            for warning in self.data.pop("warnings", ()):
                LOGGER.warning(f"{self.data.get('yaml_file', 'the data')}: {warning}")
        if self.augment and not self._index.counts["boxes"]:
            raise DataError(f"{json_path}: none of its 'annotations' can be trained on; {self._index.summary()}")
        files = sorted(self._index.files)
        # A count of images or, as in older hosts also for the integer 1, a share of them.
        is_count = isinstance(self.fraction, int) and self.fraction > 1
        count = int(self.fraction if is_count else max(1, round(len(files) * self.fraction)))
        files = files[:count]
        # Newer hosts look how fast a few images are read. Which ones they draw moves the random numbers of training.
        check_file_speeds = getattr(base, "check_file_speeds", None)
        if check_file_speeds is not None:
            check_file_speeds(files, prefix=self.prefix)
        return files

    def update_labels(self, include_class: list[int] | None) -> None:
        """Restrict the labels to some classes, as the host does when it builds the dataset.

        Newer hosts do it again for a model with fewer classes than the data, by number; the validator matches by name.
        """
        if not hasattr(self, "transforms"):
            super().update_labels(include_class)  # type: ignore[misc]

    def get_labels(self) -> list[dict[str, Any]]:
        """Return one label per image, as the host's own ``get_labels`` does."""
        index = self._index
        del self._index  # workers get the dataset pickled; the labels hold all that is needed
        position = {file: i for i, file in enumerate(index.files)}
        order = [position[file] for file in self.im_files]
        sizes, starts = index.sizes.tolist(), index.starts.tolist()
        self.image_ids = {file: index.ids[i] for file, i in zip(self.im_files, order, strict=True)}
        self.true_sizes = {file: tuple(sizes[i]) for file, i in zip(self.im_files, order, strict=True)}
        # Slices of arrays of our own: the host may write to them, and copies what it augments.
        cls, bboxes = index.cls.astype(np.float32)[:, None], index.bboxes.copy()
        keypoints = index.kpts.copy() if self.use_keypoints else None
        labels: list[dict[str, Any]] = []
        for file, i in zip(self.im_files, order, strict=True):
            rows = slice(starts[i], starts[i + 1])
            labels.append(
                {
                    "im_file": file,
                    "shape": self.true_sizes[file],
                    "cls": cls[rows],
                    "bboxes": bboxes[rows],
                    "segments": index.segments(i) if self.use_segments else [],
                    "keypoints": None if keypoints is None else keypoints[rows],
                    "normalized": True,
                    "bbox_format": "xywh",
                }
            )
        if not self.augment and self.changed_boxes:
            own = [np.arange(starts[i], starts[i + 1]) for i in order]
            picked = np.concatenate([np.zeros(0, np.int64), *own])
            place = np.repeat(np.arange(len(order)), [len(rows_of_image) for rows_of_image in own])
            centred = index.bboxes[picked] * np.tile(index.sizes[order][place][:, ::-1], 2).astype(np.float64)
            corner = centred[:, :2] - centred[:, 2:] / 2
            self.objects = place, index.cls[picked], np.concatenate([corner, centred[:, 2:]], axis=1)
        self._pixels = sum(h * w for h, w in (label["shape"] for label in labels))
        return labels

    @property
    def npy_files(self) -> Any:
        """Where decoded images are cached; the host would put them beside the images."""
        return self._npy_files

    @npy_files.setter
    def npy_files(self, beside_images: list[Path]) -> None:
        self._npy_files = _NpyFiles(self.im_files)

    def check_cache_disk(self, safety_margin: float = 0.1) -> bool:
        """Return whether the cache folder can be written and has room for all decoded images."""
        folder = cache_folder() / "images"
        needed = self._pixels * getattr(self, "channels", 3) * (1 + safety_margin)
        try:
            make_folder("images")
            free = shutil.disk_usage(folder).free + sum(f.stat().st_size for f in self.npy_files if f.exists())
            problem = f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free" if needed > free else ""
        except OSError as error:
            problem = str(error.strerror)
        if problem:
            self.cache = None
            LOGGER.warning(
                f"{self.prefix}images are not cached in {folder}: {problem}; {VARIABLE} names another folder"
            )
        return not problem


class COCODataset(COCOLabels, YOLODataset):
    """Dataset of detect, segment and pose models."""


class COCORTDETRDataset(COCOLabels, RTDETRDataset):
    """Dataset of RT-DETR models."""


class _NpyFiles(Sequence[Path]):
    """Cache file of each image as it is now, looked up when it is asked for: a changed image gets another one."""

    def __init__(self, images: list[str]) -> None:
        self._images = images
        self._folder = cache_folder() / "images"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        image = Path(self._images[i]).absolute()
        stat = image.stat()
        key = f"{image}|{stat.st_size}|{stat.st_mtime_ns}"
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
