"""Many trainings side by side: read their ``run.json`` files, and write them as text, CSV, Markdown or LaTeX."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import tabular
from ..errors import DataError
from ..host.run.schema import FILE, SCHEMA
from ..tabular import natural, number

DEPTH = 6  # runs/detect/<project>/<name> and some folders around it
LEGEND = "COCO, Ultral.: mAP50-95 in % by either; img/s: training; GiB: peak memory of the GPU, else of the process"
MARK, MARKED = "! ", "!: run.json says what is wrong with its wiring"

Row = dict[str, Any]
# Head of the column, how to read it from a run, and whether it is a number.
COLUMNS: tuple[tabular.Column, ...] = (
    ("run", lambda run: run["run"], False),
    ("model", lambda run: _stem(run["model"]["file"]), False),
    ("layers", lambda run: (MARK if _is_warned(run) else "") + layers(run["model"]["layers"]), False),
    ("data", lambda run: _stem(run["data"]["file"]), False),
    ("epochs", lambda run: f"{len(run['epochs'])}/{run['settings']['epochs']}", True),
    ("COCO", lambda run: _percent(coco_ap(run)), True),
    ("Ultral.", lambda run: _percent(host_ap(run)), True),
    ("img/s", lambda run: number(run["times"].get("train_images_per_second"), 0), True),
    ("GiB", lambda run: number(peak_memory(run), 1), True),
    ("state", lambda run: run["state"], False),
)


def find_runs(folder: Path, warn: Callable[[str], None]) -> list[Row]:
    """Read every ``run.json`` in a folder and below, sorted by name.

    Args:
        folder: Where to look, ``DEPTH`` folders deep.
        warn: Takes a line for each file that cannot be used.

    Returns:
        The records, each with ``run``: its folder as seen from ``folder``.

    Raises:
        DataError: If there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; name one that trainings wrote to, such as runs")
    found, broken = [], 0
    for file in _files(folder):
        try:
            run = json.loads(file.read_text(encoding="utf-8"))
            if run["schema"] != SCHEMA:
                raise ValueError(f"its schema is {run['schema']!r}, this version reads {SCHEMA}")
            relative = file.parent.relative_to(folder)
            run["run"] = relative.as_posix() if relative.parts else folder.absolute().name
            _cells(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            warn(f"{file} is left out: {reason}")
            broken += 1
        else:
            found.append(run)
    if not found:
        there = f"only {broken} that cannot be read" if broken else f"none of the {DEPTH} levels below has one"
        raise DataError(f"{folder} holds no {FILE}: {there}; a training with an attention layer or COCO data writes it")
    return sorted(found, key=lambda run: natural(run["run"]))


def text(runs: Sequence[Row], width: int) -> str:
    """Return a table of at most ``width`` characters where that is possible.

    If it is wider, what is the same in all runs goes above it, then words are cut; numbers never. Runs of one folder
    begin alike: their names keep their ends.
    """
    columns, above = list(COLUMNS), []
    if tabular.full_width(columns, runs) > width and len(runs) > 1:
        same = [c for c in columns[1:] if not c[2] and len({c[1](run) for run in runs}) == 1]
        above = [f"{head}: {read(runs[0])}" for head, read, _ in same]
        columns = [column for column in columns if column not in same]
    legend = [LEGEND, *([MARKED] if any(map(_is_warned, runs)) else [])]
    lines = tabular.text(columns, runs, width)
    return "\n".join([*textwrap.wrap("; ".join(above), width), *lines, *textwrap.wrap("; ".join(legend), width)])


def markdown(runs: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    return tabular.markdown(COLUMNS, runs)


def latex(runs: Sequence[Row]) -> str:
    """Return the table in LaTeX; it needs the package ``booktabs``."""
    return tabular.latex(COLUMNS, runs)


def table_csv(runs: Sequence[Row]) -> str:
    """Return every field of every run as CSV: nested names joined by dots, lists as JSON, epochs by their number."""
    return tabular.to_csv({**run, "epochs": len(run["epochs"])} for run in runs)


def layers(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the attention layers of a model in short: ``CBAM@neck-p3,p4,p5 SE@10``."""
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row["name"], []).append(str(row["place"] or row["index"]))
    short = []
    for name, names in places.items():
        shown, before = [], ""
        for place in dict.fromkeys(names):  # blocks of one place are many
            part, dash, level = place.rpartition("-")
            shown.append(level if dash and part == before else place)
            before = part
        short.append(f"{name}@{','.join(shown)}")
    return " ".join(short) or "none"


def coco_ap(run: Row) -> float | None:
    """Return the official AP of a run in [0, 1], that of masks or keypoints where there is one."""
    coco = run["metrics"].get("coco") or {}
    tables = [table for table in coco.values() if isinstance(table, Mapping)] or [coco]
    return tables[-1].get("AP")


def host_ap(run: Row) -> float | None:
    """Return the host's mAP50-95 of a run in [0, 1], that of masks or keypoints where there is one."""
    found = [value for key, value in run["metrics"]["ultralytics"].items() if key.startswith("metrics/mAP50-95")]
    return found[-1] if found else None


def peak_memory(run: Row) -> float | None:
    """Return the largest memory in GiB: reserved on the GPU, or of the process where there was none."""
    memory = run["memory"]
    peak = memory.get("cuda_reserved") or memory.get("process")
    return None if peak is None else peak / 2**30


def _is_warned(run: Row) -> bool:
    return bool(run["model"].get("warnings"))


def _files(folder: Path) -> Iterable[Path]:
    for root, folders, files in os.walk(folder):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = [] if depth >= DEPTH else [f for f in folders if not f.startswith(".") and f != "weights"]
        if FILE in files:
            yield Path(root) / FILE


def _cells(run: Row) -> list[str]:
    return [str(read(run)) for _, read, _ in COLUMNS]


def _stem(file: str) -> str:
    name = re.split(r"[/\\]", str(file))[-1]
    return re.sub(r"\.(ya?ml|pt)$", "", name)


def _percent(value: float | None) -> str:
    return number(None if value is None or value < 0 else 100 * value, 2)  # COCO's -1 is no result
