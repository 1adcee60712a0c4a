"""Results on disk: every number that README or CHANGELOG states comes from a record written here."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from yolo_attn._version import __version__
from yolo_attn.cache import write_text
from yolo_attn.errors import DataError

FIELDS = {"task": str, "command": str, "made": str, "machine": dict, "versions": dict, "settings": dict, "rows": list}


def record(task: str, settings: Mapping[str, Any], rows: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """Return a record with the machine and the versions it was made with.

    Args:
        task: Short name, part of the file's name.
        settings: What was chosen.
        rows: What was measured, one mapping each.
        command: The command that makes the record again, free of paths of this machine.
    """
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    packages = ("torch", "ultralytics", "numpy", "faster-coco-eval")
    return {
        "task": task,
        "command": command,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "device": gpu or "cpu", "processor": _processor(), "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "system": platform.system(),
        },
        "versions": {
            "yolo-attn": __version__, "python": sys.version.split()[0],
            **{name: _version(name) for name in packages},
        },
        "settings": dict(settings),
        "rows": rows,
    }  # fmt: skip


def save(content: Mapping[str, Any], folder: str | Path) -> Path:
    """Write ``<version>--<device>--<task>.json`` and return its path.

    Raises:
        DataError: If the record lacks a field.
    """
    check(content)
    path = Path(folder) / file_name(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def file_name(content: Mapping[str, Any]) -> str:
    """Return the name of a record's file, which says version, device and task."""
    device = content["machine"]["device"].lower().replace(" ", "-")
    return f"{content['versions']['yolo-attn']}--{device}--{content['task']}.json"


def check(content: Mapping[str, Any]) -> None:
    """Raise ``DataError`` if a record lacks a field or has one of a wrong type."""
    for name, kind in FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise DataError(f"record field {name!r} is {content.get(name)!r}; it must be a {kind.__name__}")
    if not content["rows"] or not all(isinstance(row, Mapping) for row in content["rows"]):
        raise DataError("record field 'rows' must hold at least one mapping")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def load(folder: str | Path, task: str) -> dict[str, Any] | None:
    """Return the newest record of a task, or None if there is none.

    Raises:
        DataError: If the record lacks a field.
    """
    found = []
    for path in Path(folder).glob(f"*--{task}.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        check(content)
        found.append(content)
    return max(found, key=lambda content: content["made"], default=None)


def transfer_table(content: Mapping[str, Any], chinese: bool = False) -> str:
    """Return the record of ``scripts/transfer_table.py`` as Markdown: one row a model, its places side by side.

    The layers that were tried in one model only are a sentence.
    """
    first, others = (
        content["settings"]["layer"],
        [r for r in content["rows"] if r["layer"] != content["settings"]["layer"]],
    )
    rows = [row for row in content["rows"] if row["layer"] == first]
    places = list(dict.fromkeys(row["place"] for row in rows))
    ends = ("模型", "基础模型的张量", "差别") if chinese else ("model", "tensors of the base", "difference")
    heads = [*ends[:2], *(f"Ultralytics, {place}" for place in places), "yolo-attn", ends[2]]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = {row["place"]: row for row in rows if row["model"] == model}
        tensors = next(iter(mine.values()))["tensors"]
        ours = {row["ours"] for row in mine.values()}
        stock = " | ".join(str(mine[place]["stock"]) if place in mine else "-" for place in places)
        kept = ", ".join(map(str, sorted(ours)))
        lines.append(f"| {model} | {tensors} | {stock} | {kept} | {max(r['difference'] for r in mine.values()):g} |")
    if others:
        layers = list(dict.fromkeys(row["layer"] for row in others))
        whole = [row for row in others if row["ours"] == row["tensors"] and not row["difference"]]
        model, tried = others[0]["model"], len(others)
        if chinese:
            said = f"其余 {len(layers)} 种层在 {model} 中：{tried} 次插入中有 {len(whole)} 次不丢失张量，也不改变输出。"
        else:
            said = f"The other {len(layers)} layers in {model}: {len(whole)} of {tried} insertions lose "
            said += "no tensor and change no output."
        lines += ["", said]
    return "\n".join(lines)


# Starts of the table, in English and Chinese.
_STARTS = {
    "base": ("no layer", "不加层"),
    "stock": ("Ultralytics' transfer", "Ultralytics 的载入方式"),
    "paper": ("all tensors, paper's start", "全部张量，论文的初始化"),
    "identity": ("all tensors, identity start", "全部张量，恒等映射"),
}


def study_table(content: Mapping[str, Any], chinese: bool = False) -> str:
    """Return the record of ``scripts/transfer_study.py`` as Markdown: mean mAP50-95 and its spread over the seeds."""
    rows = content["rows"]
    epochs = [int(key.split()[1]) for key in rows[0] if key.startswith("epoch ")]
    if chinese:
        heads = ["层", "位置", "起点", *(f"{e} 轮后" if e else "训练前" for e in epochs)]
    else:
        names = {0: "before training", 1: "after 1 epoch"}
        heads = ["layer", "place", "start", *(names.get(e, f"after {e} epochs") for e in epochs)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        values = " | ".join(f"{row[f'epoch {e}']:.3f} ± {row[f'spread {e}'] / 2:.3f}" for e in epochs)
        layer = "无" if chinese and row["layer"] == "none" else row["layer"]
        lines.append(f"| {layer} | {row['place'] or '-'} | {_STARTS[row['start']][chinese]} | {values} |")
    return "\n".join(lines)


def speed_table(content: Mapping[str, Any]) -> str:
    """Return a record of ``scripts/speed_study.py`` as Markdown: speed, memory and ratio to stock of each model."""
    lines = ["| model | side | images/s | peak GB | speed over stock | rounds |", "|---" * 6 + "|"]
    for row in content["rows"]:
        low, high = row["ratio range"]
        ratio = "1" if low == high == 1 else f"{row['ratio']:.3f} ({low:.3f}-{high:.3f})"
        cells = [row["model"], row["side"], f"{row['images/s']:.2f}", f"{row['memory']:.2f}", ratio, str(row["rounds"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
