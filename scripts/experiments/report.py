"""A benchmark's record as Markdown and as a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def benchmark_table(content: Mapping[str, Any]) -> str:
    """Return the record of ``scripts/benchmark.py`` as Markdown.

    For each model, batch and precision a table with a row per layer: our time of forward and backward with the share
    of the machine's floor in it, how many times longer the other implementation takes (with quartiles), and its bytes
    kept for backward over ours.
    """
    parts = []
    for (model, batch, precision, compiled), rows in _settings(content["rows"]):
        levels = sorted({row["level"] for row in rows})
        title = f"YOLOv8{model}, batch {batch}, {precision}{', compiled' if compiled else ''}"
        heads = [f"{level} {word}" for level in levels for word in ("ms", "floor", "theirs/ours", "saved")]
        lines = [f"**{title}**", "", f"| layer | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        for layer in dict.fromkeys(row["layer"] for row in rows):
            by_level = {row["level"]: row for row in rows if row["layer"] == layer}
            cells = itertools.chain(*(_cells(by_level.get(level)) for level in levels))
            lines.append(f"| {layer} | {' | '.join(cells)} |")
        means = [("-", "-", _mean([r for r in rows if r["level"] == level]), "-") for level in levels]
        lines.append(f"| geometric mean | {' | '.join(itertools.chain(*means))} |")
        lines.append(f"\nOver all levels: {_mean(rows)}.")
        parts.append("\n".join(lines))
    for key, table in (("place", _whole), ("program", _start)):
        rows = [row for row in content["rows"] if key in row]
        if rows:
            parts.append(table(rows))
    return "\n\n".join(parts)


def plot(content: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the layers by time of forward and backward, ours, theirs and the floor, one panel a level.

    The first setting of the record is drawn. The suffix of ``path`` chooses the format.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot

    (model, batch, precision, compiled), rows = next(iter(_settings(content["rows"])))
    levels = sorted({row["level"] for row in rows})
    first = sorted((r for r in rows if r["level"] == levels[0]), key=lambda r: r["ours training"][0])
    layers = [row["layer"] for row in first]
    figure, axes = pyplot.subplots(
        1, len(levels), figsize=(1 + 4 * len(levels), 1.5 + 0.35 * len(layers)), sharey=True, squeeze=False
    )
    for axis, level in zip(axes[0], levels, strict=True):
        found = {row["layer"]: row for row in rows if row["level"] == level and row["layer"] in layers}
        places = {layer: place for place, layer in enumerate(layers) if layer in found}
        ours = [found[layer]["ours training"][0] * 1e3 for layer in places]
        pairs = [(p, found[n]["theirs training"][0] * 1e3) for n, p in places.items() if "theirs training" in found[n]]
        floors = [found[layer]["training floor"] * 1e3 for layer in places]
        axis.barh([p - 0.2 for p in places.values()], ours, 0.38, label="yolo-attn", color="#0072b2")
        if pairs:
            axis.barh([p + 0.2 for p, _ in pairs], [t for _, t in pairs], 0.38, label="listing", color="#e69f00")
        axis.plot(floors, list(places.values()), "k|", markersize=14, label="floor of the machine")
        axis.set(xscale="log", title=level, xlabel="forward and backward, ms", yticks=range(len(layers)))
        axis.set_yticklabels(layers)
    axes[0][0].legend(fontsize="small")
    figure.suptitle(
        f"YOLOv8{model}, batch {batch}, {precision}{', compiled' if compiled else ''}, {content['machine']['device']}"
    )
    figure.tight_layout()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
    return path


def _settings(rows: Rows) -> list[tuple[tuple[Any, ...], Rows]]:
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if "level" in row:
            found.setdefault((row["model"], row["batch"], row["precision"], row["compiled"]), []).append(row)
    return list(found.items())


def _cells(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["-"] * 4
    time = row["ours training"][0]
    cells = [f"{time * 1e3:.3g}", f"{row['training floor'] / time:.0%}"]
    if "training ratio" not in row:
        return [*cells, "-", "-"]
    median, low, high = row["training ratio"]
    return [*cells, f"{median:.2f} ({low:.2f}-{high:.2f})", f"{row['theirs saved'] / max(1, row['ours saved']):.2f}"]


def _mean(rows: Rows) -> str:
    values = [row["training ratio"][0] for row in rows if "training ratio" in row]
    return f"{math.exp(sum(map(math.log, values)) / len(values)):.2f}" if values else "-"


def _whole(rows: Rows) -> str:
    lines = [
        "**Whole model, with the layer over without**", "",
        "| layer | place | training step | inference | training memory |", "|---" * 5 + "|",
    ]  # fmt: skip
    for row in rows:
        times = (f"{m:.3f} ({a:.3f}-{b:.3f})" for m, a, b in (row["training ratio"], row["inference ratio"]))
        memory = f"{row['memory ratio']:.3f}" if "memory ratio" in row else "-"
        lines.append(f"| {row['layer']} | {row['place']} | {' | '.join(times)} | {memory} |")
    return "\n".join(lines)


def _start(rows: Rows) -> str:
    lines = [
        "**Start, with yolo-attn over without**",
        "",
        "| program | pairs | without, s | with, s | ratio |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        median, low, high = row["ratio"]
        times = f"{row['without'][0]:.3f} | {row['with'][0]:.3f}"
        lines.append(f"| `{row['program']}` | {row['pairs']} | {times} | {median:.3f} ({low:.3f}-{high:.3f}) |")
    return "\n".join(lines)


def gpu_table(content: Mapping[str, Any]) -> str:
    """Return the record of ``scripts/experiments/gpu.py`` as Markdown: a table a part, then what failed."""
    good = [row for row in content["rows"] if "error" not in row]
    tables = {"training": _training, "attention": _attention, "amp": _amp}
    parts = []
    for part, table in tables.items():
        rows = [row for row in good if row["part"] == part]
        parts += [table(rows)] if rows else []
    layers = benchmark_table({"rows": [row for row in good if row["part"] in ("layers", "compiled")]})
    failed = [f"- {_case(row)}: {row['error']}" for row in content["rows"] if "error" in row]
    parts += [layers] if layers else []
    parts += ["\n".join(["**Failed**", "", *failed])] if failed else []
    return "\n\n".join(parts)


def _training(rows: Rows) -> str:
    base = {row["batch"]: row["interval"] for row in rows if row["model"] == "stock"}
    lines = [
        "**Training steps of Ultralytics' trainer**", "",
        "| model | batch | images/s | step, ms | peak, GB | time over stock |", "|---" * 6 + "|",
    ]  # fmt: skip
    for row in rows:
        peak = row.get("allocated", row.get("resident", 0)) / 1e9
        over = f"{row['interval'] / base[row['batch']]:.3f}" if row["batch"] in base else "-"
        numbers = f"{row['images/s']:.1f} | {row['step'] * 1e3:.3g} | {peak:.2f} | {over}"
        lines.append(f"| {row['model']} | {row['batch']} | {numbers} |")
    return "\n".join(lines)


def _attention(rows: Rows) -> str:
    """Each layer and precision: the head widths seen, the operators taken, the widths each backend accepts."""
    lines = ["**Attention**", "", "| layer | precision | head widths | takes | accepted by |", "|---" * 5 + "|"]
    for layer, precision in dict.fromkeys((row["layer"], row["precision"]) for row in rows):
        mine = [row for row in rows if (row["layer"], row["precision"]) == (layer, precision)]
        widths = sorted({shape[-1] for row in mine for shape in row["heads"]})
        taken = sorted({name.removeprefix("aten::_scaled_dot_product_") for row in mine for name in row["takes"]})
        counts = {b: sum(not row["accepts"][b] for row in mine) for b in mine[0]["accepts"]}
        accepted = ", ".join(f"{backend} {count}/{len(mine)}" for backend, count in counts.items())
        lines.append(f"| {layer} | {precision} | {', '.join(map(str, widths))} | {', '.join(taken)} | {accepted} |")
    return "\n".join(lines)


def _amp(rows: Rows) -> str:
    lines = [
        "**AMP training, the layer in the neck**", "",
        "| layer | steps | loss first | loss last | scale | skipped steps | losses not finite |", "|---" * 7 + "|",
    ]  # fmt: skip
    for row in rows:
        losses = " | ".join("-" if x is None else f"{x:.4g}" for x in (row["loss first"], row["loss last"]))
        bad = f"{row['steps with infinite gradients']} | {row['steps with a loss that is not finite']}"
        lines.append(f"| {row['layer'] or 'none'} | {row['steps']} | {losses} | {row['scale']:g} | {bad} |")
    return "\n".join(lines)


def _case(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("error", "seconds"))
