"""One exported model compared with its checkpoint, in a process of its own: converters crash and litter.

``python -m yolo_attn.host.run.export_check`` reads a case from standard input and writes its row to the file named.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .comparison import MARGIN, match_detections, raw_difference
from .first_row import find_first_row
from .runtimes import Seen, export, float32_kept, look, nothing_installed, tensors

# Largest difference allowed, relative to the largest entry: of float32 and of half precision.
FP32, HALF = 1e-3, 5e-2
ROUNDINGS = 4  # and so many times what float32 itself loses in this model, if that is more
TIES = 0.1  # of detections may have no partner where raw outputs agree
TIMEOUT = 1800


@dataclass
class Case:
    """What is exported and checked: a file, a format, sizes (height, width), export arguments and images."""

    checkpoint: str
    task: str
    form: str
    sizes: list[list[int]]
    images: list[str]
    arguments: dict[str, Any] = field(default_factory=dict)
    conf: float = 0.25

    @property
    def is_half(self) -> bool:
        """Whether it is exported in half precision."""
        return bool(self.arguments.get("half")) or self.arguments.get("quantize") == 16


@dataclass
class Row:
    """What was found: ``same``, ``differs``, or ``failed`` with the converter's or the runtime's own error."""

    state: str
    difference: float | None = None
    allowed: float = 0.0
    rounding: float = 0.0
    matched: int = 0
    detections: int = 0
    layer: str = ""
    note: str = ""
    log: str = ""


def check(case: Case, folder: Path) -> Row:
    """Export a checkpoint in a folder, run it and the checkpoint on the same images, and compare."""
    file = Path(shutil.copy(case.checkpoint, folder))
    with nothing_installed():
        path, prepared = export(file, case.form, case.sizes[0], case.arguments)
        row = Row("same")
        for size in case.sizes:
            expected = look(str(file), case.task, case.images, size, case.conf - MARGIN)
            with float32_kept(case.form):
                found = look(path, case.task, case.images, size, case.conf - MARGIN)
            _compare(case, row, prepared, expected, found)
            if row.state == "differs" and not row.layer:
                inputs = [seen.image for seen in found]
                with float32_kept(case.form):
                    row.layer = find_first_row(file, case.form, case.sizes[0], case.arguments, inputs, row.allowed)
            elif case.form == "openvino":
                _note_precision(row, found, look(path, case.task, case.images, size, case.conf - MARGIN), case.conf)
    return row


def _compare(case: Case, row: Row, prepared: Any, expected: Sequence[Seen], found: Sequence[Seen]) -> None:
    """Add what one size says to a row."""
    classes = len(prepared.names)
    is_same_head = True
    for a, b in zip(expected, found, strict=True):
        raw = _like(a.raw, b.raw)
        if raw is None:  # the exporter changed the head, or put the suppression of doubles behind it
            raw, is_same_head = _like(_run(prepared, a), b.raw), bool(case.arguments.get("nms"))
        if raw is not None:
            rounding = _rounding(prepared, a, classes)
            row.rounding = max(row.rounding, rounding)
            row.allowed = max(HALF if case.is_half else FP32, ROUNDINGS * row.rounding)
            row.difference = max(row.difference or 0.0, raw_difference(raw, b.raw, classes))
        if is_same_head:
            matched, of = match_detections(a.detections, b.detections, case.conf)
            row.matched, row.detections = row.matched + matched, row.detections + of
    lost = row.detections - row.matched
    is_close = row.difference is not None and row.difference <= FP32
    if not is_same_head:
        row.note = "raw outputs alone: Ultralytics exports another head than it predicts with"
    elif lost and is_close and lost <= TIES * row.detections:
        row.note, lost = "doubles of equal score: which one stays is a matter of rounding", 0
    if (row.difference or 0.0) > row.allowed or lost:
        row.state = "differs"


def _note_precision(row: Row, exact: Sequence[Seen], usual: Sequence[Seen], least: float) -> None:
    """Say what the runtime loses by the precision it chooses here, if that is another than float32."""
    lost = max(raw_difference(a.raw, b.raw, 0) for a, b in zip(exact, usual, strict=True))
    if lost <= FP32:
        return
    pairs = [match_detections(a.detections, b.detections, least) for a, b in zip(exact, usual, strict=True)]
    kept, of = (sum(counts) for counts in zip(*pairs, strict=True))
    row.note = f"in float32; bfloat16, the runtime's choice on this processor: {lost:.0e}, {kept} of {of} detections"


def _like(candidates: Sequence[Any], outputs: Sequence[Any]) -> list[Any] | None:
    """Return the first tensors of the outputs' shapes, or None if there are none."""
    left = list(candidates)
    chosen = []
    for output in outputs:
        place = next((i for i, tensor in enumerate(left) if tensor.shape == output.shape), None)
        if place is None:
            return None
        chosen.append(left.pop(place))
    return chosen


def _run(model: Any, seen: Seen) -> list[Any]:
    import torch

    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        return tensors(model(seen.image.to(dtype)))


def _rounding(model: Any, seen: Seen, classes: int) -> float:
    """Return how far the model in float32 is from itself in float64; 0 where its outputs are ranked."""
    exact = _run(copy.deepcopy(model).double(), seen)
    return raw_difference(exact, _run(copy.deepcopy(model).float(), seen), classes)


def check_apart(case: Case, timeout: float = TIMEOUT, python: str = sys.executable) -> Row:
    """Do the same in a process and a folder of its own; a crash or a hang is a row too."""
    with tempfile.TemporaryDirectory(prefix="yolo-attn-verify-") as name:
        folder = Path(name)
        answer, log = folder / "row.json", folder / "log.txt"
        environment = {**os.environ, "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "true"}
        command = [python, "-m", "yolo_attn.host.run.export_check", str(answer)]
        end = ""
        with log.open("wb") as stream:
            try:
                code = subprocess.run(
                    command, input=json.dumps(asdict(case)).encode(), stdout=stream, stderr=subprocess.STDOUT,
                    cwd=folder, env=environment, timeout=timeout, check=False,
                ).returncode  # fmt: skip
                end = "" if code == 0 else f"the process ended with {_ending(code)}"
            except subprocess.TimeoutExpired:
                end = f"not finished after {timeout:.0f} s"
        text = log.read_text(encoding="utf-8", errors="replace")[-6000:]
        if not answer.exists():
            return Row("failed", note=end, log=text)
        row = Row(**json.loads(answer.read_text(encoding="utf-8")))
        row.log = text if row.state != "same" else ""
        return row


def _ending(code: int) -> str:
    import signal

    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"code {code}"


def main() -> None:
    """Read a case, write its row."""
    from ..install import install

    install()
    case = Case(**json.load(sys.stdin))
    try:
        row = check(case, Path.cwd())
    except Exception as error:  # whatever a converter raises is the finding
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        row = Row("failed", note=f"{type(error).__name__}: {lines[0]}"[:300])
    Path(sys.argv[1]).write_text(json.dumps(asdict(row)), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # some runtimes crash when the interpreter takes them down


if __name__ == "__main__":
    main()
