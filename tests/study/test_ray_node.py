"""A trial on a node: alone in its folder, with the study's versions and data, or a failure that says which."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import tiny_study
from test_trials import ENDED, wait_for

from yolo_attn.errors import StudyError
from yolo_attn.host.run import record as run_record
from yolo_attn.host.study import data
from yolo_attn.study import __main__ as child
from yolo_attn.study import pool, ray_node, store, trial

HOST = socket.gethostname()
SETTINGS = {"train": {}, "epochs": 1, "batch": 4, "imgsz": 32}


@pytest.mark.parametrize("name", ["yolo-attn", "ultralytics", "torch"])
def test_a_node_with_another_version_fails_its_trial(tmp_path: Path, name: str) -> None:
    now = run_record.versions()
    store.write_json(tmp_path / "study.json", {"schema": 1, "versions": {**now, name: "0.1"}})
    found = trial.run_trial(tmp_path, "se", 0, "cpu", on_node=True)
    assert found["state"] == "failed" and found["host"] == HOST
    assert f"{HOST} has {name}={now[name]}, and the study was begun with {name}=0.1" in found["error"]


def test_a_node_without_the_data_or_with_others_fails_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_study.write_data(tmp_path / "data")
    known = data.examine(str(file), {"epochs": 1, "batch": 4, "imgsz": 32})
    record: dict[str, Any] = {"data": known, "settings": SETTINGS}
    trial.check_data(record)
    with pytest.raises(StudyError, match=f"{HOST} has other images or labels behind {file}"):
        trial.check_data({**record, "data": {**known, "fingerprint": "sha256:9"}})
    next((tmp_path / "data/images/val").iterdir()).unlink()
    with pytest.raises(StudyError, match="has other images or labels"):
        trial.check_data(record)
    (tmp_path / "data/images/val").rename(tmp_path / "data/images/gone")
    with pytest.raises(StudyError, match=f"{HOST} cannot read {file} .*on each node"):
        trial.check_data(record)
    file.unlink()
    with pytest.raises(StudyError, match=f"{HOST} has no {file}: a study needs its data on each node"):
        trial.check_data(record)
    monkeypatch.setattr(trial, "check_versions", lambda _: None)
    store.write_json(tmp_path / "study.json", {"schema": 1, **record})
    assert "is no study" not in str(trial.run_trial(tmp_path, "se", 0, "cpu")["error"])
    assert "has no" in trial.run_trial(tmp_path, "se", 0, "cpu", on_node=True)["error"]


def test_two_processes_never_work_on_one_trial(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import sys, time; from pathlib import Path; from yolo_attn.study import trial\n"
        "with trial._alone(Path(sys.argv[1])):\n    print('here', flush=True); time.sleep(300)"
    )
    place = store.trial_folder(tmp_path, "se", 0)
    place.mkdir(parents=True)
    lock = str(place / store.TRIAL_LOCK)
    other = subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE, text=True)
    assert other.stdout and other.stdout.readline() == "here\n"
    ran: list[Any] = []
    thread = threading.Thread(target=lambda: ran.append(trial.run_trial(tmp_path, "se", 0, "cpu")), daemon=True)
    try:
        thread.start()
        thread.join(0.5)
        assert not ran and not (place / store.ATTEMPTS).exists()
        store.write_json(place / store.TRIAL, ENDED)  # the last that the other did
    finally:
        other.kill()
        other.communicate()
    wait_for(lambda: ran, 20)
    assert ran == [ENDED]


def test_a_finished_trial_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_work", lambda *_: {})
    monkeypatch.setattr(trial, "check_pair", lambda *_: None)
    found = trial.run_trial(tmp_path, "se", 0, "cpu")
    assert found["state"] == "finished" and found["host"] == HOST
    assert [path.name for path in store.trial_folder(tmp_path, "se", 0).iterdir()] == ["trial.json"]


def test_without_locks_it_runs_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("No locks available")

    for module in (types.SimpleNamespace(lockf=refuse, LOCK_EX=2), None):
        monkeypatch.setitem(sys.modules, "fcntl", module)
        assert trial.run_trial(tmp_path, "se", 0, "cpu")["state"] == "failed"


def test_the_process_of_a_trial_knows_that_it_is_on_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def run_child(words: Any, log: Path, threads: int, children: Any) -> int:
        given.append((words, log, threads))
        log.parent.mkdir(parents=True)
        log.touch()
        return 3

    monkeypatch.setattr(pool, "run_child", run_child)
    found = ray_node.run_process(tmp_path, store.Pending(2, 0, "se"), "cpu", 4)
    assert found and found["state"] == "failed" and "ended with 3" in found["error"]  # a crash is a failed trial
    (words, log, threads) = given[0]
    assert threads == 4 and log == store.trial_folder(tmp_path, "se", 2) / "log.txt"
    ran: list[Any] = []
    monkeypatch.setattr(child, "_die_with_parent", lambda: None)
    monkeypatch.setattr(trial, "run_trial", lambda *args: ran.append(args) or {"state": "finished"})
    assert child.main(words) == 0 and child.main(words[:-1]) == 0
    assert ran == [(str(tmp_path), "se", 2, "cpu", True), (str(tmp_path), "se", 2, "cpu", False)]


def test_a_node_of_another_yolo_attn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from yolo_attn.study import ray_pool

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=None))
    monkeypatch.setitem(sys.modules, "yolo_attn.study.ray_node", None)
    with pytest.raises(ImportError, match=f"{HOST} has no yolo-attn that fits"):
        ray_pool._make_task()({})


def test_a_bundle_holds_what_a_trial_needs_and_no_more(tmp_path: Path) -> None:
    from yolo_attn.study import ray_pool

    study = tmp_path / "study"
    record = {"variants": [{"name": name, "scale": "n", "model": f"models/{name}.yaml"} for name in "ab"]}
    wanted = [
        "study.json", "models/a.yaml", "init/n-seed1.pt", "data/val.yaml", "data/val.json",
        "trials/a/seed1/weights/last.pt", "trials/a/seed1/weights/state-3.pt",
    ]  # fmt: skip
    others = ["plan.json", "study.lock", "models/b.yaml", "init/n-seed0.pt", "trials/b/seed1/trial.json"]
    for name in (*wanted, *others):
        store.write_json(study / name, name)
    ray_node.unpack(ray_pool._bundle(study, record, store.Pending(1, 0, "a")), tmp_path / "node")
    files = [path for path in (tmp_path / "node").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "node").as_posix() for path in files} == set(wanted)
    assert all(json.loads(path.read_text()) == path.relative_to(tmp_path / "node").as_posix() for path in files)


def test_switches_of_the_driver_reach_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("YOLO_ATTN_FAST", "1")
    (tmp_path / "probe-1").touch()
    order = {
        "variant": "a", "seed": 0, "device": "cpu", "threads": 1, "folder": str(tmp_path), "probe": "probe-1",
        "environment": {"YOLO_ATTN_FAST": "0"}, "work": lambda *_: {"fast": os.environ["YOLO_ATTN_FAST"]},
    }  # fmt: skip
    answer = ray_node.carry_out(order, pytest.fail)
    assert answer == {"found": {"fast": "0"}, "host": HOST, "files": None}
