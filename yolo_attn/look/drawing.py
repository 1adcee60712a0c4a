"""The figure: the image with what was found on it, then a row of panels for each layer, with their sentences."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator

from .. import fonts
from ..cache import replacing
from .panels import Bars, Map, Panel, Points, Reading
from .scene import Scene
from .words import effect

# All in inches but for the fonts.
WIDTH, MARGIN, GAP, COLUMNS = 10.0, 0.3, 0.32, 4
PANEL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
BAR = 0.38  # of a panel, for the colour bar and its numbers
TALLEST = 8  # lines of panels in one figure
_TITLE, _FONT, _SMALL, _LINE = 8.5, 7.5, 6.5, 0.125
_ABOVE = 0.34  # the title of a panel
_STYLE = {"font.size": _FONT, "axes.linewidth": 0.5, "xtick.labelsize": _SMALL, "ytick.labelsize": _SMALL}
_POINTS = 150  # of the largest weights


@dataclass(frozen=True)
class _Block:
    """Panels of one layer that stand side by side below its heading."""

    reading: Reading
    panels: Sequence[Panel]
    is_first: bool = True

    @property
    def width(self) -> float:
        return len(self.panels) * (PANEL + GAP) - GAP

    @property
    def title(self) -> list[str]:
        (h, w), label = self.reading.view.size, self.reading.layer.label
        more = f"{self.reading.channels} channels, {h}x{w}" if self.is_first else "more"
        return _wrapped(f"{label[0].upper()}{label[1:]}: {more}", self.width, _TITLE)

    @property
    def effect(self) -> list[str]:
        said = effect(self.reading)
        if not self.is_first:
            return []
        return _wrapped(f"{said[0].upper()}{said[1:]}.", self.width)

    @property
    def heading(self) -> float:
        return 0.17 * len(self.title) + _LINE * len(self.effect) + 0.1

    @property
    def caption(self) -> float:
        return max(_LINE * len(_wrapped(panel.words)) + _foot(panel) for panel in self.panels)


def draw(scene: Scene, readings: Sequence[Reading], file: Path) -> int:
    """Draw the figure, write it, and return how many layers are in it: as many as fit."""
    with fonts.style(_STYLE):
        height, lines = PANEL * _aspect(scene), _lines(readings)
        drawn = min(height, (PANEL - BAR) * _aspect(scene))
        tops, headings = [MARGIN + height + 0.3], [max(block.heading for block in line) for line in lines]
        for line, heading in zip(lines, headings, strict=True):
            tops.append(tops[-1] + heading + _ABOVE + drawn + max(block.caption for block in line) + 0.3)
        figure = Figure(figsize=(WIDTH, tops[-1]), dpi=200)
        _draw_head(figure, scene, MARGIN, height)
        for line, top, heading in zip(lines, tops, headings, strict=False):
            left = MARGIN
            for block in line:
                _draw_block(figure, scene, block, left, top, heading, drawn)
                left += block.width + GAP
        _write(figure, file)
    return len({block.reading.layer for line in lines for block in line})


def draw_alone(scene: Scene, reading: Reading, panel: Panel, file: Path) -> None:
    """Draw one panel and write it."""
    with fonts.style(_STYLE):
        height = (PANEL - BAR) * _aspect(scene)
        figure = Figure(figsize=(PANEL + 2 * GAP, height + 2 * GAP), dpi=300)
        axes = _axes(figure, GAP, GAP, PANEL - BAR, height)
        _draw_panel(figure, axes, scene, reading, panel)
        _write(figure, file)


def draw_image(scene: Scene, file: Path) -> None:
    """Draw the image with what was found on it and write it."""
    with fonts.style(_STYLE):
        figure = Figure(figsize=(2 * PANEL, 2 * PANEL * _aspect(scene)), dpi=300)
        _draw_image(_axes(figure, 0, 0, 2 * PANEL, 2 * PANEL * _aspect(scene)), scene)
        _write(figure, file)


def file_name(panel: Panel, number: int) -> str:
    """Return a panel's name for files."""
    return f"{number:02}-" + "-".join(re.findall(r"[a-z0-9]+", panel.title.lower()))[:60]


def _aspect(scene: Scene) -> float:
    height, width = scene.image.shape[:2]
    return min(max(height / width, 0.5), 1.3)


