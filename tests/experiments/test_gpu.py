"""The call for a GPU: order, shares of the time, a record that grows row by row; and all of its code on the CPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import evidence, gpu, report
from experiments.gpu_rows import Plan
from yolo_attn import registry

STEPS = {"interval": 0.1, "step": 0.08, "images/s": 160.0, "allocated": 2e9}
LOSSES = {"loss first": 2.0, "loss last": None, "scale": 65536.0}
LOSSES |= {"steps with infinite gradients": 1, "steps with a loss that is not finite": 3}
# A program that measures a part whose rows end well, kill their process, or never end.
UNRULY = """
import os, sys, time
from pathlib import Path
from experiments import gpu
from experiments.gpu_rows import Plan
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
deeds = {"crash": lambda: os._exit(3), "well": dict, "hang": lambda: time.sleep(600), "late": dict}
measure = lambda case, plan: deeds[case["deed"]]()
gpu.PARTS = {"part": gpu.Part(1.0, lambda plan: [{"deed": deed} for deed in deeds], measure)}
record = gpu.Record(Plan(device="cpu"), Path(sys.argv[1]), given["--started"])
gpu.measure_part("part", record, float(given["--until"]))
"""


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes one part of some cases the only one."""

    def put(names: str, measure: Callable[[dict, Plan], dict]) -> None:
        cases = [{"deed": name} for name in names.split()]
        monkeypatch.setattr(gpu, "PARTS", {"part": gpu.Part(1.0, lambda plan: cases, measure)})

    return put


def on_disk(folder: Path) -> list[dict[str, Any]]:
    found = evidence.load(folder, gpu.TASK)
    assert found is not None
    return found["rows"]


def record(folder: Path, started: str = "0", **plan: Any) -> gpu.Record:
    return gpu.Record(Plan(device="cpu", **plan), folder, started)


def test_parts_take_turns_in_order_and_the_time_is_shared_out() -> None:
    assert list(gpu.PARTS) == ["training", "layers", "attention", "amp", "compiled"]
    assert sum(part.share for part in gpu.PARTS.values()) == pytest.approx(1)
    turns = gpu.schedule(100.0, 200.0)
    assert [name for name, _ in turns] == [*gpu.PARTS] * 2
    times = [until for _, until in turns]
    assert times == sorted(times) and times[0] == pytest.approx(100 + 100 * gpu.PARTS["training"].share)
    assert times[4:] == pytest.approx([200.0] * 6)


def test_the_first_rows_are_the_ones_that_matter_most() -> None:
    cases = [part.cases(Plan()) for part in gpu.PARTS.values()]
    assert [case["model"] for case in cases[0][:3]] == ["stock", "plain", "cbam"] and cases[0][0]["batch"] == 16
    assert (cases[1][0], len(cases[1])) == ({"what": "ceilings"}, 1 + len(registry.TABLE) * 3 * 2 * 2)
    assert {row["precision"] for row in cases[2]} == {"bf16", "fp16", "fp32"}
    assert len(cases[3]) == 1 + len(registry.TABLE)
    for found in cases:
        assert json.loads(json.dumps(found)) == found, "a case is found again in the record"


def test_the_record_is_written_around_every_row_and_a_failure_stops_nothing(part: Callable, tmp_path: Path) -> None:
    def measure(case: dict, plan: Plan) -> dict:
        assert on_disk(tmp_path)[-1] == {"part": "part", **case, "error": "did not end"}
        if case["deed"] == "b":
            raise MemoryError("all of it")
        return {"value": float("nan")}

    part("a b c", measure)
    gpu.measure_part("part", record(tmp_path), time.time() + 60)
    rows = on_disk(tmp_path)
    assert [(row["deed"], row.get("error")) for row in rows] == [
        ("a", None),
        ("b", "MemoryError: all of it"),
        ("c", None),
    ]
    assert rows[0]["value"] is None, "JSON knows no NaN"
    assert record(tmp_path).todo("part") == []


