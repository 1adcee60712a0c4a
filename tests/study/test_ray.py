"""Trials on a real Ray of two CPU workers: one is killed, one sees no shared folder, and nothing is trained twice."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_study
from test_trials import STUDY, rows, wait_for

from yolo_attn.study import ray_pool, store

ray = pytest.importorskip("ray", reason="backend=ray needs Ray, an optional extra")
EPOCHS = 4
RUNNING = {"workers": 2, "devices": ["cpu"]}


@pytest.fixture(scope="module", autouse=True)
def private() -> Iterator[None]:
    """Keep Ray from leaving a token in the home folder, and from telling anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def cluster(private: None) -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a study of two variants under two seeds."""
    folder = tmp_path / "study"
    variants = [{"name": name, "kind": "own", "scale": "n", "model": f"models/{name}.yaml"} for name in "ab"]
    for variant in variants:
        store.write_json(folder / variant["model"], variant["name"])
    settings = {"seeds": [0, 1], "epochs": EPOCHS, "batch": 4, "imgsz": 32, "loader_workers": 0, "train": {}}
    record = {"schema": 1, "variants": variants, "settings": settings, "data": {"file": "/data.yaml"}}
    store.write_json(folder / "study.json", record)
    for seed in (0, 1):
        store.write_json(folder / f"init/n-seed{seed}.pt", seed)
    return folder


def make_work(journal: Path, slow: str = "") -> Any:
    """Return a trial that trains nothing: a line an epoch, in its folder and in a journal of all that was done."""
    epochs = EPOCHS

    def work(root: Path, trial: store.Pending, device: str, threads: int) -> dict[str, Any]:
        import json
        import os
        import time

        model = json.loads((root / f"models/{trial.variant}.yaml").read_text())
        start = json.loads((root / f"init/n-seed{trial.seed}.pt").read_text())
        place = root / "trials" / trial.variant / f"seed{trial.seed}"
        place.mkdir(parents=True, exist_ok=True)
        file = place / "results.csv"
        done = file.read_text().splitlines() if file.is_file() else []
        for epoch in range(len(done), epochs):
            with journal.open("a") as out:
                out.write(f"{trial.variant}{trial.seed} {epoch} {os.getpid()} {root}\n")
            while slow == f"{trial.variant}{trial.seed}" and epoch == 2 and not journal.with_name("killed").exists():
                time.sleep(0.05)
            with file.open("a") as out:
                out.write(f"{epoch}\n")
        found = {"variant": model, "seed": start, "device": device, "threads": threads, "batches": "", "start": ""}
        return {"schema": 1, "state": "finished", "epochs": [], "command": f"yolo train model={root}", **found}

    return work


def run(folder: Path, work: Any, killed: Callable[[list[list[str]]], str | None] | None = None) -> list[Any]:
    """Run all trials; kill the worker that a function of the journal names, once it names one."""
    record = store.read(folder)
    assert record
    done: list[Any] = []
    journal = folder.parent / "journal"

    def kill() -> None:
        def find() -> str | None:
            return killed and killed([line.split() for line in journal.read_text().splitlines()])

        wait_for(lambda: journal.is_file() and find(), 60)
        os.kill(int(find() or 0), signal.SIGKILL)
        journal.with_name("killed").touch()

    thread = threading.Thread(target=kill)
    if killed:
        thread.start()
    ray_pool.run_ray(folder, store.trials(record), RUNNING, lambda _: None, lambda *told: done.append(told), work)
    if killed:
        thread.join()
    return done


def of_a1(lines: list[list[str]]) -> str | None:
    """Return the process that has begun the third epoch of ``a`` under seed 1."""
    return next((pid for name, epoch, pid, _ in lines if (name, epoch) == ("a1", "2")), None)


def check(folder: Path, done: list[Any]) -> None:
    record = store.read(folder)
    assert record
    assert sorted(trial for trial, _ in done) == store.trials(record)
    for trial, found in done:
        assert (found["variant"], found["seed"], found["state"]) == (trial.variant, trial.seed, "finished")
        assert (found["device"], found["threads"]) == ("cpu", 1)
        assert store.result(folder, trial.variant, trial.seed) == found
        place = store.trial_folder(folder, trial.variant, trial.seed)
        assert (place / "results.csv").read_text() == "0\n1\n2\n3\n"
        assert sorted(path.name for path in place.iterdir()) == ["results.csv", "trial.json"]
    assert not [path.name for path in folder.iterdir() if path.name.startswith("probe")]
    assert {path.name for path in (folder / "trials").iterdir()} == {"a", "b"}


def test_the_trial_of_a_killed_worker_goes_on_and_nothing_is_done_twice(cluster: None, folder: Path) -> None:
    journal = folder.parent / "journal"
    (folder / "probe-1").touch()  # of a study that was killed
    done = run(folder, make_work(journal, slow="a1"), of_a1)
    check(folder, done)
    lines = [line.split() for line in journal.read_text().splitlines()]
    epochs = sorted((name, epoch) for name, epoch, *_ in lines)
    expected = [(name, str(epoch)) for name in ("a0", "a1", "b0", "b1") for epoch in range(EPOCHS)]
    assert epochs == sorted([*expected, ("a1", "2")])  # the epoch in which it was killed, and no other
    assert len({pid for name, _, pid, _ in lines if name == "a1"}) == 2
    assert {root for *_, root in lines} == {str(folder)}


def test_what_a_node_without_the_folder_did_is_brought_back(
    cluster: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "_probe", lambda _: nullcontext("not-there"))
    half = store.trial_folder(folder, "b", 0) / "results.csv"
    half.parent.mkdir(parents=True)
    half.write_text("0\n1\n")
    # Of a study that was killed while it unpacked:
    store.write_json(folder / "trials/.a-seed0/trials/a/seed0/half.json", "unpacked")
    journal = folder.parent / "journal"
    done = run(folder, make_work(journal, slow="a1"), of_a1)
    check(folder, done)
    lines = [line.split() for line in journal.read_text().splitlines()]
    assert [epoch for name, epoch, *_ in lines if name == "a1"] == ["0", "1", "2", "0", "1", "2", "3"]  # anew
    assert [epoch for name, epoch, *_ in lines if name == "b0"] == ["2", "3"]  # from where it stood
    lost = {root for name, _, pid, root in lines if (name, pid) == ("a1", of_a1(lines))}
    others = {root for *_, root in lines} - lost
    assert len(lost) == 1 and len(others) == 4 and not any(Path(root).exists() for root in others)
    shutil.rmtree(lost.pop())  # a process that is killed cleans nothing
    assert all(str(folder / "init" / f"n-seed{trial.seed}.pt") in found["command"] for trial, found in done)


@pytest.mark.slow
def test_a_cluster_that_is_running_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as place:  # a short path: there are sockets in it
        words = ["start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--temp-dir={place}"]
        words += ["--node-ip-address=127.0.0.1", "--include-dashboard=false"]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        program = [sys.executable, "-m", "ray.scripts.scripts", *words]
        head = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: (Path(place) / "ray_current_cluster").is_file(), 60)
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            check(folder, run(folder, make_work(folder.parent / "journal")))
        finally:
            head.terminate()
            head.wait()


def start_study(folder: Path, data: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    program = [str(Path(sys.executable).with_name("yolo-attn")), "study", f"data={data}", *STUDY, f"name={name}"]
    return subprocess.Popen([*program, *words], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})


def trial_processes() -> list[psutil.Process]:
    """Return the processes that train a trial of a study in the folder of this test."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[1:4] == ["-m", "yolo_attn.study", "trial"]:
            found.append(process)
    return found


