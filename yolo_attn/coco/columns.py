"""The rows of a COCO JSON, checked one at a time and put into columns; what is wrong is counted and told once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from .masks import LARGEST, MasksBuilder
from .rows import MISSING, Annotation, Category, short

Id = int | str
_MOST_KEYPOINTS = 300


class Columns:
    """Takes one annotation after the other into the columns of a table, and keeps account of what is wrong."""

    def __init__(self, image_index: dict[Id, int], category_index: dict[Id, int], keypoints: Keypoints):
        self.image_index, self.category_index, self.keypoints = image_index, category_index, keypoints
        self.total = self.unknown_image = self.unknown_category = 0
        self.first_lost: tuple[Id, Id] | None = None
        self.flaws = [
            _Flaw("image_id", "an integer or a string"),
            _Flaw("category_id", "an integer or a string"),
            _Flaw("bbox", "four finite numbers [x, y, width, height]"),
            _Flaw("iscrowd", "0 or 1"),
        ]
        self.image_of, self.category_of = array("q"), array("q")
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")
        self.ids: list[Any] = []
        self.masks = MasksBuilder()

    def add(self, row: Annotation) -> None:
        """Take the next row."""
        self.total += 1
        image_id, category_id = row.image_id, row.category_id
        is_good = (is_id(image_id), is_id(category_id), _is_box(row.bbox), _is_switch(row.iscrowd))
        if not all(is_good):
            for flaw, good in zip(self.flaws, is_good, strict=True):
                if not good:
                    flaw.add(self.total - 1, row)
            return
        image, category = self.image_index.get(image_id), self.category_index.get(category_id)
        if image is None or category is None:
            self.unknown_image += image is None
            self.unknown_category += image is not None
            self.first_lost = self.first_lost or (image_id, category_id)
            return
        self.image_of.append(image)
        self.category_of.append(category)
        self.boxes.extend(row.bbox)
        self.areas.append(row.area if _is_number(row.area) else np.nan)
        self.crowd.append(row.iscrowd == 1)
        self.ids.append(None if row.id is MISSING else row.id)
        self.masks.add(None if row.segmentation is MISSING else row.segmentation)
        self.keypoints.add(self.total - 1, len(self.ids) - 1, row)

    def build(self, path: str, counts: dict[str, int]) -> dict[str, Any]:
        """Return the columns, and write down what was left out.

        Raises:
            DataError: If annotations cannot be used, or none belongs to an image and a category.
        """
        for flaw in self.flaws:
            if flaw.count:
                raise DataError(flaw.message(path, "annotations", self.total))
        counts["unknown_image"], counts["unknown_category"] = self.unknown_image, self.unknown_category
        if self.first_lost and not self.image_of:
            raise DataError(
                f"{path}: all {self.total} 'annotations' point nowhere: {self.unknown_image} to unknown images, "
                f"{self.unknown_category} to unknown categories. The first has image_id {short(self.first_lost[0])} "
                f"and category_id {short(self.first_lost[1])}; 'images' has ids like "
                f"{short(next(iter(self.image_index)))}, 'categories' like {short(next(iter(self.category_index)))}"
            )
        counts["bad_masks"], counts["bad_polygons"] = self.masks.unusable, self.masks.unusable_parts
        return {
            "image_of": np.frombuffer(self.image_of, dtype=np.int64),
            "category_of": np.frombuffer(self.category_of, dtype=np.int64),
            "boxes": np.frombuffer(self.boxes, dtype=np.float64).reshape(-1, 4),
            "areas": np.frombuffer(self.areas, dtype=np.float64),
            "crowd": np.frombuffer(self.crowd, dtype=bool),
            "annotation_ids": tuple(self.ids),
            "masks": self.masks.build(),
            "keypoints": self.keypoints.build(len(self.ids)),
            "keypoint_names": self.keypoints.names,
            "pose_problem": self.keypoints.problem(path, self.total),
        }


class Keypoints:
    """Takes the keypoints of one annotation after the other; how many there are is said by the first that has some."""

    def __init__(self, categories: Sequence[Category]):
        lists = [c.keypoints for c in categories if isinstance(c.keypoints, list) and c.keypoints]
        self.names = tuple(map(str, lists[0])) if lists else ()
        self.count = len(self.names)
        self.other_count = next((len(names) for names in lists if len(names) != self.count), 0)
        self.flaw = _Flaw("keypoints", "")
        self.owners, self.numbers = array("q"), array("d")

    def add(self, number: int, column: int, row: Annotation) -> None:
        """Take the keypoints of row ``number``, which is annotation ``column`` of the table."""
        given = row.keypoints
        if given is MISSING or given is None or given == []:
            return
        is_list = isinstance(given, list) and not len(given) % 3 and len(given) <= 3 * _MOST_KEYPOINTS
        if is_list and all(map(_is_number, given)) and len(given) == 3 * (self.count or len(given) // 3):
            self.count = len(given) // 3
            self.owners.append(column)
            self.numbers.extend(given)
        else:
            self.flaw.add(number, row)

    def build(self, annotations: int) -> np.ndarray | None:
        """Return ``(annotations, k, 3)``, or None if there are no keypoints."""
        if not self.count or self.count > _MOST_KEYPOINTS:
            return None
        keypoints = np.zeros((annotations, self.count, 3))
        keypoints[np.frombuffer(self.owners, dtype=np.int64)] = np.frombuffer(self.numbers).reshape(-1, self.count, 3)
        return keypoints

    def problem(self, path: str, total: int) -> str:
        """Return why no pose model can be trained on these keypoints, or ""."""
        if self.other_count:
            return (
                f"{path}: 'categories': all must have the same number of 'keypoints' to train a pose model; one has "
                f"{self.count}, another {self.other_count}"
            )
        if self.flaw.count:
            self.flaw.wanted = f"{3 * self.count} finite numbers [x, y, visibility, ...] as in the others"
            return self.flaw.message(path, "annotations", total)
        if not self.count or self.count > _MOST_KEYPOINTS:
            return f"{path}: has no 'keypoints' (at most {_MOST_KEYPOINTS}) in its 'categories' or 'annotations'"
        return ""


class _Flaw:
    """How many rows break a rule, and the first of them."""

    def __init__(self, field: str, wanted: str):
        self.field, self.wanted = field, wanted
        self.count, self.number = 0, 0
        self.row: Any = None

    def add(self, number: int, row: Any) -> None:
        if not self.count:
            self.number, self.row = number, row
        self.count += 1

    def message(self, path: str, key: str, total: int) -> str:
        value = getattr(self.row, self.field)
        said = f"no {self.field!r}" if value is MISSING else f"{self.field!r} is {short(value)}"
        id_ = None if self.row.id is MISSING else self.row.id
        return (
            f"{path}: {key!r}: {self.field!r} must be {self.wanted}; {self.count} of {total} entries break that, the "
            f"first is number {self.number} (id {short(id_)}): {said}"
        )


def check(path: str, key: str, rows: Sequence[Any], field: str, is_good: Callable[[Any], bool], wanted: str) -> None:
    """Raise unless ``field`` of every row is good; say how many are not and show the first."""
    flaw = _Flaw(field, wanted)
    for number, row in enumerate(rows):
        if not is_good(getattr(row, field)):
            flaw.add(number, row)
    if flaw.count:
        raise DataError(flaw.message(path, key, len(rows)))


def distinct(
    path: str, key: str, field: str, rows: Sequence[Any], counts: dict[str, int], counted: str
) -> dict[Id, Any]:
    """Map the id of each row to its ``field``; repeats are counted, contradictions are an error."""
    by_id: dict[Id, Any] = {}
    clashes = []
    for row in rows:
        value = getattr(row, field)
        known = by_id.setdefault(row.id, value)
        if known != value:
            clashes.append((row.id, known, value))
    if clashes:
        id_, one, other = map(short, clashes[0])
        raise DataError(
            f"{path}: {key!r}: an id must stand for one {field!r}; {len(clashes)} entries break that, the first: id "
            f"{id_} is {one} and {other}"
        )
    counts[counted] = len(rows) - len(by_id)
    return by_id


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 1 on."""
    return _is_number(value) and value >= 1 and value == int(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_switch(value: Any) -> bool:
    return value is MISSING or value is None or (isinstance(value, int | float) and value in (0, 1))


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a whole number or a string."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int | str) and not isinstance(value, bool)
