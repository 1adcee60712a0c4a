"""The tables of ``docs/studies.md``: what a recorded study found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_attn import tabular
from yolo_attn.study.report.sentences import NONE, SIGNS, signed

Row = Mapping[str, Any]
HEADS = (
    ("variant", "变体"), ("parameters", "参数量"), ("GFLOPs", "GFLOPs"), ("latency", "延迟"), ("mAP50-95", "mAP50-95"),
    ("minus plain", "与基线之差"), ("minus pointwise", "与 pointwise 之差"), ("minus larger scale", "与大一号之差"),
)  # fmt: skip


def found_table(content: Row, chinese: bool = False) -> str:
    """Return the record of a study as Markdown: each variant with its cost, its score and its differences."""
    cells = [
        [
            f"`{row['name']}`", f"{row['parameters']:,}", f"{row['gflops']:.3f}",
            f"{row['latency_ratio']['median']:.2f}" if row.get("latency_ratio") else NONE, f"{row['score']:.1f}",
            judged(row), judged(row["vs pointwise"]), judged(row["vs larger"]),
        ]
        for row in content["rows"]
    ]  # fmt: skip
    table = tabular.markdown_table([head[chinese] for head in HEADS], cells, [0 < i < 5 for i in range(len(HEADS))])
    settings, machine, versions = content["settings"], content["machine"], content["versions"]
    train, val = (f"{settings['data'][split]:,}" for split in ("train", "val"))
    seeds, epochs, size = len(settings["seeds"]), settings["epochs"], settings["imgsz"]
    start = settings["pretrained"]
    if chinese:
        start = f"，从 `{start}` 开始" if start else ""
        said = f"{seeds} 个种子，{epochs} 轮{start}，{size} 像素，{train} 张训练图片，{val} 张验证图片"
    else:
        start = f" from `{start}`" if start else ""
        said = f"{seeds} seeds, {epochs} epochs{start}, {size} px, {train} images to train on and {val} to validate"
    made_with = f"yolo-attn {versions['yolo-attn']}, Ultralytics {versions['ultralytics']}, PyTorch {versions['torch']}"
    return f"{said} ({made_with}; {machine['processor']}).\n\n{table}".rstrip()


def difference(mean: float, low: float | None, high: float | None) -> str:
    """Return ``+0.4 [-0.3, +1.1]``, or the mean alone where there is no interval."""
    return signed(mean, 1) + (f" [{signed(low, 1)}, {signed(high, 1)}]" if low is not None and high is not None else "")


def judged(values: Row | None) -> str:
    """Return a difference after the sign of its verdict, or nothing where nothing was compared."""
    if not values or values.get("mean") is None:
        return ""
    return f"{SIGNS.get(values['verdict'], NONE)} {difference(values['mean'], values['low'], values['high'])}"
