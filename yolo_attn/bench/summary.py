"""The table of a bench for people: plain model first, then each place by cost."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .. import tabular
from . import exported
from .cost import PYTORCH

Row = Mapping[str, Any]
MIB = 2**20
_CLOCKS = {"wall": "", "cpu": " of processor time", "events": " on the GPU's own clock"}


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return the rows by place, in each of them from cheap to dear; those without a time come last."""
    places = list(dict.fromkeys(row["place"] for row in rows))
    return sorted(rows, key=lambda row: (places.index(row["place"]), _median(row) or float("inf")))


def text(rows: Sequence[Row], about: Row, width: int) -> list[str]:
    """Return the table in lines of at most ``width`` characters where that is possible: what matters least goes."""
    shown = ordered(rows)
    columns = _columns(rows)
    for head in ("quartiles", "inf. MiB", "GFLOPs"):
        if tabular.full_width(columns, shown) > width:
            columns = [column for column in columns if column[0] != head]
    return [*tabular.text(columns, shown, width), *(line for n in _notes(rows, about) for line in _wrapped(n, width))]


def markdown(rows: Sequence[Row], about: Row) -> str:
    """Return table and notes in Markdown."""
    notes = "".join(f"- {note}\n" for note in _notes(rows, about))
    return f"{tabular.markdown(_columns(rows), ordered(rows))}\n{notes}"


def is_measured(row: Row, kind: str) -> bool:
    """Return whether a model was timed in a runtime."""
    return "latency" in row.get(kind, {})


def _columns(rows: Sequence[Row]) -> list[tabular.Column]:
    plain = rows[0]
    forms = [form for form in exported.FORMATS if any(is_measured(row, form) for row in rows)]
    return [
        ("layer", lambda row: row["layer"], False),
        ("place", lambda row: row["place"], False),
        ("parameters", lambda row: _count(row, plain), True),
        ("GFLOPs", lambda row: _number(row.get("gflops"), 1, 2), True),
        ("ms", lambda row: _number(row.get(PYTORCH, {}).get("latency", {}).get("median"), 1e3, 1), True),
        ("ratio", lambda row: _number(_median(row), 1, 2), True),
        ("quartiles", _quartiles, True),
        ("train MiB", lambda row: _number(row.get("training_memory"), 1 / MIB, 0), True),
        ("inf. MiB", lambda row: _number(row.get("inference_memory"), 1 / MIB, 1), True),
        *((exported.TITLES[form], _reader(form, plain), True) for form in forms),
    ]


def _reader(form: str, plain: Row) -> Any:
    def read(row: Row) -> str:
        if not is_measured(row, form):
            return "-"
        if row is plain:
            return f"{1e3 * row[form]['latency']['median']:.1f} ms"
        return f"{row[form]['latency_ratio']['median']:.2f}"

    return read


def _count(row: Row, plain: Row) -> str:
    if "parameters" not in row:
        return "-"
    return f"{row['parameters']:,}" if row is plain else f"{row['parameters'] - plain['parameters']:+,}"


def _quartiles(row: Row) -> str:
    if not is_measured(row, PYTORCH):
        return "-"
    found = row[PYTORCH]["latency_ratio"]
    return f"{found['q1']:.2f}-{found['q3']:.2f}"


def _median(row: Row) -> float | None:
    return row[PYTORCH]["latency_ratio"]["median"] if is_measured(row, PYTORCH) else None


def _number(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"


def _notes(rows: Sequence[Row], about: Row) -> list[str]:
    rounds = sorted({row[PYTORCH]["rounds"] for row in rows[1:] if is_measured(row, PYTORCH)} or {0})
    span = f"{rounds[0]}" if rounds[0] == rounds[-1] else f"{rounds[0]} to {rounds[-1]}"
    is_cuda = about["device"] != "cpu"
    where = f"{about['device']}, {about['processor']}" if is_cuda else about["processor"]
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    notes = [
        f"{where}, {threads}, {about['imgsz']} px, batch {about['batch']}; Ultralytics {about['ultralytics']}, "
        f"torch {about['torch']}.",
        f"ms: PyTorch, fused, random weights, median{_CLOCKS[about['clock']]}. ratio: to the plain model in the same "
        f"rounds ({span} each), median and quartiles.",
        "train MiB: weights, gradients and tensors alive at the peak of one forward and backward pass, batch "
        f"{about['training_batch']}, without loss and optimiser. inf. MiB: the same of one prediction. "
        + ("PyTorch's allocator says them." if is_cuda else "Counted, not computed; a process takes more."),
    ]
    for form, title in exported.TITLES.items():
        states = {str(row.get(form, {}).get("state", "")) for row in rows}
        if "measured" in states:
            precision = about.get("openvino_precision", "") if form == "openvino" else ""
            notes.append(f"{title}: ratio of the exported model to plain's, CPU{precision and ', ' + precision}.")
        else:
            notes += [f"{title}: {state}." for state in states if state]
        for row in rows:
            if "measured" in states and not is_measured(row, form) and "error" not in row:
                notes.append(f"{row['layer']} at {row['place']}, {title}: {row[form]['state']}")
    notes += [f"{row['layer']} at {row['place']}: failed: {row['error']}" for row in rows if "error" in row]
    return notes


def _wrapped(note: str, width: int) -> list[str]:
    return textwrap.wrap(note, max(20, width), subsequent_indent="  ")