def test_no_row_begins_after_the_time(part: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def measure(case: dict, plan: Plan) -> dict:
        time.sleep(0.2)
        return {}

    part("a b c", measure)
    gpu.measure_part("part", record(tmp_path), time.time() + 0.1)
    assert [row["deed"] for row in on_disk(tmp_path)] == ["a"]
    assert "part: time is up, 2 of 3 rows are left" in capsys.readouterr().out


def test_a_run_goes_on_with_what_failed_or_is_left(part: Callable, tmp_path: Path) -> None:
    done: list[str] = []

    def measure(case: dict, plan: Plan) -> dict:
        done.append(case["deed"])
        return {} if case["deed"] != "b" or len(done) > 2 else {}["missing"]

    part("a b", measure)
    gpu.measure_part("part", record(tmp_path), time.time() + 60)
    part("a b c", measure)
    again = record(tmp_path, "1")
    assert len(again.todo("part")) == 3, "another run begins anew"
    again.resume()
    gpu.measure_part("part", again, time.time() + 60)
    assert done == ["a", "b", "b", "c"]
    assert [row["deed"] for row in on_disk(tmp_path)] == ["a", "b", "c"]
    other = record(tmp_path, "2", side=320)
    other.resume()
    assert len(other.todo("part")) == 3, "another plan, another record"


def test_a_process_that_crashes_or_hangs_costs_one_row(
    part: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part("crash well hang late", lambda case, plan: {})
    mine, command = record(tmp_path), [sys.executable, "-c", UNRULY, str(tmp_path)]
    real, hung, processes = subprocess.Popen.wait, [], set()

    def wait(process: subprocess.Popen, timeout: float | None = None) -> int:
        """Wait as asked, but only a second once the row that hangs has begun."""
        processes.add(process)
        while timeout and not hung and process.poll() is None:
            hung.extend(row for row in mine.rows() if row.get("deed") == "hang")
            timeout = 1 if hung else timeout
            time.sleep(0.2)
        return real(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    gpu.take_turn("part", mine, time.time() + 100, time.time() + 100, command)
    found = [(row["deed"], row.get("error")) for row in on_disk(tmp_path)]
    assert found == [("crash", "did not end"), ("well", None), ("hang", "did not end"), ("late", None)]
    assert [process.returncode for process in sorted(processes, key=lambda p: p.pid)] == [3, -signal.SIGKILL, 0]


def test_a_part_that_cannot_begin_is_left(part: Callable, tmp_path: Path) -> None:
    part("a", lambda case, plan: {})
    mine = record(tmp_path)
    gpu.take_turn("part", mine, time.time() + 60, time.time() + 60, [sys.executable, "-c", "raise SystemExit(7)"])
    assert on_disk(tmp_path) == [{"part": "part", "error": "its process ended with 7"}]
    assert len(mine.todo("part")) == 1


def test_every_part_has_its_table() -> None:
    rows = [
        {"part": "training", "model": "stock", "batch": 16, **STEPS},
        {"part": "training", "model": "cbam", "batch": 16, **STEPS, "interval": 0.11},
        {"part": "amp", "layer": "", "steps": 200, **LOSSES},
        {"part": "amp", "layer": "SE", "steps": 200, "error": "did not end", "seconds": 3},
    ]
    case = {"part": "attention", "layer": "MHSA", "precision": "bf16", "kernels": []}
    for width, why in ((8, ""), (16, "no available kernel")):
        takes = ["aten::_scaled_dot_product_flash_attention"]
        rows.append({**case, "heads": [[1, 8, 400, width]], "takes": takes, "accepts": {"flash": "", "cudnn": why}})
    lines = report.gpu_table({"rows": rows}).splitlines()
    assert "| cbam | 16 | 160.0 | 80 | 2.00 | 1.100 |" in lines
    assert "| MHSA | bf16 | 8, 16 | flash_attention | flash 2/2, cudnn 1/2 |" in lines
    assert "| none | 200 | 2 | - | 65536 | 1 | 3 |" in lines
    assert lines[-1] == "- part amp, layer SE, steps 200: did not end"


@pytest.mark.slow
def test_all_parts_run_through_with_tiny_settings(tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--minutes", "12", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    evidence.check(content)
    rows = {name: [row for row in content["rows"] if row["part"] == name] for name in gpu.PARTS}
    assert [row for row in content["rows"] if "error" in row] == []
    assert {row["model"]: row["ours"] for row in rows["training"]} == {"stock": False, "cbam": True}
    assert all(len(row["steps"]) == 3 and row["images/s"] > 0 for row in rows["training"])
    assert len(rows["layers"]) == 1 + len(registry.TABLE) * 2 and rows["layers"][0]["rates"]["bandwidth"] > 1e8
    assert all(row["heads"] and row["takes"] for row in rows["attention"]), "attention goes through PyTorch's operator"
    assert all(row["weights are finite"] for row in rows["amp"]) and len(rows["amp"]) == 1 + len(registry.TABLE)
    assert all(row["compiled"] for row in rows["compiled"]) and rows["compiled"]
    assert str(tmp_path) not in path.read_text()
