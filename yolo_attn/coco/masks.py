"""Masks of a COCO JSON: kept compactly, run lengths checked and decoded, and turned into one outline per object."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from .json_entries import LARGEST
from .plain_values import from_text, numbers, polygons, run_length_mask

INSET = 1e-3  # pixels; far above what float32 loses, far below what matters
_PAIRS = 4_000_000  # most point pairs whose distances are held at once


class Masks:
    """The 'segmentation' of each annotation: ``masks[i]`` gives it back as the JSON has it, or None.

    Polygon points lie in one array, run lengths in bytes or arrays, so that a million masks are a few objects.

    Attributes:
        points: ``(p, 2)`` x and y of all polygon points in pixels, float64.
        part_starts: ``(parts + 1,)`` the points of a polygon are those from its entry to the next.
        starts: ``(m + 1,)`` the polygons of annotation i are those from ``starts[i]`` to ``starts[i + 1]``.
    """

    def __init__(
        self,
        points: np.ndarray,
        part_starts: np.ndarray,
        starts: np.ndarray,
        rles: dict[int, tuple[int, int, str | np.ndarray]],
    ):
        self.points, self.part_starts, self.starts, self._rles = points, part_starts, starts, rles

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> list[list[float]] | dict[str, Any] | None:
        i = range(len(self))[i]
        if i in self._rles:
            h, w, counts = self._rles[i]
            return {"size": [h, w], "counts": counts if isinstance(counts, str) else counts.tolist()}
        return [part.ravel().tolist() for part in self.parts(i)] or None

    def parts(self, i: int) -> list[np.ndarray]:
        """Return the polygons of annotation i as ``(n, 2)`` views; none where it has a run-length mask or no mask."""
        bounds = self.part_starts[self.starts[i] : self.starts[i + 1] + 1].tolist()
        return [self.points[a:b] for a, b in itertools.pairwise(bounds)]

    def pick(self, kept: Sequence[int] | np.ndarray) -> Masks:
        """Return the masks of some annotations, in this order."""
        parts = [self.parts(i) for i in kept]
        sizes = [len(part) for own in parts for part in own]
        points = np.concatenate([np.zeros((0, 2)), *(part for own in parts for part in own)])
        rles = {new: self._rles[old] for new, old in enumerate(map(int, kept)) if old in self._rles}
        starts = np.concatenate([[0], np.cumsum([len(own) for own in parts], dtype=np.int64)])
        return Masks(points, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), starts, rles)

    def is_rle(self, i: int) -> bool:
        """Return whether annotation i has a run-length mask."""
        return i in self._rles

    def bitmap(self, i: int) -> np.ndarray:
        """Return the run-length mask of annotation i as ``(h, w)`` zeros and ones."""
        h, w, counts = self._rles[i]
        runs = run_lengths(counts)
        assert runs is not None  # checked when it came in
        return np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(w, h).T

    def size(self, i: int) -> tuple[int, int]:
        """Return height and width that the run-length mask of annotation i states."""
        return self._rles[i][:2]


class MasksBuilder:
    """Takes the 'segmentation' of one annotation after the other.

    Attributes:
        unusable: Annotations whose mask nothing could be made of.
        unusable_parts: Polygons left out of masks that have others.
        first_unusable: The first of them: its place, and what it has.
        reshaped: Masks that are one flat list or a list of points in place of a list of polygons.
    """

    def __init__(self) -> None:
        self.unusable = self.unusable_parts = self.reshaped = 0
        self.first_unusable: tuple[int, Any] = (0, None)
        self._numbers = array("d")
        self._part_ends = array("q")
        self._ends = array("q")
        self._rles: dict[int, tuple[int, int, str | np.ndarray]] = {}

    def add(self, segmentation: Any) -> bool:
        """Take what the next annotation has; None and an empty list mean no mask.

        Returns:
            Whether it is written as text, which can mean one thing only.
        """
        given, is_text = segmentation, False
        if isinstance(segmentation, str):
            segmentation = from_text(segmentation)
            is_text = segmentation is not given
        if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
            segmentation = segmentation[0]
        if isinstance(segmentation, list):
            is_text |= self._add_polygons(segmentation)
        elif isinstance(segmentation, dict):
            rle = _checked_rle(segmentation)
            if rle is None:
                rle = _checked_rle(run_length_mask(segmentation))
                is_text |= rle is not None
            if rle is None:
                self._refuse(given)
            else:
                self._rles[len(self._ends)] = rle
        elif segmentation is not None:
            self._refuse(given)
        self._ends.append(len(self._part_ends))
        return is_text

    def _add_polygons(self, given: list[Any]) -> bool:
        """Take the polygons that make sense; return whether any is written as text."""
        good, is_text = 0, False
        shaped = polygons(given)
        is_reshaped = shaped is not given and shaped != given
        for polygon in shaped:
            if self._add_polygon(polygon):
                good += 1
                continue
            read = numbers(polygon)
            if read is not None and read != polygon and self._add_polygon(read):
                good, is_text = good + 1, True
        if good:
            self.unusable_parts += len(shaped) - good
            self.reshaped += is_reshaped
        elif shaped:
            self._refuse(given)
        return is_text

    def _refuse(self, given: Any) -> None:
        if not self.unusable:
            self.first_unusable = len(self._ends), given
        self.unusable += 1

    def _add_polygon(self, polygon: Any) -> bool:
        if not (type(polygon) is list and len(polygon) >= 6 and not len(polygon) % 2):
            return False
        before = len(self._numbers)
        try:
            self._numbers.fromlist(polygon)
        except (TypeError, OverflowError):
            return False
        if min(polygon) > -LARGEST and max(polygon) < LARGEST and math.isfinite(sum(polygon)):
            self._part_ends.append(len(self._numbers))
            return True
        del self._numbers[before:]
        return False

    def build(self) -> Masks | None:
        """Return the masks; None if there is not one."""
        if not self._rles and not self._part_ends:
            return None
        return Masks(
            np.frombuffer(self._numbers, dtype=np.float64).reshape(-1, 2),
            np.concatenate([[0], np.frombuffer(self._part_ends, dtype=np.int64) // 2]),
            np.concatenate([[0], np.frombuffer(self._ends, dtype=np.int64)]),
            self._rles,
        )


def _checked_rle(segmentation: dict[str, Any]) -> tuple[int, int, str | np.ndarray] | None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 0 < n < 2**20 for n in size)):
        return None
    runs = run_lengths(counts) if isinstance(counts, str | list) else None
    if runs is None or runs.sum() != size[0] * size[1]:
        return None
    return size[0], size[1], counts if isinstance(counts, str) else runs


def run_lengths(counts: str | Sequence[int] | np.ndarray) -> np.ndarray | None:
    """Return the lengths of the runs of a mask, zeros first, or None where they make no sense.

    Args:
        counts: The lengths, or COCO's text of them: each number in groups of five bits from the lowest, a sixth bit
            saying that more follow, each group a character from '0' on; the last group carries the sign; from the
            fourth number on, the difference to the one two before.
    """
    if not isinstance(counts, str):
        try:
            runs = np.asarray(counts)
        except (ValueError, OverflowError):
            return None
        if runs.ndim != 1 or not len(runs) or runs.dtype.kind not in "iu" or runs.min() < 0 or runs.max() >= 2**40:
            return None
        return runs.astype(np.int64)
    if not counts.isascii():
        return None
    groups = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        return None
    last = np.flatnonzero(groups & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(first, last - first + 1)
    if place.max() > 7:
        return None
    numbers = np.add.reduceat((groups & 31) << 5 * place, first)
    numbers -= np.where(groups[last] & 16, 1 << 5 * (place[last] + 1), 0)
    for parity in (1, 2):
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers if numbers.min() >= 0 else None


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return one closed outline around all polygons, each joined to those before it where they are nearest.

    The bridge from one to the other is walked there and back, so that it encloses nothing.

    Args:
        parts: Polygons ``(n, 2)``.
    """
    outline = parts[0]
    for part in parts[1:]:
        a, b = _nearest(outline, part)
        outline = np.concatenate([outline[: a + 1], part[b:], part[: b + 1], outline[a:]])
    return outline


