"""The plot of a bench: how many times longer and larger each layer makes the model, at each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import fonts
from . import exported
from .cost import PYTORCH
from .summary import is_measured

Row = Mapping[str, Any]
# Okabe and Ito's colours, which colour-blind people tell apart, each with a marker of its own.
_STYLES = (("#0072b2", "o"), ("#d55e00", "D"), ("#009e73", "s"), ("#cc79a7", "^"), ("#e69f00", "v"), ("#56b4e9", "P"))
_GREY = "#666666"


@fonts.style({})
def plot(rows: Sequence[Row], about: Row, path: Path) -> None:
    """Draw a row a layer and a panel a cost; the suffix of ``path`` chooses the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain, *others = rows
    kinds = [k for k in (PYTORCH, *exported.FORMATS) if any(is_measured(row, k) for row in others)]
    panels = [*kinds, "training_memory"]
    layers = _sorted_layers(others)
    places = list(dict.fromkeys(row["place"] for row in others))
    height = 1.9 + 0.235 * max(len(layers), 4)
    figure = Figure(figsize=(2.2 + 3.1 * len(panels), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    spread = 0.5 / max(1, len(places) - 1) if len(places) > 1 else 0.0
    for axis, panel in zip(axes, panels, strict=True):
        for number, place in enumerate(places):
            colour, marker = _STYLES[number % len(_STYLES)]
            offset = (number - (len(places) - 1) / 2) * spread
            found = [
                (layers.index(row["layer"]), *_ratio(row, plain, panel)) for row in others if row["place"] == place
            ]
            kept = [(y + offset, low, middle, high) for y, low, middle, high in found if middle == middle]
            for y, low, _, high in kept:
                axis.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.45, solid_capstyle="butt", zorder=2)
            xs, ys = [middle for _, _, middle, _ in kept], [y for y, *_ in kept]
            axis.plot(xs, ys, marker, color=colour, markersize=5, label=place, zorder=3)
        axis.axvline(1, color=_GREY, linewidth=1, zorder=1)
        axis.set_title(_title(panel, plain, about), fontsize=9, loc="left")
        low, high = axis.get_xlim()
        if high > 2:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.minorticks_off()
        axis.set_xlim(min(low, 0.98), max(high, 1.05))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}\u00d7"))
        axis.grid(axis="x", color="#dddddd", linewidth=0.7)
        axis.tick_params(length=0, labelsize=8)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        for y in range(0, len(layers), 2):
            axis.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axes[0].set_ylim(len(layers) - 0.5, -0.5)  # the cheapest on top
    axes[0].set_yticks(range(len(layers)), layers)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(places), frameon=False, fontsize=9)
    figure.suptitle(f"What a layer costs in {plain['model']}: times the plain model", fontsize=11, x=0.01, ha="left")
    where = f"{about['device']}, {about['processor']}" if about["device"] != "cpu" else about["processor"]
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    figure.supxlabel(
        f"{where}, {threads}, {about['imgsz']} px, batch {about['batch']}. Bars: quartiles of the ratios of rounds.",
        fontsize=8, color=_GREY, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=160, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)


def _sorted_layers(rows: Sequence[Row]) -> list[str]:
    """Return the layers from cheap to dear, by the mean over their places."""
    times: dict[str, list[float]] = {}
    for row in rows:
        times.setdefault(row["layer"], [])
        if is_measured(row, PYTORCH):
            times[row["layer"]].append(row[PYTORCH]["latency_ratio"]["median"])
    return sorted(times, key=lambda layer: sum(times[layer]) / len(times[layer]) if times[layer] else float("inf"))


def _ratio(row: Row, plain: Row, panel: str) -> tuple[float, float, float]:
    """Return first quartile, median and third quartile; NaN where nothing was measured."""
    if panel == "training_memory":
        value = row[panel] / plain[panel] if panel in row else float("nan")
        return value, value, value
    if not is_measured(row, panel):
        return (float("nan"),) * 3
    found = row[panel]["latency_ratio"]
    return found["q1"], found["median"], found["q3"]


def _title(panel: str, plain: Row, about: Row) -> str:
    if panel == "training_memory":
        return f"training memory, batch {about['training_batch']}\nplain: {plain[panel] / 2**20:.0f} MiB"
    name = {PYTORCH: "PyTorch", **exported.TITLES}[panel]
    what = "processor time" if about["clock"] == "cpu" else "latency"
    return f"{what}, {name}\nplain: {1e3 * plain[panel]['latency']['median']:.1f} ms"
