"""Trials on this machine: so many processes at once, each with a device and its share of the cores."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from . import store

_KILLED = -9
_INTERRUPTED = (0, -2, _KILLED, -15)  # a process that ended so without an outcome goes on another time

OnStart = Callable[[store.Pending], object]
OnDone = Callable[[store.Pending, "dict[str, Any] | None"], object]
# Runs pending trials of a study; calls back for each, with None where a trial was interrupted.
Backend = Callable[[Path, Sequence[store.Pending], Mapping[str, Any], OnStart, OnDone], None]


def run_local(
    folder: Path, pending: Sequence[store.Pending], running: Mapping[str, Any], on_start: OnStart, on_done: OnDone
) -> None:
    """Run trials in processes of this machine; see ``Backend``."""
    devices: queue.Queue[str] = queue.Queue()
    for number in range(running["workers"]):
        devices.put(running["devices"][number % len(running["devices"])])
    children: set[subprocess.Popen[bytes]] = set()
    stopping, telling = threading.Event(), threading.Lock()

    def one(trial: store.Pending) -> None:
        device = devices.get()
        try:
            if stopping.is_set():
                return
            with telling:
                on_start(trial)
            words = ["trial", str(folder), trial.variant, str(trial.seed), device]
            found = run_one(folder, trial, words, threads(running["workers"]), children)
            with telling:
                if not stopping.is_set():
                    on_done(trial, found)
        finally:
            devices.put(device)

    with ThreadPoolExecutor(running["workers"]) as pool:
        futures = [pool.submit(one, trial) for trial in pending]
        try:
            left = set(futures)
            while left:
                done, left = wait(left, 1, FIRST_COMPLETED)  # on Windows, Ctrl-C arrives only after a wait
                for future in done:
                    future.result()
        except BaseException:
            stopping.set()
            while wait(futures, 0.1).not_done:  # one may only now begin its process
                for child in list(children):
                    children.discard(child)
                    child.kill()
            raise


def run_one(
    folder: Path,
    trial: store.Pending,
    words: Sequence[str],
    threads: int,
    children: set[subprocess.Popen[bytes]] | None = None,
) -> dict[str, Any] | None:
    """Run a trial in a process of its own and return what it left behind, or None if it was killed.

    That a process died otherwise is written down. For the arguments see ``run_child``.
    """
    place = store.trial_folder(folder, trial.variant, trial.seed)
    done, log = store.result(folder, trial.variant, trial.seed), place / store.LOG
    if done is not None and done["state"] == "failed":  # it is tried again
        (place / store.TRIAL).unlink()
    before = log.stat().st_size if log.is_file() else 0
    status = run_child(words, log, threads, children)
    done = store.result(folder, trial.variant, trial.seed)
    if done is not None or status in _INTERRUPTED:
        return done
    tail = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()[-1:]
    return write_failure(folder, trial, f"its process ended with {status}: {' '.join(tail)}")


def write_failure(folder: Path, trial: store.Pending, error: str, **more: Any) -> dict[str, Any]:
    """Write down that a trial failed and return what ``trial.json`` holds."""
    failed = {
        "schema": store.SCHEMA, "variant": trial.variant, "seed": trial.seed, "state": "failed", "error": error,
        **more, "ended": store.now(),
    }  # fmt: skip
    store.write_json(store.trial_folder(folder, trial.variant, trial.seed) / store.TRIAL, failed)
    return failed


def run_child(
    words: Sequence[str], log: Path, threads: int, children: set[subprocess.Popen[bytes]] | None = None
) -> int:
    """Run a verb of ``python -m yolo_attn.study`` whose life ends with ours; return its exit status.

    Args:
        words: The verb and its arguments.
        log: File that gets what it prints.
        threads: Threads for its computations on the CPU.
        children: Holds the process while it runs. Whoever kills it takes it out, and it counts as killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "YOLO_ATTN_FP16_CHECK": "0", "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }  # fmt: skip
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "yolo_attn.study", *words],
            env=environment,
            stdin=subprocess.PIPE,  # it ends when this end closes
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: we end it
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        if children is not None:
            children.add(child)
        try:
            status = child.wait()
            return status if children is None or child in children else _KILLED  # on Windows it would be 1
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            if child.stdin:
                child.stdin.close()
            if children is not None:
                children.discard(child)


def threads(workers: int) -> int:
    """Return how many threads each of some processes gets: the cores shared out, or what the user has set if less."""
    share = max(1, len(cores()) // workers)
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(said)) if said.isdigit() and int(said) > 0 else share


def cores() -> Sequence[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