def _nearest(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    # Of very long outlines every n-th point is enough to find a short bridge.
    step = int(np.ceil(np.sqrt(len(one) * len(other) / _PAIRS)))
    gaps = ((one[::step, None] - other[None, ::step]) ** 2).sum(-1)
    a, b = np.unravel_index(gaps.argmin(), gaps.shape)
    return int(a) * step, int(b) * step


def outlines(bitmap: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Return the outer outlines of the regions of a mask along the edges of its pixels, and whether one has a hole.

    A pixel at x, y reaches to x + 1, y + 1, as in polygons and boxes of COCO. Right and lower edges stand ``INSET``
    before that, so that whoever cuts the outline to whole pixels, as the host does, gets the mask and not a pixel more.
    Pixels that touch at a corner belong together.

    Args:
        bitmap: ``(h, w)`` zeros and ones.
    """
    import cv2

    whole = np.ascontiguousarray(bitmap)
    x, y, w, h = cv2.boundingRect(whole)
    if not w:
        return [], False
    # OpenCV walks along the centres of pixels. Of four small ones for each, those that it meets tell the edges apart:
    # those at odd places lie along right and lower edges.
    fine = cv2.resize(whole[y : y + h, x : x + w], (2 * w, 2 * h), interpolation=cv2.INTER_NEAREST)
    found, tree = cv2.findContours(fine, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    outer = tree[0, :, 3] < 0
    parts = [
        (c[:, 0] + 1) // 2 - INSET * (c[:, 0] % 2) + (x, y)
        for c, is_outer in zip(found, outer, strict=True)
        if is_outer
    ]
    return parts, not outer.all()
