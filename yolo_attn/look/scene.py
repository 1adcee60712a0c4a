"""An image, what was found on it, and where it lies in what the network saw: so where a cell of a map lies in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """An image of ``image`` pixels, resized to ``resized`` and put at ``left`` and ``top`` of a picture of ``seen``.

    Sizes are height and width. Offsets are negative where the image was cropped instead of padded.
    """

    image: tuple[int, int]
    seen: tuple[int, int]
    resized: tuple[int, int]
    top: int = 0
    left: int = 0

    def point(self, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """Return the place in the image, x and y, of a place in a map of ``size``; cells are 1 wide, corners at 0."""
        (h, w), (image_h, image_w) = size, self.image
        across, down = x / w * self.seen[1] - self.left, y / h * self.seen[0] - self.top
        return across / self.resized[1] * image_w, down / self.resized[0] * image_h

    def box(self, left: float, top: float, right: float, bottom: float, size: tuple[int, int]) -> Box:
        """Return a box of a map's cells as one of the image, in the same order."""
        return (*self.point(left, top, size), *self.point(right, bottom, size))

    def cell(self, x: float, y: float, size: tuple[int, int]) -> tuple[int, int]:
        """Return row and column of the map's cell in which a place of the image lies, or of the nearest."""
        across = x / self.image[1] * self.resized[1] + self.left
        down = y / self.image[0] * self.resized[0] + self.top
        row, column = (int(at / seen * n) for at, seen, n in zip((down, across), self.seen, size, strict=True))
        return min(max(row, 0), size[0] - 1), min(max(column, 0), size[1] - 1)

    def inside(self, size: tuple[int, int]) -> np.ndarray:
        """Return which cells of a map have their centre in the image and not in the padding."""
        across = np.array([self.point(column + 0.5, 0.5, size)[0] for column in range(size[1])])
        down = np.array([self.point(0.5, row + 0.5, size)[1] for row in range(size[0])])
        across_in, down_in = (across > 0) & (across < self.image[1]), (down > 0) & (down < self.image[0])
        found = down_in[:, None] & across_in
        return found if found.any() else np.ones(size, bool)


@dataclass(frozen=True)
class Detection:
    """Something found on the image: its label, its outline ``(n, 2)`` in pixels, and the score, 0 to 1."""

    label: str
    score: float
    outline: np.ndarray
    keypoints: np.ndarray | None = None

    @property
    def center(self) -> tuple[float, float]:
        """The middle of the outline's extent, x and y."""
        low, high = self.outline.min(0), self.outline.max(0)
        return float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2


@dataclass(frozen=True)
class Scene:
    """The image in RGB, its frame, the chosen pixel, what was found on it, and lines to print beside it."""

    image: np.ndarray
    frame: Frame
    pixel: tuple[float, float]
    detections: tuple[Detection, ...] = ()
    lines: tuple[str, ...] = ()
