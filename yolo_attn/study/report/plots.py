"""The plots of a report: differences with intervals, score against cost, learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from ... import fonts
from .analysis import Analysis, Comparison, costs, curves, front
from .cells import short_name
from .phrases import say
from .reading import ATTENTION, LARGER, OWN, PLAIN, POINTWISE

# Okabe and Ito's colours, told apart by colour-blind eyes; ink and its lighter shades follow the page's theme.
INK, SOFT, FAINT = "#1c2127", "#68727d", "#d3d8dd"
COLOURS = {PLAIN: INK, POINTWISE: "#e69f00", LARGER: "#cc79a7", ATTENTION: "#0072b2", OWN: "#009e73"}
MARKERS = {PLAIN: "s", POINTWISE: "D", LARGER: "^", ATTENTION: "o", OWN: "v"}
LABELS = {PLAIN: "plain", POINTWISE: "pointwise", LARGER: "larger_scale", ATTENTION: "attention", OWN: "own"}
NAMES_SHOWN = 14  # points with a name beside them; of more only the controls and the front have one
COLUMNS = 4
_WIDTH = 8.0  # inches


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style."""
    settings: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9,
        "axes.edgecolor": SOFT, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK,
        "axes.unicode_minus": True, "xtick.color": SOFT, "ytick.color": SOFT,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.axisbelow": True, "grid.color": FAINT,
        "figure.dpi": 100, "savefig.dpi": 200, "legend.frameon": False, "pdf.fonttype": 42,
        "svg.fonttype": "none", "svg.hashsalt": "yolo-attn",
    }  # fmt: skip
    with fonts.style(settings):
        yield


