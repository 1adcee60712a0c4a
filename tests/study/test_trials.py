"""Trials in processes of their own: they end with the study, share its cores, and fail alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_study
import torch

from yolo_attn.errors import StudyError
from yolo_attn.study import __main__ as process
from yolo_attn.study import plan, pool, store, trial

STUDY = [
    "model=yolov8n", "layers=se", "at=neck", "seeds=1", "epochs=4", "imgsz=32", "batch=4", "controls=none",
    "close_mosaic=1", "nbs=20", "loader_workers=0", "device=cpu", "optimizer=AdamW",
]  # fmt: skip
ENDED = {"state": "finished", "epochs": [{"epoch": 1}, {"epoch": 2}], "batches": "sha256:1", "start": "sha256:2"}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def rows(folder: Path) -> list[list[str]]:
    """Return what results.csv says of each epoch, but for the time."""
    file = folder / "results.csv"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [[cell for n, cell in enumerate(line.split(",")) if n != 1] for line in lines]


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from yolo_attn.study import pool\n"
        "from yolo_attn.study import __main__ as child\n"
        "pool.sys.executable = sys.argv[1]\n"
        "pool.run_child([], Path(sys.argv[2]), 1)\n"
    )
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\nimport os, time\nfrom yolo_attn.study.__main__ import _die_with_parent\n"
        "_die_with_parent()\nprint(os.getpid(), os.environ['OMP_NUM_THREADS'], '裂纹', flush=True)\ntime.sleep(300)\n"
    )
    script.chmod(0o755)
    log = tmp_path / "log.txt"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(script), str(log)], env=os.environ | {"PYTHONIOENCODING": "latin-1"}
    )
    wait_for(lambda: log.is_file() and log.read_text(encoding="utf-8").endswith("\n"))
    *numbers, word = log.read_text(encoding="utf-8").split()
    pid, threads = map(int, numbers)
    assert psutil.pid_exists(pid) and threads == 1 and word == "裂纹"
    parent.kill()
    parent.wait()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 20)


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "cores", lambda: range(8))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [pool.threads(workers) for workers in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [pool.threads(workers) for workers in (1, 3)] == [4, 2]


@pytest.mark.parametrize(
    ("shown", "device", "seen", "begins"),
    [
        ("2,GPU-5", "0", "2", ["GPU", "0"]), ("2, GPU-5", "1", "GPU-5", ["GPU", "0"]), (None, "3", "3", ["GPU", "0"]),
        ("2", "1", "2", ["1"]), ("", "0", "", ["0"]), ("2", "cpu", "2", ["cpu"]), (None, "mps", None, ["mps"]),
    ],
)  # fmt: skip
def test_a_process_sees_one_gpu_of_those_that_the_user_shows(
    monkeypatch: pytest.MonkeyPatch, shown: str | None, device: str, seen: str | None, begins: list[str]
) -> None:
    begun: list[str] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown or "")
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: begun.append("GPU"))
    monkeypatch.setattr(process, "_die_with_parent", lambda: None)
    monkeypatch.setattr(trial, "run_trial", lambda *given: begun.append(given[3]) or {"state": "finished"})
    monkeypatch.setattr(plan, "measure_variant", lambda *given: begun.append(given[2]))
    for words in (["trial", "folder", "se", "0", device], ["measure", "folder", "se", device]):
        begun.clear()
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if shown is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = shown
        assert process.main(words) == 0
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen and begun == begins


def test_each_trial_has_a_device_and_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, most, used, lock = [0], [0], [], threading.Lock()

    def run_child(words: Any, log: Path, threads: int, children: Any) -> int:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
            used.append(words[-1])
        time.sleep(0.1)
        with lock:
            together[0] -= 1
        log.parent.mkdir(parents=True)
        log.touch()
        return 1 if words[2] == "b" else -9

    monkeypatch.setattr(pool, "run_child", run_child)
    todo = [store.Pending(seed, n, name) for seed in range(3) for n, name in enumerate("ab")]
    ended: dict[Any, Any] = {}
    pool.run_local(tmp_path, todo, {"workers": 2, "devices": ["0", "1"]}, lambda _: None, ended.__setitem__)
    assert most == [2] and set(used) == {"0", "1"} and len(used) == 6
    assert [one.variant for one, found in ended.items() if found is None].count("a") == 3  # killed: to go on with
    failed = store.result(tmp_path, "b", 0)
    assert failed and failed["state"] == "failed" and "ended with 1" in failed["error"]


@pytest.mark.parametrize(("status", "error"), [(-9, None), (1, "its process ended with 1: no libc")])
def test_a_failure_that_is_tried_again_leaves_nothing_behind(
    status: int, error: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_child(words: Any, log: Path, threads: int, children: Any) -> int:
        with log.open("a") as out:
            out.write("no libc\n" if error else "")
        return status

    monkeypatch.setattr(pool, "run_child", run_child)
    again = store.Pending(0, 0, "se")
    pool.write_failure(tmp_path, again, "it broke")
    (store.trial_folder(tmp_path, "se", 0) / store.LOG).write_text("it broke\n")
    found = pool.run_one(tmp_path, again, [], 1)
    assert found == store.result(tmp_path, "se", 0) and (found or {}).get("error") == error


def test_a_process_that_begins_while_all_are_ended_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Child:
        def __init__(self) -> None:
            self.ended = threading.Event()

        def kill(self) -> None:
            self.ended.set()

    ended: list[bool] = []
    begun = threading.Event()

    def run_child(words: Any, log: Path, threads: int, children: set[Any]) -> int:
        if words[2] == "a":
            assert begun.wait(5)
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.5)
        child = Child()
        children.add(child)
        ended.append(child.ended.wait(5))
        return -9

    monkeypatch.setattr(pool, "run_child", run_child)
    todo = [store.Pending(0, n, name) for n, name in enumerate("ab")]
    with pytest.raises(KeyboardInterrupt):
        pool.run_local(tmp_path, todo, {"workers": 2, "devices": ["cpu"]}, lambda _: None, lambda *_: None)
    assert ended == [True]


def test_a_trial_that_we_end_has_not_failed_whatever_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    class Child:
        """A process as on Windows, where one that is killed ends with 1."""

        stdin = None

        def __init__(self, words: list[str], **_: Any) -> None:
            self.ended = threading.Event()
            begun.set()

        def kill(self) -> None:
            self.ended.set()

        def poll(self) -> int | None:
            return 1 if self.ended.is_set() else None

        def wait(self) -> int:
            assert self.ended.wait(5)
            return 1

    def interrupt(trial: store.Pending) -> None:
        if trial.variant == "b":
            assert begun.wait(5)
            raise KeyboardInterrupt

    monkeypatch.setattr(pool.subprocess, "Popen", Child)
    todo = [store.Pending(0, n, name) for n, name in enumerate("ab")]
    with pytest.raises(KeyboardInterrupt):
        pool.run_local(tmp_path, todo, {"workers": 2, "devices": ["cpu"]}, interrupt, lambda *_: None)
    assert begun.is_set() and store.result(tmp_path, "a", 0) is None


@pytest.mark.parametrize(
    ("changes", "other", "message"),
    [
        ({"batches": "sha256:9"}, "plain", "saw other batches than plain with seed 0"),
        ({"start": "sha256:9"}, "plain", "began with other weights than plain with seed 0"),
        ({"start": "sha256:9"}, "larger", ""),
        ({"batches": "sha256:9"}, "larger", "saw other batches than larger"),
        ({"start": "sha256:9"}, "own", ""),
        ({"batches": "sha256:9"}, "own", "saw other batches than own"),
        ({"batches": "sha256:9", "epochs": [{"epoch": 1}]}, "plain", ""),
        ({}, "plain", ""),
    ],
)
def test_what_is_no_pair_fails(tmp_path: Path, changes: dict[str, Any], other: str, message: str) -> None:
    record = {
        "variants": [
            {"name": "plain", "kind": "plain", "scale": "n"}, {"name": "larger", "kind": "larger", "scale": "s"},
            {"name": "se", "kind": "attention", "scale": "n"}, {"name": "own", "kind": "own", "scale": "n"},
        ]
    }  # fmt: skip
    store.write_json(store.trial_folder(tmp_path, other, 0) / store.TRIAL, ENDED)
    store.write_json(store.trial_folder(tmp_path, "se", 1) / store.TRIAL, {**ENDED, "batches": "of another seed"})
    if message:
        with pytest.raises(StudyError, match=f"{message}.*To train it again, delete .*seed0"):
            trial.check_pair(tmp_path, record, "se", 0, {**ENDED, **changes})
    else:
        trial.check_pair(tmp_path, record, "se", 0, {**ENDED, **changes})


@pytest.mark.parametrize("epochs", [1, 2])
def test_of_two_trials_that_end_together_the_second_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    from yolo_attn.host.study import trial as host

    rows = [{"epoch": n + 1} for n in range(epochs)]
    variants = [{"name": name, "kind": kind, "scale": "n"} for name, kind in (("plain", "plain"), ("se", "attention"))]
    store.write_json(tmp_path / "study.json", {"schema": 1, "variants": variants, "data": {"judged": "x.yaml"}})
    monkeypatch.setattr(trial, "check_versions", lambda _: None)
    monkeypatch.setattr(trial, "describe", lambda *_: None)
    monkeypatch.setattr(trial, "command", lambda _: "")
    monkeypatch.setattr(host, "train", lambda _: {"start": "sha256:2", "batches": {0: "1"}, "epochs": rows})

    def judge(*_: Any) -> dict[str, Any]:  # meanwhile the other one ends
        store.write_json(store.trial_folder(tmp_path, "plain", 0) / store.TRIAL, {**ENDED, "epochs": rows})
        return {}

    monkeypatch.setattr(host, "judge", judge)
    found = trial.run_trial(tmp_path, "se", 0, "cpu")
    assert found["state"] == "failed" and "saw other batches than plain" in found["error"]


def test_a_failure_is_written_down_with_its_error(tmp_path: Path) -> None:
    found = trial.run_trial(tmp_path, "se", 0, "cpu")
    assert found["state"] == "failed" and "is no study" in found["error"] and found["attempts"] == 1
    assert store.result(tmp_path, "se", 0) == found
    assert trial.run_trial(tmp_path, "se", 0, "cpu")["state"] == "failed"
    store.write_json(store.trial_folder(tmp_path, "se", 0) / store.TRIAL, ENDED)
    assert trial.run_trial(tmp_path, "se", 0, "cpu") == ENDED  # never twice


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from yolo_attn.cli import main

    assert main(["study", "data=x.yaml", "model=yolov8n", "layrs=se"]) == 1
    assert (
        "yolo-attn: 'layrs' is not a valid YOLO argument. Similar arguments are i.e. ['layers"
        in capsys.readouterr().err
    )


def test_a_flag_may_stand_between_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from yolo_attn import cli, verb

    monkeypatch.setattr(verb, "study", lambda given: print(given.words, given.dry_run) or 0)
    assert cli.main(["study", "data=my.yaml", "--dry-run", "layers=se", "epochs=1"]) == 0
    assert capsys.readouterr().out == "['data=my.yaml', 'layers=se', 'epochs=1'] True\n"
    for words in (["study", "data=my.yaml", "--dryrun"], ["doctor", "layers=se"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err


def test_a_letter_that_the_output_cannot_hold_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from yolo_attn import cli, verb

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))  # Windows, into a file
    monkeypatch.setattr(verb, "study", lambda given: print(*given.words, flush=True) or 0)
    assert cli.main(["study", "data=裂é.yaml"]) == 0
    assert written.getvalue().split() == ["data=\\u88c2é.yaml".encode("cp1252")]


@pytest.mark.slow
def test_a_study_killed_three_times_ends_with_the_numbers_of_one_that_was_not(tmp_path: Path) -> None:
    data = tiny_study.write_data(tmp_path / "data")
    program = [str(Path(sys.executable).with_name("yolo-attn")), "study", f"data={data}", *STUDY]

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*program, f"name={name}"], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
        )  # fmt: skip

    assert start("whole").wait() == 0
    place = tmp_path / "runs/study/broken/trials"
    first, second = place / "yolov8n/seed0", place / "yolov8n-se-neck/seed0"
    study = start("broken")
    wait_for(lambda: len(rows(first)) == 3)  # a head and two epochs
    study.kill()
    study.wait()
    study = start("broken")
    wait_for(lambda: len(rows(first)) == 4)
    study.send_signal(signal.SIGINT)
    assert study.wait() == 1
    study = start("broken")
    wait_for(lambda: len(rows(second)) == 3)
    for child in psutil.Process(study.pid).children():
        child.kill()
    assert study.wait() == 1  # it went on without the trial
    assert not (second / "trial.json").exists()
    assert start("broken").wait() == 0
    for broken in (first, second):
        whole = Path(str(broken).replace("broken", "whole"))
        assert rows(broken) == rows(whole)
        one, other = (json.loads((folder / "trial.json").read_text()) for folder in (broken, whole))
        assert all(one[key] == other[key] for key in ("metrics", "batches", "start", "best_epoch", "parameters"))
        assert other["attempts"] == 1 and one["attempts"] > 1
        assert [path.name for path in (broken / "weights").iterdir()] == ["best.pt"]
