"""All that wants a GPU, in one call: training speed, layers against others, attention's kernels, AMP without NaN.

    python scripts/experiments/gpu.py --minutes 12

The parts follow one another, most important first, each in a process of its own and under its share of the time; what a
part leaves comes once more at the end. The record is written before and after every row: a stop loses nothing, a row
that fails is kept with its error, a process that crashes or hangs costs one row. ``--resume`` goes on with a record.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":  # run by its path: find the packages, not the files beside it
    sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch

from experiments import evidence, gpu_rows, report
from experiments.gpu_rows import Plan, Row, environment
from yolo_attn.coco.shapes import ensure_shapes
from yolo_attn.host.run.record import without_nan

TASK = "gpu"
ROOT = Path(__file__).parents[2]
GRACE = 60  # seconds that a row may go on after the time of its part


@dataclass(frozen=True)
class Part:
    """A share of the time, the cases in order, and what measures one."""

    share: float
    cases: Callable[[Plan], list[Row]]
    measure: Callable[[Row, Plan], Row]


PARTS = {
    "training": Part(0.38, gpu_rows.training_cases, gpu_rows.train),
    "layers": Part(0.3, gpu_rows.layer_cases, gpu_rows.measure_layer),
    "attention": Part(0.07, gpu_rows.attention_cases, gpu_rows.attention),
    "amp": Part(0.2, gpu_rows.amp_cases, gpu_rows.train_amp),
    "compiled": Part(0.05, gpu_rows.compiled_cases, gpu_rows.measure_layer),
}


def schedule(begin: float, end: float) -> list[tuple[str, float]]:
    """Return the turns: each part until its share is over, then each again until the end, for what is left."""
    shares = itertools.accumulate(part.share for part in PARTS.values())
    return [*zip(PARTS, (begin + share * (end - begin) for share in shares), strict=True), *((p, end) for p in PARTS)]


class Record:
    """The rows on disk of one run, which several processes write in turn."""

    def __init__(self, plan: Plan, out: Path, started: str) -> None:
        self.plan, self.out = plan, out
        self.settings = {**plan.settings, "started": started}

    def rows(self) -> list[Row]:
        """Return the rows that this run has so far."""
        old = self._on_disk()
        return old["rows"] if old is not None and old["settings"] == self.settings else []

    def write(self, rows: list[Row]) -> Path:
        """Write the rows."""
        command = "python scripts/experiments/gpu.py"
        return evidence.save(evidence.record(TASK, self.settings, without_nan(rows), command), self.out)

    def resume(self) -> None:
        """Take over the rows of an earlier run of the same plan and versions, but for those that failed."""
        old = self._on_disk()
        if old is None or old["settings"] != {**self.settings, "started": old["settings"].get("started")}:
            return
        rows = [row for row in old["rows"] if "error" not in row]
        if rows and old["versions"] == evidence.record(TASK, {}, rows, "")["versions"]:
            self.settings = old["settings"]
            self.write(rows)

    def todo(self, part: str) -> list[Row]:
        """Return the cases of a part that have no row."""
        rows = self.rows()
        cases = ({"part": part, **case} for case in PARTS[part].cases(self.plan))
        return [case for case in cases if not any(case.items() <= row.items() for row in rows)]

    def _on_disk(self) -> Row | None:
        path = self.out / evidence.file_name(evidence.record(TASK, {}, [], ""))
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def measure_part(part: str, record: Record, until: float) -> None:
    """Measure what is left of a part; no row begins after ``until``."""
    rows, todo = record.rows(), record.todo(part)
    for number, case in enumerate(todo):
        if time.time() > until:
            print(f"{part}: time is up, {len(todo) - number} of {len(todo)} rows are left", flush=True)
            return
        rows.append({**case, "error": "did not end"})
        record.write(rows)
        begin = time.time()
        try:
            found = PARTS[part].measure({key: case[key] for key in case if key != "part"}, record.plan)
            rows[-1] = {**case, **found, "seconds": time.time() - begin}
        except Exception as error:  # one row that fails does not end the others
            rows[-1] |= {"error": f"{type(error).__name__}: {error}"[:500], "seconds": time.time() - begin}
        record.write(rows)
        print(f"{number + 1}/{len(todo)} {case} {rows[-1].get('error', 'done')}", flush=True)
        gc.collect()
        if record.plan.kind == "cuda":
            torch.cuda.synchronize()  # raises where a row has broken the device's context: the process ends
            torch.cuda.empty_cache()


def take_turn(part: str, record: Record, until: float, end: float, command: Sequence[str]) -> None:
    """Let processes measure a part, a new one where one crashed, and end those that outstay."""
    while time.time() < until and record.todo(part):
        before = len(record.rows())
        more = ["--part", part, "--until", repr(until), "--started", record.settings["started"]]
        process = subprocess.Popen([*command, *more], env=environment(YOLO_ATTN_FAST="0"), start_new_session=True)
        try:
            process.wait(max(1.0, min(until + GRACE, end) - time.time()))
        except subprocess.TimeoutExpired:
            print(f"{part}: ended by force", flush=True)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if len(record.rows()) == before:
            record.write([*record.rows(), {"part": part, "error": f"its process ended with {process.returncode}"}])
            return


def _shared(name: str) -> Path | None:
    return next((p for p in (ROOT / "shared" / name, ROOT.parent / "shared" / name) if p.is_dir()), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, or in a process of its own one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--against", type=Path, metavar="DIR", help="folder of Python files with other implementations")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with annotations/ and images/ in COCO format")
    parser.add_argument("--tiny", action="store_true", help="just enough to try all code (so where there is no GPU)")
    parser.add_argument("--resume", action="store_true", help="go on with the record of the same settings and versions")
    parser.add_argument("-o", "--out", type=Path, default=Path("results"))
    for name, kind in (("--part", str), ("--until", float), ("--started", str)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    plan = Plan(
        device="cuda:0" if cuda else "cpu",
        data=given.data or _shared("data/bccd") or ensure_shapes(),
        against=given.against or _shared("reference"),
    )
    if given.tiny or not cuda:
        plan = replace(plan, **gpu_rows.TINY)
    begin = time.time()
    record = Record(plan, given.out, given.started or repr(begin))
    if given.part:
        measure_part(given.part, record, given.until)
        return 0
    if given.resume:
        record.resume()
    end = begin + 60 * given.minutes
    command = [sys.executable, __file__, *(sys.argv[1:] if arguments is None else arguments)]
    for part, until in schedule(begin, end):
        take_turn(part, record, until, end, command)
    print(report.gpu_table({"rows": record.rows()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