def _lines(readings: Sequence[Reading]) -> list[list[_Block]]:
    """Return the first layers that fit into one figure, one at least, packed into lines."""
    lines: list[list[_Block]] = []
    for count, reading in enumerate(readings):
        longer = [list(line) for line in lines]
        for i in range(0, len(reading.panels), COLUMNS):
            block = _Block(reading, reading.panels[i : i + COLUMNS], i == 0)
            if not longer or sum(len(b.panels) for b in longer[-1]) + len(block.panels) > COLUMNS:
                longer.append([])
            longer[-1].append(block)
        if count and len(longer) > TALLEST:
            break
        lines = longer
    return lines


def _wrapped(text: str, width: float = PANEL, size: float = _SMALL) -> list[str]:
    return textwrap.wrap(text, int(width * 72 / size / 0.56))


def _foot(panel: Panel) -> float:
    """Return the space between a panel and its sentence."""
    return 0.22 if isinstance(panel, Bars) else 0.06


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Any:
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def _text(figure: Figure, left: float, top: float, text: str, size: float = _FONT, **kwargs: Any) -> None:
    w, h = figure.get_size_inches()
    figure.text(left / w, 1 - top / h, text, size=size, va="top", **kwargs)


def _draw_head(figure: Figure, scene: Scene, top: float, height: float) -> None:
    width = min(PANEL, height * scene.image.shape[1] / scene.image.shape[0])
    _draw_image(_axes(figure, MARGIN, top, width, height), scene)
    said = [line for text in scene.lines for line in _wrapped(text, WIDTH - 2 * MARGIN - width - GAP, _FONT)]
    _text(figure, MARGIN + width + GAP, top, "\n".join(said), linespacing=1.6)


def _draw_image(axes: Any, scene: Scene) -> None:
    height, width = scene.image.shape[:2]
    axes.imshow(scene.image, extent=(0, width, height, 0))
    colors = colormaps["tab10"]
    labels = {detection.label: None for detection in scene.detections}
    for detection in scene.detections:
        color = colors([*labels].index(detection.label) % 10)
        if len(detection.outline):
            axes.add_patch(Polygon(detection.outline, fill=False, edgecolor=color, linewidth=1))
            x, y = detection.outline[:, 0].min(), detection.outline[:, 1].min()
            label = f"{detection.label} {detection.score:.2f}"
            pad = {"facecolor": color, "pad": 0.6, "edgecolor": "none"}
            axes.text(max(x, 0), max(y, 0), label, size=5, color="white", bbox=pad, va="bottom", clip_on=True)
        if detection.keypoints is not None:
            axes.plot(*detection.keypoints.T, ".", color=color, markersize=2)
    _mark(axes, scene)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()


def _draw_block(
    figure: Figure, scene: Scene, block: _Block, left: float, top: float, heading: float, height: float
) -> None:
    _text(figure, left, top, "\n".join(block.title), _TITLE, weight="bold")
    below = top + 0.17 * len(block.title)
    _text(figure, left, below, "\n".join(block.effect), _SMALL, color="0.25", linespacing=1.25)
    top += heading
    for panel in block.panels:
        title = _wrapped(panel.title[0].upper() + panel.title[1:], PANEL, _FONT)
        _text(figure, left, top + _ABOVE - 0.04 - 0.125 * min(len(title), 2), "\n".join(title[:2]), linespacing=1.1)
        shift = 0.22 if isinstance(panel, Bars) else 0  # for the numbers of its axis
        axes = _axes(figure, left + shift, top + _ABOVE, PANEL - BAR - shift, height)
        _draw_panel(figure, axes, scene, block.reading, panel)
        said = "\n".join(_wrapped(panel.words))
        _text(figure, left, top + _ABOVE + height + _foot(panel), said, _SMALL, color="0.25", linespacing=1.25)
        left += PANEL + GAP


