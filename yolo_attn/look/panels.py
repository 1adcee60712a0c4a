"""What one layer does on one image, as numbers with a meaning: the panels of a row of the figure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .scene import Frame

Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """What a reading refers to: the frame, the size of the layer's map, and the chosen pixel in the image, x and y."""

    frame: Frame
    size: Size
    pixel: tuple[float, float]

    @property
    def cell(self) -> Size:
        """Row and column of the map's cell in which the chosen pixel lies."""
        return self.frame.cell(*self.pixel, self.size)

    @property
    def inside(self) -> np.ndarray:
        """Which cells of the map show the image and not its padding."""
        return self.frame.inside(self.size)

    def place(self, row: float, column: float, size: Size | None = None) -> tuple[int, int]:
        """Return the image pixel, x and y, at the centre of a cell."""
        height, width = self.frame.image
        x, y = self.frame.point(column + 0.5, row + 0.5, size or self.size)
        return min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)


@dataclass(frozen=True)
class Bars:
    """A number for each channel; ``values`` is ``(series, C)``: one series, or one for each branch of a layer.

    ``words`` say what is seen, here and in the others, as the end of a sentence that begins with ``title``; ``raw`` are
    the numbers before any mean was taken.
    """

    title: str
    words: str
    values: np.ndarray
    raw: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Map:
    """A number for each cell of a map, ``(h, w)``, NaN where there is none.

    ``area`` is what the values cover, in cells of the layer's map: left, top, right, bottom. ``boxes`` are areas to
    draw, the chosen pixel's own first, and ``of_pixel`` tells that the values are those of that pixel.
    """

    title: str
    words: str
    values: np.ndarray
    area: tuple[float, float, float, float]
    raw: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    of_pixel: bool = False


@dataclass(frozen=True)
class Points:
    """Places in the layer's map, ``(n, 2)`` as x and y with cells 1 wide, and the chosen pixel's weight for each."""

    title: str
    words: str
    places: np.ndarray
    values: np.ndarray
    raw: dict[str, np.ndarray] = field(default_factory=dict)


Panel = Bars | Map | Points


@dataclass(frozen=True)
class Layer:
    """A layer that is looked at: index of its row, name, where it stands, and its gate if it has one.

    ``path`` is its place inside a block or a stack of repeats, "" for a row of its own.
    """

    index: int
    name: str
    place: str = ""
    path: str = ""
    openness: float | None = None

    @property
    def label(self) -> str:
        """Row and name, and where it is."""
        place = f", {self.place}" if self.place else ""
        return f"row {self.index}{f' ({self.path})' if self.path else ''}, {self.name}{place}"

    @property
    def key(self) -> str:
        """A name for files."""
        inside = f"-{self.path.replace('.', '-')}" if self.path else ""
        return f"row{self.index}{inside}-{self.name.replace(' ', '-')}"


@dataclass(frozen=True)
class Reading:
    """What a layer does on an image: panels with their sentences, and how much it changes the map.

    ``change`` is ``|y - x| / |x|`` over the image, ``effect`` the same for what its gate lets through; ``exact`` tells
    that the layer does nothing but multiply by the gates shown.
    """

    layer: Layer
    view: View
    channels: int
    change: float
    exact: bool
    panels: tuple[Panel, ...]
    raw: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def effect(self) -> float:
        """The change of the map after the layer's gate."""
        return self.change * abs(1.0 if self.layer.openness is None else self.layer.openness)