@pytest.mark.slow
def test_a_study_on_ray_has_the_numbers_of_one_without(tmp_path: Path) -> None:
    data = tiny_study.write_data(tmp_path / "data")
    assert start_study(tmp_path, data, "local").wait() == 0
    words = ("backend=ray", "workers=2", "ray_address=local")
    place = tmp_path / "runs/study/ray/trials"

    def ours() -> list[psutil.Process]:
        return [one for one in trial_processes() if str(place.parent) in one.cmdline()]

    study = start_study(tmp_path, data, "ray", *words)
    wait_for(lambda: len(rows(place / "yolov8n/seed0")) == 3)
    study.kill()  # the driver: its tasks and their processes end with it
    study.wait()
    wait_for(lambda: not ours(), 30)
    before = len(rows(place / "yolov8n-se-neck/seed0"))
    study = start_study(tmp_path, data, "ray", *words)
    wait_for(lambda: len(rows(place / "yolov8n-se-neck/seed0")) > max(before, 2) or study.poll() is not None)
    for process in ours()[:1]:
        parent = process.parent()
        assert parent and "ray" in " ".join(parent.cmdline())
        parent.kill()
    assert study.wait() == 0
    for variant in ("yolov8n", "yolov8n-se-neck"):
        broken, whole = (tmp_path / "runs/study" / name / "trials" / variant / "seed0" for name in ("ray", "local"))
        assert rows(broken) == rows(whole)
        one, other = (json.loads((folder / "trial.json").read_text()) for folder in (broken, whole))
        assert all(one[key] == other[key] for key in ("metrics", "batches", "start", "best_epoch", "parameters"))
        assert one["attempts"] > 1 and one["host"] == other["host"]