def _draw_panel(figure: Figure, axes: Any, scene: Scene, reading: Reading, panel: Panel) -> None:
    if isinstance(panel, Bars):
        _draw_bars(axes, panel)
        return
    height, width = scene.image.shape[:2]
    gray = scene.image.mean(2) if scene.image.ndim == 3 else scene.image
    axes.imshow(gray, cmap="gray", extent=(0, width, height, 0), vmin=-60, vmax=255)
    drawn = (
        _draw_map(axes, scene, reading, panel) if isinstance(panel, Map) else _draw_points(axes, scene, reading, panel)
    )
    if not isinstance(panel, Map) or panel.of_pixel:
        _mark(axes, scene)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="auto")
    bar = figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0, 0.045, 1)))
    bar.ax.tick_params(length=2, width=0.5, pad=1.5)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()


def _draw_map(axes: Any, scene: Scene, reading: Reading, panel: Map) -> Any:
    size = reading.view.size
    left, top, right, bottom = scene.frame.box(*panel.area, size)
    seen = panel.values[np.isfinite(panel.values)]
    if panel.values.shape == size and (reading.view.inside & np.isfinite(panel.values)).any():
        seen = panel.values[reading.view.inside & np.isfinite(panel.values)]
    low, high, colors = _range(seen, panel.of_pixel)
    drawn = axes.imshow(
        np.ma.masked_invalid(panel.values),
        extent=(left, right, bottom, top),
        cmap=colors,
        vmin=low,
        vmax=high,
        alpha=0.65,
    )
    for turn, box in enumerate(panel.boxes[::-1], start=1):
        x0, y0, x1, y1 = scene.frame.box(*box, size)
        color, line = ("red", 1.4) if turn == len(panel.boxes) else ("white", 0.8)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=line))
    return drawn


def _draw_points(axes: Any, scene: Scene, reading: Reading, panel: Points) -> Any:
    places = np.array([scene.frame.point(x, y, reading.view.size) for x, y in panel.places])
    axes.plot(*places.T, ".", color="0.25", markersize=1, alpha=0.35, markeredgewidth=0)
    order = np.argsort(panel.values)[-_POINTS:]
    largest = max(float(panel.values.max()), 1e-12)
    return axes.scatter(
        *places[order].T, c=panel.values[order], s=2 + 14 * panel.values[order] / largest,
        cmap="plasma", vmin=0, vmax=largest, linewidths=0,
    )  # fmt: skip


def _draw_bars(axes: Any, panel: Bars) -> None:
    """Draw channels in falling order: what counts is how far they are apart."""
    count = panel.values.shape[1]
    for turn, series in enumerate(panel.values, start=1):
        falling = np.sort(series)[::-1]
        if len(panel.values) == 1:
            axes.bar(np.arange(count), falling, width=0.8 if count <= 64 else 1.0, color="tab:blue", linewidth=0)
            axes.axhline(float(series.mean()), color="black", linewidth=0.7, linestyle="--")
        else:
            axes.step(np.arange(count), falling, where="mid", linewidth=0.9, label=f"branch {turn}")
    if len(panel.values) > 1:
        axes.legend(fontsize=5.5, frameon=False)
    low, high = float(panel.values.min()), float(panel.values.max())
    gate = "gate" in panel.title or "share" in panel.title
    axes.set_ylim(min(0.0, low * 1.1), 1.0 if gate and 0.2 < high <= 1 else max(high * 1.1, 1e-12))
    axes.set_xlim(-0.6, count - 0.4)
    axes.set_xticks([])
    axes.set_xlabel(f"{count} channels, the highest first", fontsize=_SMALL, labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)


def _range(values: np.ndarray, of_pixel: bool) -> tuple[float, float, str]:
    """Return the ends of the colour scale and its colours; what is nearly constant shall look so."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if of_pixel:
        return 0.0, max(high, 1e-12), "plasma"
    if low < 0 < high:
        return -max(-low, high), max(-low, high), "coolwarm"
    widest = 0.1 * max(abs(low), abs(high), 1e-12)
    if high - low < widest:
        low, high = (low + high - widest) / 2, (low + high + widest) / 2
    return low, high, "viridis"


def _mark(axes: Any, scene: Scene) -> None:
    """Mark the chosen pixel."""
    x, y = scene.pixel
    axes.plot(x, y, "+", color="black", markersize=8, markeredgewidth=2.2)
    axes.plot(x, y, "+", color="white", markersize=7, markeredgewidth=1)


def _write(figure: Figure, file: Path) -> None:
    with replacing(file) as draft:
        figure.savefig(draft, format="png")
