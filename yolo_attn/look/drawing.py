"""The figure: the image with what was found on it, then a row of panels for each layer, with their sentences."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps, font_manager
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator

from ..cache import replacing
from .panels import Bars, Map, Panel, Points, Reading
from .scene import Scene
from .words import effect

# All in inches but for the fonts.
WIDTH, MARGIN, GAP, COLUMNS = 10.0, 0.3, 0.32, 4
PANEL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
BAR = 0.38  # of a panel, for the colour bar and its numbers
TALLEST = 8  # lines of panels in one figure
_FONT, _SMALL, _LINE = 7.5, 6.5, 0.125
_CHINESE = ("Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "SimHei", "WenQuanYi Micro Hei", "Source Han Sans SC")
_STYLE = {"font.size": _FONT, "axes.linewidth": 0.5, "xtick.labelsize": _SMALL, "ytick.labelsize": _SMALL}
_POINTS = 150  # of the largest weights


def draw(scene: Scene, readings: Sequence[Reading], file: Path) -> int:
    """Draw the figure, write it, and return how many layers are in it: as many as fit."""
    with matplotlib.rc_context(_style()):
        height = PANEL * _aspect(scene)
        rows = _fitting(readings)
        lines = [_lines(reading.panels) for reading in rows]
        tops = [MARGIN]
        blocks = [0.45 + sum(0.32 + height + _caption(line) for line in of_row) for of_row in lines]
        first = height + 0.35
        for block in (first, *blocks):
            tops.append(tops[-1] + block)
        figure = Figure(figsize=(WIDTH, tops[-1] + 0.1), dpi=150)
        figure.patch.set_facecolor("white")
        _draw_head(figure, scene, tops[0], height)
        for reading, of_row, top in zip(rows, lines, tops[1:], strict=False):
            _draw_row(figure, scene, reading, of_row, top, height)
        _write(figure, file)
    return len(rows)


def draw_alone(scene: Scene, reading: Reading, panel: Panel, file: Path) -> None:
    """Draw one panel and write it."""
    with matplotlib.rc_context(_style()):
        height = (PANEL - BAR) * _aspect(scene)
        figure = Figure(figsize=(PANEL + 2 * GAP, height + 2 * GAP), dpi=300)
        axes = _axes(figure, GAP, GAP, PANEL - BAR, height)
        _draw_panel(figure, axes, scene, reading, panel)
        _write(figure, file)


def draw_image(scene: Scene, file: Path) -> None:
    """Draw the image with what was found on it and write it."""
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=(2 * PANEL, 2 * PANEL * _aspect(scene)), dpi=300)
        _draw_image(_axes(figure, 0, 0, 2 * PANEL, 2 * PANEL * _aspect(scene)), scene)
        _write(figure, file)


def file_name(panel: Panel, number: int) -> str:
    """Return a panel's name for files."""
    return f"{number:02}-" + "-".join(re.findall(r"[a-z0-9]+", panel.title.lower()))[:60]


def _style() -> Any:
    known = {font.name for font in font_manager.fontManager.ttflist}
    return {**_STYLE, "font.family": ["DejaVu Sans", *[name for name in _CHINESE if name in known][:1]]}


def _aspect(scene: Scene) -> float:
    height, width = scene.image.shape[:2]
    return min(max(height / width, 0.5), 1.3)


def _fitting(readings: Sequence[Reading]) -> list[Reading]:
    """Return the first layers whose panels fit into one figure, one at least."""
    chosen: list[Reading] = []
    used = 0
    for reading in readings:
        used += len(_lines(reading.panels))
        if chosen and used > TALLEST:
            break
        chosen.append(reading)
    return chosen


def _lines(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    return [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]


def _wrapped(text: str, width: float = PANEL) -> list[str]:
    return textwrap.wrap(text, int(width * 72 / _SMALL / 0.53))


def _caption(panels: Sequence[Panel]) -> float:
    """Return the height of the sentences below a line of panels."""
    return _LINE * max(len(_wrapped(panel.words)) for panel in panels) + 0.12


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Any:
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def _text(figure: Figure, left: float, top: float, text: str, size: float = _FONT, **kwargs: Any) -> None:
    w, h = figure.get_size_inches()
    figure.text(left / w, 1 - top / h, text, size=size, va="top", **kwargs)


def _draw_head(figure: Figure, scene: Scene, top: float, height: float) -> None:
    width = min(PANEL, height * scene.image.shape[1] / scene.image.shape[0])
    _draw_image(_axes(figure, MARGIN, top, width, height), scene)
    said = [line for text in scene.lines for line in _wrapped(text, 3 * PANEL)]
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


def _draw_row(
    figure: Figure, scene: Scene, reading: Reading, lines: Sequence[Sequence[Panel]], top: float, height: float
) -> None:
    h, w = reading.view.size
    label = reading.layer.label
    _text(
        figure, MARGIN, top, f"{label[0].upper()}{label[1:]}: {reading.channels} channels, {h} x {w}", 9, weight="bold"
    )
    said = effect(reading)
    _text(figure, MARGIN, top + 0.17, f"{said[0].upper()}{said[1:]}.", _SMALL + 0.5, color="0.25")
    top += 0.45
    for line in lines:
        for column, panel in enumerate(line):
            left = MARGIN + column * (PANEL + GAP)
            _text(
                figure,
                left,
                top,
                "\n".join(textwrap.wrap(panel.title, 46)[:2]),
                _FONT,
                weight="medium",
                linespacing=1.1,
            )
            inner = PANEL - BAR
            drawn = min(height, inner * _aspect(scene))
            axes = _axes(figure, left, top + 0.27, inner, drawn)
            _draw_panel(figure, axes, scene, reading, panel)
            below = top + 0.27 + drawn + (0.3 if isinstance(panel, Bars) else 0.06)
            _text(figure, left, below, "\n".join(_wrapped(panel.words)), _SMALL, color="0.25", linespacing=1.25)
        top += 0.32 + height + _caption(line)


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
    low, high = float(values.min()), float(values.max())
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
