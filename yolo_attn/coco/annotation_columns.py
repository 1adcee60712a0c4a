"""The annotations of a COCO JSON as columns, taken one at a time; what cannot be used is left out and counted."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from .entry_checks import Flaw, Id, is_box, is_id, is_number, is_switch
from .json_entries import MISSING, Annotation, Category, short
from .masks import MasksBuilder
from .plain_values import ByValue, number, plain, triples

_MOST_KEYPOINTS = 300


class AnnotationColumns:
    """Takes one annotation after the other into columns, and keeps account of what is wrong."""

    def __init__(
        self, image_index: dict[Id, int], category_index: dict[Id, int], names: Iterable[str], keypoints: Keypoints
    ):
        self.image_index, self.category_index, self.keypoints = image_index, category_index, keypoints
        self.image_by_value = ByValue(image_index)
        self.category_by_value = ByValue(category_index, zip(names, category_index.values(), strict=True))
        self.total = self.unknown_image = self.unknown_category = self.as_text = self.other_type = 0
        self.examples: dict[str, list[str]] = {}
        self.first_lost: tuple[Id, Id] | None = None
        self.flaws = [
            Flaw("image_id", "an integer or a string"),
            Flaw("category_id", "an integer or a string"),
            Flaw("bbox", "four finite numbers [x, y, width, height]"),
            Flaw("iscrowd", "0 or 1"),
        ]
        self.image_of, self.category_of = array("q"), array("q")
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")
        self.ids: list[Any] = []
        self.masks = MasksBuilder()

    def add(self, entry: Annotation) -> None:
        """Take the next entry."""
        self.total += 1
        image_id, category_id, is_text = entry.image_id, entry.category_id, False
        is_good = (is_id(image_id), is_id(category_id), is_box(entry.bbox), is_switch(entry.iscrowd))
        if not all(is_good):
            given, entry, is_text = entry, plain(entry), True
            is_good = (*is_good[:2], is_box(entry.bbox), is_switch(entry.iscrowd))
            if not all(is_good):
                for flaw, good in zip(self.flaws, is_good, strict=True):
                    if not good:
                        flaw.add(self.total - 1, given)
                return
        image, category = self.image_index.get(image_id), self.category_index.get(category_id)
        if image is None or category is None:
            image, category = self._by_value(entry, image, category)
            if image is None or category is None:
                self.unknown_image += image is None
                self.unknown_category += image is not None
                self.first_lost = self.first_lost or (image_id, category_id)
                return
        area = entry.area
        if not is_number(area):
            area = number(area)
            is_text |= area is not None
        self.image_of.append(image)
        self.category_of.append(category)
        self.boxes.extend(entry.bbox)
        self.areas.append(np.nan if area is None else area)
        self.crowd.append(entry.iscrowd == 1)
        self.ids.append(None if entry.id is MISSING else entry.id)
        is_text |= self.masks.add(None if entry.segmentation is MISSING else entry.segmentation)
        is_text |= self.keypoints.add(self.total - 1, len(self.ids) - 1, entry)
        if is_text:
            self.as_text += 1
            self.examples.setdefault("numbers_as_text", [f"annotation {short(entry.id)}"])

    def _by_value(self, entry: Annotation, image: int | None, category: int | None) -> tuple[int | None, int | None]:
        """Return image and category of an annotation whose ids have another type, or name the category."""
        if image is None:
            image = self.image_by_value.get(entry.image_id)
        if category is None:
            category = self.category_by_value.get(entry.category_id)
        if image is not None and category is not None:
            self.other_type += 1
            said = f"image_id {short(entry.image_id)}, category_id {short(entry.category_id)}"
            self.examples.setdefault("ids_of_other_type", [said])
        return image, category

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
        if self.masks.unusable:
            place, given = self.masks.first_unusable
            self.examples["bad_masks"] = [f"annotation {short(self.ids[place])} has {short(given)}"]
        counts["reshaped_masks"] = self.masks.reshaped
        counts["numbers_as_text"], counts["ids_of_other_type"] = self.as_text, self.other_type
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
            "examples": self.examples,
        }


class Keypoints:
    """Takes the keypoints of one annotation after the other; how many there are is said by the first that has some."""

    def __init__(self, categories: Sequence[Category]):
        lists = [c.keypoints for c in categories if isinstance(c.keypoints, list) and c.keypoints]
        self.names = tuple(map(str, lists[0])) if lists else ()
        self.count = len(self.names)
        self.other_count = next((len(names) for names in lists if len(names) != self.count), 0)
        self.flaw = Flaw("keypoints", "")
        self.owners, self.numbers = array("q"), array("d")
        self.other_counts: Counter[int] = Counter()
        self.pairs = 0  # lists of x, y without visibility

    def add(self, number: int, column: int, entry: Annotation) -> bool:
        """Take the keypoints of entry ``number``, which is annotation ``column`` of those kept.

        Returns:
            Whether they are written in another form than COCO's, which can mean one thing only.
        """
        given = entry.keypoints
        if given is MISSING or given is None or given == []:
            return False
        if self._take(given, column):
            return False
        read = triples(given)
        if read is not None and read != given and (not read or self._take(read, column)):
            return True
        self.flaw.add(number, entry)
        if read is not None and len(read) == 2 * self.count and not set(read[2::3]) <= {0, 1, 2}:
            self.pairs += 1
        elif read is not None and not len(read) % 3:
            self.other_counts[len(read) // 3] += 1
        return False

    def _take(self, given: Any, column: int) -> bool:
        """Take keypoints, unless they are not as many numbers as the others have."""
        is_list = isinstance(given, list) and not len(given) % 3 and len(given) <= 3 * _MOST_KEYPOINTS
        if is_list and all(map(is_number, given)) and len(given) == 3 * (self.count or len(given) // 3):
            self.count = len(given) // 3
            self.owners.append(column)
            self.numbers.extend(given)
            return True
        return False

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
        if self.flaw.count and not self.owners and self.pairs == self.flaw.count:
            first = self.flaw.entry
            return (
                f"{path}: all {self.flaw.count} 'annotations' with keypoints have x and y alone of the {self.count} "
                f"that 'categories' names, the first (id {short(first.id)}) {short(first.keypoints)}; write a "
                "visibility after each x, y: 2 seen, 1 hidden, 0 not labelled"
            )
        if self.count and self.flaw.count and not self.owners and sum(self.other_counts.values()) == self.flaw.count:
            found = " or ".join(map(str, sorted(self.other_counts)))
            what = f"name those {found}" if len(self.other_counts) == 1 else "give all the same number"
            return (
                f"{path}: 'categories' names {self.count} keypoints, and all {self.flaw.count} 'annotations' with "
                f"keypoints have {found}; {what}, or leave 'keypoints' out of the categories to train without names"
            )
        if self.flaw.count:
            others = " as in the others" if self.owners else f" for the {self.count} that 'categories' names"
            self.flaw.wanted = (
                f"{3 * self.count} finite numbers [x, y, visibility, ...]{others}"
                if self.count
                else f"finite numbers [x, y, visibility, ...] of 1 to {_MOST_KEYPOINTS} keypoints"
            )
            return self.flaw.message(path, "annotations", total)
        if not self.count or self.count > _MOST_KEYPOINTS:
            return f"{path}: has no 'keypoints' (at most {_MOST_KEYPOINTS}) in its 'categories' or 'annotations'"
        return ""
