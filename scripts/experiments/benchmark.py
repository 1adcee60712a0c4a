"""One call that measures all that is asked for and writes record, table and plot."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from yolo_attn.bench.floor import ceilings
from yolo_attn.bench.measure import settle_allocator
from yolo_attn.errors import ArgumentError

from . import evidence, grid, reference, report

TASK = "benchmark"


def benchmark(
    against: str | Path | None,
    layers: Sequence[str],
    levels: Sequence[str] = tuple(grid.SIDES),
    models: Sequence[str] | None = None,
    batch: Sequence[int] | None = None,
    precision: Sequence[str] | None = None,
    compile: bool = False,
    rounds: int = 9,
    threads: int | None = None,
    clock: str = "wall",
    device: str | None = None,
    whole: bool = False,
    start: bool = False,
    no_layers: bool = False,
    minutes: float = 9,
    resume: bool = False,
    out: str | Path = "results",
) -> str:
    """Measure, write ``<version>--<device>--benchmark.json`` and its plots into ``out``, return the Markdown table.

    The record is written after every row, so that whatever ends the run leaves what was measured.

    Args:
        against: Folder of Python files with other implementations, or None.
        layers: YAML names of the layers.
        levels: Among ``P3``, ``P4``, ``P5`` of an image of 640 px.
        models: Scales of YOLOv8, which set the widths. Default ``n``, on a GPU ``n m``.
        batch: Batch sizes. Default 1, on a GPU 1 and 8.
        precision: Among ``fp32``, ``bf16``, ``fp16`` (autocast; fp16 on a GPU only). Default fp32, on a GPU all.
        compile: Measure ``torch.compile`` too.
        rounds: Rounds per measurement.
        threads: Threads of PyTorch on the CPU.
        clock: ``wall``, or ``cpu`` for processor time; on a GPU device events are used for the layers.
        device: A torch device; by default the first GPU, else the CPU.
        whole: Measure yolov8n with each layer against yolov8n.
        start: Measure the start of the ``yolo`` command.
        no_layers: Leave the layers alone out.
        minutes: No measurement begins later than this.
        resume: Keep the rows of a record that stands in ``out`` and was made with the same settings.
        out: Folder of the record.

    Raises:
        UnknownLayerError: If there is no such layer.
        ArgumentError: If fp16 is asked for on the CPU, or there is nothing to measure.
        DataError: If ``against`` holds no Python file.
    """
    deadline = time.monotonic() + 60 * minutes
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    cuda = device.startswith("cuda")
    models = models or (["n", "m"] if cuda else ["n"])
    batch = batch or ([1, 8] if cuda else [1])
    precision = list(precision or (["fp32", "fp16", "bf16"] if cuda else ["fp32"]))
    clock = "events" if cuda else clock
    if "fp16" in precision and not cuda:
        raise ArgumentError("--precision fp16 needs a GPU; on the CPU measure fp32 or bf16")
    if no_layers and not (whole or start):
        raise ArgumentError("--no-layers leaves nothing to measure; add --whole or --start")
    settle_allocator()
    if threads:
        torch.set_num_threads(threads)
    todo = [] if no_layers else grid.cases(layers, models, levels, batch, precision, compile)
    classes, failures = reference.load_classes(against) if against else ({}, {})
    for line in failures.values():
        print(line, flush=True)
    settings: dict[str, Any] = {
        "device": device, "against": Path(against).name if against else "", "rounds": rounds, "clock": clock,
        "threads": torch.get_num_threads(), "failures": failures,
    }  # fmt: skip
    old = evidence.load(out, TASK) if resume else None
    same = old is not None and settings.items() <= old["settings"].items()
    rows = list(old["rows"]) if old is not None and same else []
    settings["ceilings"] = old["settings"]["ceilings"] if old is not None and same else {}
    settings["ceilings"] |= ceilings(device, [p for p in precision if f"matmul {p}" not in settings["ceilings"]], clock)
    command = (
        f"python scripts/benchmark.py --against {settings['against']}" if against else "python scripts/benchmark.py"
    )

    def keep() -> Path:
        return evidence.save(evidence.record(TASK, settings, rows, command), out)

    def left() -> float:
        return deadline - time.monotonic()

    if start:
        from . import start_time

        rows = [row for row in rows if "program" not in row]
        for row in start_time.measure(seconds=left() / (1 + whole + bool(todo))):
            rows.append(row)
            keep()
    todo = [case for case in todo if not any(asdict(case).items() <= row.items() for row in rows)]
    for row in grid.measure_all(todo, device, clock, rounds, classes, settings["ceilings"], left(), _say):
        rows.append(row)
        keep()
    if whole:
        from . import whole_model

        rows = [row for row in rows if "place" not in row]
        for row in whole_model.measure_all(layers, device, rounds, left(), _say):
            rows.append(row)
            keep()
    path = keep()
    content = json.loads(path.read_text(encoding="utf-8"))
    if any("level" in row for row in rows):
        for suffix in (".svg", ".png"):
            report.plot(content, path.with_suffix(suffix))
    _say(str(path))
    return report.benchmark_table(content)


def _say(line: str) -> None:
    print(line, flush=True)