def differences(analysis: Analysis, language: str) -> Figure | None:
    """Draw each variant's difference from plain with its interval and its seeds; controls stand below, apart."""
    found = [c for c in analysis.main() if c.pair.mean is not None]
    kinds = {variant.name: variant.kind for variant in analysis.study.variants}
    layers = sorted((c for c in found if kinds[c.variant] in (ATTENTION, OWN)), key=lambda c: c.pair.mean or 0)
    controls = [c for c in found if kinds[c.variant] not in (ATTENTION, OWN)][::-1]
    if not found:
        return None
    rows: list[tuple[float, Comparison]] = [(float(y), c) for y, c in enumerate(controls)]
    start = len(controls) + (0.8 if controls else 0)
    rows += [(start + y, c) for y, c in enumerate(layers)]
    plain = analysis.study.plain.name
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.27 * (rows[-1][0] + 1)), layout="constrained")
    axes = figure.add_subplot()
    edge = limit(found)
    axes.axvline(0, color=INK, linewidth=1)
    for x in (-analysis.effect, analysis.effect):
        axes.axvline(x, color=SOFT, linewidth=0.7, linestyle=(0, (2, 3)))
    if controls and layers:
        axes.axhline(start - 0.9, color=FAINT, linewidth=1)
    for y, c in rows:
        _interval(axes, y, c, COLOURS[kinds[c.variant]], MARKERS[kinds[c.variant]], edge)
    axes.set_yticks([y for y, _ in rows], [short_name(c.variant, plain) for _, c in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", linewidth=0.5)
    axes.set(xlim=(-edge, edge), ylim=(-0.8, rows[-1][0] + 0.8))
    axes.set_xlabel(say("axis_difference", language, metric=say(analysis.primary, language)))
    return figure


def cost(analysis: Analysis, language: str) -> Figure | None:
    """Draw mean score against latency, or against GFLOPs where latency was not measured, and the Pareto front."""
    kind, points = costs(analysis)
    if len(points) < 2:
        return None
    kinds = {variant.name: variant.kind for variant in analysis.study.variants}
    best, plain = front(points), analysis.study.plain.name
    named = [n for n in points if len(points) <= NAMES_SHOWN or n in best or kinds[n] != ATTENTION]
    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    parts = _parts(figure, points, kinds)
    for axes in parts:
        shown = [name for name in points if axes.get_xlim()[0] <= points[name][0] <= axes.get_xlim()[1]]
        axes.plot(*zip(*(points[n] for n in best), strict=True), color=SOFT, linewidth=1, linestyle="--", zorder=1)
        for name in shown:
            (x, y), colour = points[name], COLOURS[kinds[name]]
            scores = analysis.scores(name, analysis.primary).values()
            axes.vlines(x, min(scores), max(scores), color=colour, linewidth=1, alpha=0.45, zorder=2)
            axes.plot(x, y, MARKERS[kinds[name]], color=colour, markersize=6, zorder=3)
        axes.grid(linewidth=0.5)
    parts[0].margins(y=0.1)
    for axes in parts:
        low, high = axes.get_xlim()
        here = {name: point for name, point in points.items() if low <= point[0] <= high}
        _name_points(axes, figure, here, {name: short_name(name, plain) for name in here if name in named})
    for kind_shown in dict.fromkeys(kinds[name] for name in points):
        label = say(LABELS[kind_shown], language)
        parts[0].plot([], [], MARKERS[kind_shown], color=COLOURS[kind_shown], label=label)
    figure.legend(loc="outside upper center", ncols=4, handletextpad=0.2)
    figure.supxlabel(say(f"axis_{kind}", language), fontsize=9)
    parts[0].set_ylabel(say("axis_score", language, metric=say(analysis.primary, language)))
    return figure


def learning(analysis: Analysis, language: str) -> Figure | None:
    """Draw each variant's learning curve, mean and range over seeds, over plain's, in a panel of its own."""
    study = analysis.study
    drawn = [(variant, curve) for variant in study.variants if (curve := curves(study, variant.name))]
    if not drawn:
        return None
    base = next((curve for variant, curve in drawn if variant.kind == PLAIN), None)
    panels = [(variant, curve) for variant, curve in drawn if variant.kind != PLAIN] or drawn
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    cells = [axes for row in grid for axes in row]
    for axes, (variant, curve) in zip(cells, panels, strict=False):
        if base:
            _band(axes, base, SOFT, 0.25, "--")
        if variant.kind != PLAIN:
            _band(axes, curve, COLOURS[variant.kind], 0.3)
        axes.set_title(short_name(variant.name, study.plain.name), loc="left")
        axes.grid(linewidth=0.5)
    late = [v for _, curve in drawn for epoch, values in curve.items() if epoch > max(curve) / 5 for v in values]
    cells[0].set_ylim(bottom=min(late, default=0.0))
    for axes in cells[len(panels) - columns : len(panels)]:
        axes.tick_params(labelbottom=True)
    for axes in cells[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(say("axis_epoch", language), fontsize=9)
    figure.supylabel(say("axis_map", language), fontsize=9)
    return figure


PLOTS = {"differences": differences, "cost": cost, "curves": learning}


def _interval(axes: Any, y: float, c: Comparison, colour: str, marker: str, limit: float) -> None:
    """Draw one difference; an interval that leaves the plot ends in an arrow."""
    low, high = c.pair.low, c.pair.high
    if low is not None and high is not None:
        axes.hlines(y, max(low, -limit), min(high, limit), color=colour, linewidth=1.6, zorder=2)
        for end, at in (("<", -limit), (">", limit)):
            if (end == "<" and low < at) or (end == ">" and high > at):
                axes.plot(at, y, end, color=colour, markersize=5, clip_on=False, zorder=2)
    spread = [y - 0.24] * len(c.pair.differences)
    axes.plot(c.pair.differences, spread, ".", color=colour, alpha=0.6, markersize=4, zorder=2)
    fill = colour if c.verdict in ("better", "worse") else "white"
    axes.plot(c.pair.mean, y, marker, color=colour, markerfacecolor=fill, markersize=6, zorder=3)


def limit(found: Sequence[Comparison]) -> float:
    """Return half the width of the axis: all seeds, and intervals as far as they leave the seeds to be seen."""
    seen = max(abs(difference) for c in found for difference in c.pair.differences)
    ends = [abs(end) for c in found for end in (c.pair.low, c.pair.high) if end is not None]
    return 1.08 * max(seen, min(max(ends, default=0.0), 2.5 * seen), 1e-3)


def _band(axes: Any, curve: dict[int, list[float]], colour: str, alpha: float, line: str = "-") -> None:
    epochs, seeds = list(curve), list(curve.values())
    axes.fill_between(epochs, [*map(min, seeds)], [*map(max, seeds)], color=colour, alpha=alpha, linewidth=0)
    axes.plot(epochs, [*map(fmean, seeds)], color=colour, linewidth=1.4, linestyle=line)


def _parts(figure: Figure, points: dict[str, tuple[float, float]], kinds: dict[str, str]) -> list[Any]:
    """Return the plot's axes: two, with a gap between them, if the larger scale costs far more than all others."""
    near = [x for name, (x, _) in points.items() if kinds[name] != LARGER]
    far = [x for name, (x, _) in points.items() if kinds[name] == LARGER]
    if not near or not far or min(far) < 1.5 * max(near):
        (axes,) = figure.subplots(1, 1, squeeze=False)[0]
        axes.set_xlim(*_around(near + far))
        return [axes]
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    left.set_xlim(*_around(near))
    right.set_xlim(*_around(far))
    right.spines["left"].set_visible(False)
    right.tick_params(axis="y", length=0)
    right.locator_params(axis="x", nbins=3)
    for axes, x in ((left, 1), (right, 0)):  # the cut ends of the axis
        axes.plot(
            x, 0, marker=[(-0.5, -1), (0.5, 1)], markersize=9, color=SOFT, transform=axes.transAxes, clip_on=False
        )
    return [left, right]


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.25 * (high - low) or 0.1 * high or 1.0
    return low - 0.4 * room, high + room


def _name_points(axes: Any, figure: Figure, points: dict[str, tuple[float, float]], shown: dict[str, str]) -> None:
    """Write names beside points, each at the first of some places where it covers no other; else leave it out."""
    figure.draw_without_rendering()
    renderer = figure._get_renderer()  # type: ignore[attr-defined]
    taken = [axes.transData.transform(point) for point in points.values()]
    boxes: list[Any] = []
    for name, short in sorted(shown.items(), key=lambda item: points[item[0]]):
        for dx, dy in _places():
            line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            line["relpos"] = (0 if dx > 0 else 1, 0.5)  # the edge that faces the point
            text = axes.annotate(
                short, points[name], (dx, dy), textcoords="offset points", ha="left" if dx > 0 else "right",
                va="center", fontsize=7.5, zorder=4, arrowprops=line if abs(dy) > 10 else None,
            )  # fmt: skip
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).padded(3)  # of the letters, without the line
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            free = not any(box.overlaps(other) for other in boxes) and not any(box.contains(x, y) for x, y in taken)
            if inside and free:
                boxes.append(box)
                break
            text.remove()


def _places() -> Iterator[tuple[float, float]]:
    """Yield offsets in points, the nearest first."""
    for step in range(1, 7):
        for dy in (9.0 * step, -9.0 * step):
            yield from ((6.0, dy), (-6.0, dy))
        if step == 1:
            yield from ((8.0, 0.0), (-8.0, 0.0))
