"""Where a wrong export goes wrong: the maps of all rows, exported the same way and compared one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model.ours import kind_of
from .comparison import relative_difference
from .runtimes import Size, run_raw


class _AllRows(nn.Module):
    """Stands in for the head: returns the maps of all rows, one behind the other, ``(B, 1, numbers, 1)``."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        # What the host keeps in each row.
        vars(self).update(i=rows, f=list(range(rows)), type="maps of all rows", np=0, nc=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        # Four dimensions: runtimes take three for boxes and scale them.
        return torch.cat([y.flatten(1) for y in maps], 1)[:, None, :, None]


def find_first_row(
    file: Path, form: str, size: Size, arguments: Mapping[str, Any], inputs: Sequence[Tensor], allowed: float
) -> str:
    """Return the first row whose exported map differs, as ``row 10, CBAM``, or what is known instead."""
    from ultralytics import YOLO
    from ultralytics.engine.exporter import Exporter

    model: Any = YOLO(str(file)).model
    model.float().eval()
    rows, head = list(model.model)[:-1], model.model[-1]
    maps = _AllRows(len(rows))
    model.model[-1], model.save, model.task = maps, list(range(len(rows))), "classify"
    model.pt_path = str(file.with_name("rows.pt"))
    plain = {name: value for name, value in arguments.items() if name != "nms"}
    words = {**plain, "format": form, "imgsz": list(size), "batch": 1, "device": "cpu", "mode": "export"}
    try:
        path = Exporter(overrides=words)(model=model)
        found = run_raw(str(path), inputs)
    except Exception as error:  # a converter may refuse many outputs where it took one
        return f"unknown: its rows cannot be exported one by one ({type(error).__name__})"
    for image, (joined, *_) in zip(inputs, found, strict=True):
        with torch.no_grad():
            expected = [y.flatten() for y in _maps(model, image)]
        if sum(y.numel() for y in expected) != joined.numel():
            return "unknown: its rows cannot be told apart in the exported model"
        parts = joined.flatten().split([y.numel() for y in expected])
        for index, (a, b) in enumerate(zip(expected, parts, strict=True)):
            if relative_difference(a, b) > allowed:
                return f"row {index}, {kind_of(rows[index])[0]}"
    return (
        f"row {len(rows)}, {type(head).__name__}, or where the runtime joins rows: alone, each row before is the same"
    )


def _maps(model: Any, image: Tensor) -> list[Tensor]:
    """Return the map of each row but the last."""
    maps: list[Tensor] = []
    x: Any = image
    for row in list(model.model)[:-1]:
        if row.f != -1:
            x = maps[row.f] if isinstance(row.f, int) else [x if j == -1 else maps[j] for j in row.f]
        x = row(x)
        maps.append(x)
    return maps
