"""The tables of ``docs/which-layer.md``: what each layer costs, where it exports, how it acts, what is known of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments import evidence
from experiments.study_table import judged
from yolo_attn import registry
from yolo_attn.fast import plain
from yolo_attn.host.model.surgery import silence
from yolo_attn.host.study import models

Row = Mapping[str, Any]
Maps = tuple[tuple[int, int], ...]
MODEL, IMGSZ = "yolov8n", 640
# Width and side of each map of YOLOv8n that gets a layer, at 640 px.
PLACES: dict[str, Maps] = {
    "backbone": ((256, 20),),
    "stages": ((32, 160), (64, 80), (128, 40), (256, 20)),
    "neck": ((64, 80), (128, 40), (256, 20)),
    "neck-p3": ((64, 80),),
    "blocks": ((16, 160), (32, 80), (32, 80), (64, 40), (64, 40), (128, 20), (64, 40), (32, 80), (64, 40), (128, 20)),
}
SHOWN = "CBAM"  # in the table of places
# Each word -> the same in Chinese.
WORDS = {
    "channels": "通道", "pixels": "像素", "elements": "逐元素", "strips": "行列", "regions": "区域",
    "surroundings": "邻域", "tokens": "token",
}  # fmt: skip
ACTS = {
    "SE": "channels", "DoubleAttention": "tokens", "BAM": "channels pixels", "BiFormer": "tokens", "MHSA": "tokens",
    "MHSALePE": "tokens surroundings", "CAA": "surroundings", "CBAM": "channels pixels",
    "CloAttention": "tokens surroundings", "CrissCross": "tokens", "CoordAtt": "strips", "CoT": "pixels surroundings",
    "CPCA": "channels surroundings", "DAttention": "tokens", "ECA": "channels", "EMA": "strips surroundings",
    "SimAM": "elements", "GAM": "elements surroundings", "Triplet": "strips pixels", "Shuffle": "channels elements",
    "MLCA": "channels regions", "SK": "channels surroundings", "LSKA": "surroundings", "LSK": "pixels surroundings",
    "SCSA": "strips channels", "ELA": "strips", "Polarized": "channels pixels", "PolarizedSeq": "channels pixels",
    "PSA_p": "channels pixels", "PSA_s": "channels pixels", "GC": "channels",
}  # fmt: skip
# Upper ends of a low and a medium cost at the neck: in GFLOPs, and where it was measured in latency over plain.
GFLOPS_ENDS, LATENCY_ENDS = (0.1, 1.0), (1.05, 1.25)
COSTS = (("low", "低"), ("medium", "中"), ("high", "高"))
HEADS = (
    ("layer", "层"), ("cost", "开销"), ("parameters", "参数量"), ("GFLOPs", "GFLOPs"),
    ("exports", "导出"), ("acts on", "作用于"), ("evidence", "证据"),
)  # fmt: skip
LATENCY_HEADS = (("latency, backbone", "延迟（backbone）"), ("latency, neck", "延迟（neck）"))
PLACE_HEADS = (
    ("place", "位置"), ("model", "模型"), ("layers", "层数"), ("widths", "通道数"), ("parameters", "参数量"),
    ("GFLOPs", "GFLOPs"),
)  # fmt: skip
UNKNOWN = ("not measured", "未测量")


def decision_table(results: Path, chinese: bool) -> str:
    """Return the table of layers as Markdown, from cheap to dear."""
    bench, exports = evidence.load(results, "bench"), evidence.load(results, "export")
    ratios = {
        (row["layer"], row["place"]): row["pytorch"]["latency_ratio"]["median"]
        for row in (bench or {"rows": []})["rows"]
        if "latency_ratio" in row.get("pytorch", {})
    }
    studied = studies(results)
    rows = []
    for layer in registry.TABLE:
        parameters, gflops = cost(layer.name, PLACES["neck"])
        latencies = [ratios.get((layer.name, place)) for place in ("backbone", "neck")]
        key = (gflops, GFLOPS_ENDS) if latencies[1] is None else (latencies[1], LATENCY_ENDS)
        known = [_evidence(record, layer.name) for record in studied]
        cells = [
            f"`{layer.name}`", COSTS[sum(key[0] >= end for end in key[1])][chinese], f"{parameters:,}", f"{gflops:.3f}",
            *(f"{latency:.2f}" if latency else UNKNOWN[chinese] for latency in latencies if bench),
            _exports(exports, layer.name, chinese),
            ("、" if chinese else ", ").join(WORDS[word] if chinese else word for word in ACTS[layer.name].split()),
            "; ".join(filter(None, known)) or UNKNOWN[chinese],
        ]  # fmt: skip
        rows.append((key[0], cells))
    ordered = [cells for _, cells in sorted(rows, key=lambda row: row[0])]
    heads = [*HEADS[:4], *(LATENCY_HEADS if bench else ()), *HEADS[4:]]
    return f"{_table(heads, ordered, chinese)}\n\n{_said_of(bench, chinese)}"


def places_table(chinese: bool) -> str:
    """Return the table of places as Markdown."""
    rows = []
    for place, maps in PLACES.items():
        parameters, gflops = cost(SHOWN, maps)
        end = "" if place == "backbone" else f"-{place}"
        widths = ", ".join(str(width) for width in sorted({width for width, _ in maps}))
        model = f"`{MODEL}-{SHOWN.lower()}{end}.yaml`"
        rows.append([f"`{place}`", model, str(len(maps)), widths, f"{parameters:,}", f"{gflops:.4f}"])
    return _table(PLACE_HEADS, rows, chinese)


def starts_as_identity(chinese: bool) -> str:
    """Return the layers that change nothing before they are trained, even without a gate."""
    found = [f"`{layer.name}`" for layer in registry.TABLE if is_identity(layer.name)]
    return (" 和 " if chinese else " and ").join(found)


def studies(results: Path) -> list[Row]:
    """Return the newest record of each study, by name."""
    tasks = {path.stem.rpartition("--")[2] for path in results.glob("*--study-*.json")}
    return [record for task in sorted(tasks) if (record := evidence.load(results, task))]


@functools.cache
def cost(name: str, maps: Maps) -> tuple[int, float]:
    """Return the parameters of a layer on maps, and the GFLOPs of its convolutions and matrix products."""
    parameters, gflops = 0, 0.0
    for width, side in maps:
        with torch.device("meta"):
            layer, x = registry.create(name, width).eval(), torch.empty(1, width, side, side)
        found = _counted(layer, x)
        parameters, gflops = parameters + found[0], gflops + found[1]
    return parameters, gflops


@functools.cache
def is_identity(name: str) -> bool:
    """Return whether a layer returns its map as it starts."""
    x = torch.linspace(0.1, 1, 32 * 8 * 8).reshape(1, 32, 8, 8)
    with torch.no_grad():
        return torch.equal(registry.create(name, 32).eval()(x), x)


@functools.cache
def model_cost() -> tuple[int, float]:
    """Return parameters and GFLOPs of the model without a layer, counted the same way."""
    with silence():
        model = models.build(models.of_one_scale(models.load(MODEL), 80, 3)).eval()
    return _counted(model, torch.zeros(1, 3, IMGSZ, IMGSZ))


def _counted(module: nn.Module, x: Tensor) -> tuple[int, float]:
    """Return parameters and GFLOPs of one prediction: two for each multiplication with its addition."""
    with plain(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() / 1e9


def _said_of(bench: Row | None, chinese: bool) -> str:
    parameters, gflops = model_cost()
    size = f"{parameters / 1e6:.2f}"
    if chinese:
        counted = f"参数量和 GFLOPs 是 neck 三层之和；YOLOv8n 本身有 {size} M 参数、{gflops:.1f} GFLOPs。"
        ends = "低于 {} 为低，低于 {} 为中。"
    else:
        counted = (
            f"Parameters and GFLOPs are those of the three layers at the neck; YOLOv8n itself has {size} M and "
            f"{gflops:.1f}. "
        )
        ends = "low is below {}, medium below {}."
    if bench is None:
        said = "开销按 GFLOPs：" if chinese else "Cost is by GFLOPs: "
        return counted + said + ends.format(*GFLOPS_ENDS)
    threads = bench["settings"]["threads"]
    counted_threads = f"{threads} 线程" if chinese else f"{threads} thread{'s' * (threads != 1)}"
    where = f"{bench['machine']['processor']}, {counted_threads}, {bench['settings']['imgsz']} px"
    said = f"延迟是与 YOLOv8n 之比（{where}），开销按 neck 的延迟：" if chinese else (
        f"Latency is that of the model with the layer over YOLOv8n's ({where}). Cost is by latency at the neck: "
    )  # fmt: skip
    return counted + said + ends.format(*LATENCY_ENDS)


def _exports(record: Row | None, name: str, chinese: bool) -> str:
    """Return in how many of the ways to export a layer that were tried it is the same, at every place."""
    if record is None:
        return UNKNOWN[chinese]
    states: dict[str, set[str]] = {}
    for row in record["rows"]:
        if row["layer"] == name:
            states.setdefault(row["column"], set()).add(row["state"])
    same = sum(found == {"same"} for found in states.values())
    return f"{same} / {len(states)}" if chinese else f"{same} of {len(states)}"


def _evidence(record: Row, name: str) -> str:
    """Return the differences from plain that a study found for a layer, place by place."""
    found = []
    for row in record["rows"]:
        if row["kind"] == "attention" and row["layer"] == name and row["mean"] is not None:
            found.append(f"{row['place']} {judged(row)}")
    return f"{record['task'].removeprefix('study-')}: {', '.join(found)}" if found else ""


def _table(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], chinese: bool) -> str:
    lines = [[head[chinese] for head in heads], ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
