"""The export matrix as Markdown: a line for each layer, a column for each way to export, and whose limits gaps are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.export_models import PLACES
from yolo_attn import registry

Row = Mapping[str, Any]
# (way to export, layer, what was said) -> whose limit it is; the first that fits.
LIMITS: tuple[tuple[str, str, str, str], ...] = (
    (
        "ONNX opset 13", "DAttention", "grid_sampler",
        "ONNX has `GridSample` since opset 16. Leave `opset` out, or give 16 or more.",
    ),
    (
        "ncnn", "BiFormer", "",
        "ncnn holds at most four dimensions; cutting a map into windows takes six. ncnn cannot load "
        "`x.reshape(1, 8, 2, 5, 2, 6).permute(0, 2, 4, 3, 5, 1)` either.",
    ),
    (
        "ncnn", "DAttention", "",
        "ncnn has no batch, and the layer's groups are one. Any depthwise convolution of `x.reshape(4, 2, 10, 12)` "
        "crashes there too, and a dense one gives NaN.",
    ),
    (
        "ncnn", "EMA|Shuffle|SK|SCSA|PSA_p|PSA_s|GC", "",
        "Not traced yet. The same models are right in ONNX, OpenVINO and MNN.",
    ),
    (
        "Paddle", "SE|BAM", "",
        "Right as a row, wrong inside blocks. Not traced yet; the same models are right in ONNX, OpenVINO and MNN.",
    ),
    (
        "OpenVINO|OpenVINO dynamic", "CPCA", "not finished",
        "On a processor with bfloat16 OpenVINO chooses it by itself, and does not come back from compiling CPCA in ten "
        "bottlenecks. With `INFERENCE_PRECISION_HINT: f32` it is there in two seconds.",
    ),
    (
        "ExecuTorch", "CBAM", "amax",
        "ExecuTorch's XNNPACK partitioner takes a maximum over the channels and then refuses it. "
        "`x.max(1, keepdim=True).values` alone fails there.",
    ),
    (
        "Paddle", "MHSA|MHSALePE|CloAttention", "",
        "x2paddle hands `scaled_dot_product_attention` to Paddle's function of that name, which takes heads and pixels "
        "in another order. The bare PyTorch function comes out wrong too, or stops the converter.",
    ),
    (
        "Paddle", "CBAM|CPCA", "",
        "x2paddle has no maximum along a dimension: it fails on `x.max(1, keepdim=True).values` alone.",
    ),
    (
        "Paddle", "DoubleAttention|DAttention|BiFormer", "not supported yet",
        "x2paddle has no `einsum` (DoubleAttention), `grid_sample` (DAttention) and `index_select` (BiFormer).",
    ),
    (
        "TF SavedModel", "DAttention", "",
        "onnx2tf keeps maps channels last and loses the axes of a grid that is computed from the map. "
        "`grid_sample(x, torch.stack(conv(x).unbind(1), -1))` fails there too.",
    ),
)  # fmt: skip


def export_table(content: Row) -> str:
    """Return the record of ``scripts/experiments/export_matrix.py`` as Markdown.

    A cell is ✓ if the layer is the same as in PyTorch at every place. Else it names the note of each place that is not,
    or the places that were measured.
    """
    rows = content["rows"]
    measured = {row["layer"] for row in rows}
    layers = [name for name in ("none", *(layer.name for layer in registry.TABLE)) if name in measured]
    columns = list(dict.fromkeys(row["column"] for row in rows))
    notes: dict[tuple[str, str], list[str]] = {}
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for layer in layers:
        mine = [row for row in rows if row["layer"] == layer]
        cells = [_cell([row for row in mine if row["column"] == column], notes) for column in columns]
        lines.append(f"| {'YOLOv8n' if layer == 'none' else layer} | {' | '.join(cells)} |")
    lines.append(f"| largest difference | {' | '.join(_worst(rows, column) for column in columns)} |")
    green = sum(row["state"] == "same" for row in rows)
    lines += ["", f"{green} of {len(rows)} exports are the same as their PyTorch model.", ""]
    for number, ((column, reason), (said, *whose)) in enumerate(notes.items(), 1):
        lines.append(f"{number}. {column}, {', '.join(whose)}: {reason} It says: *{said}*")
    return "\n".join(lines).rstrip()


def explain(row: Row) -> str | None:
    """Return whose limit a row that is not green shows, or None if nobody has looked into it."""
    said = row.get("note", "")
    for column, layer, words, text in LIMITS:
        if re.fullmatch(column, row["column"]) and re.fullmatch(layer, row["layer"]) and re.search(words, said):
            return text
    return None


def _worst(rows: Sequence[Row], column: str) -> str:
    """Return the largest difference of the exports of one kind that are the same."""
    same = [row for row in rows if row["column"] == column and row["state"] == "same"]
    differences = [row["difference"] for row in same if "difference" in row]
    return f"{max(differences):.0e}" if differences else "detections alone"


def _cell(rows: Sequence[Row], notes: dict[tuple[str, str], list[str]]) -> str:
    """Return a cell, and add to the notes: way to export and reason -> the layers it holds for, and what was said."""
    if not rows:
        return ""
    marks = {}
    for row in rows:
        if row["state"] == "same":
            continue
        layer = "the plain model" if row["layer"] == "none" else row["layer"]
        said = row.get("note") or f"differs by {row.get('difference', 0):.0e}, first at {row.get('first', '?')}"
        note = notes.setdefault((row["column"], explain(row) or "Not looked into."), [said])
        if layer not in note[1:]:
            note.append(layer)
        marks[row["place"]] = f"[{list(notes.values()).index(note) + 1}]"
    there = [place for place in PLACES if any(row["place"] == place for row in rows)]
    if not marks:
        return "✓" if len(there) in (0, len(PLACES)) else f"✓ {', '.join(there)}"
    if len(set(marks.values())) == 1 and len(marks) == len(there):
        return next(iter(marks.values()))
    return ", ".join(f"{place} {marks.get(place, '✓')}" for place in there)
