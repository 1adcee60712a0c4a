"""Trials on a Ray cluster: each is a task, tried again when its worker or node is lost."""

from __future__ import annotations

import os
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import StudyError
from . import pool, ray_node, store
from .settings import RECORD
from .trial import check_pair, command, describe

RETRIES = 3  # of a trial whose worker or node is lost


class _Lost(Exception):
    """A trial ended without an outcome of its own."""


def load() -> Any:
    """Return the module ``ray``.

    Raises:
        StudyError: If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise StudyError(f"backend=ray needs Ray ({error}): pip install 'yolo-attn[ray]'") from error
    return ray


def run_ray(
    folder: Path,
    pending: Sequence[store.Pending],
    running: Mapping[str, Any],
    on_start: pool.OnStart,
    on_done: pool.OnDone,
    work: ray_node.Work | None = None,
) -> None:
    """Run trials as tasks of a Ray cluster; see ``Backend``.

    Args:
        folder: Folder of the study.
        pending: The trials.
        running: ``workers``, ``devices`` and perhaps ``ray_address``.
        on_start: Called for each trial that is sent out, again if it is sent out again.
        on_done: Called for each trial that ended.
        work: Runs a trial on its node; None for a process that trains it.

    Raises:
        StudyError: If there is no such cluster, if it cannot run a trial, or if it is lost.
    """
    from ..host.study.arguments import kind

    ray, record = load(), store.read(folder)
    if record is None:
        raise StudyError(f"{folder} is no study")
    is_cuda = kind(running["devices"][0]) == "cuda"
    with _connected(ray, running, is_cuda), _probe(folder) as probe:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        threads = share(nodes, running["workers"], is_cuda)
        task = ray.remote(num_cpus=threads, num_gpus=int(is_cuda), max_retries=0)(_make_task())
        order = {
            "folder": str(folder), "probe": probe, "threads": threads, "work": work, "environment": _environment(),
            "device": "0" if is_cuda else running["devices"][0],  # Ray shows a task its own GPU alone
        }  # fmt: skip
        waiting = deque((trial, 1) for trial in pending)
        sent: dict[Any, tuple[store.Pending, int]] = {}
        try:
            while waiting or sent:
                while waiting and len(sent) < running["workers"]:
                    trial, tries = waiting.popleft()
                    on_start(trial)
                    bundle = ray.put(_bundle(folder, record, trial))
                    named = task.options(name=f"{trial.variant} seed {trial.seed}")
                    given = {**order, "variant": trial.variant, "seed": trial.seed, "bundle": bundle}
                    sent[named.remote(given)] = trial, tries
                for ref in ray.wait(list(sent), num_returns=1)[0]:
                    trial, tries = sent.pop(ref)
                    try:
                        found = _settle(folder, record, trial, tries, _answer(ray, ref))
                    except _Lost as lost:
                        if tries <= RETRIES:
                            waiting.appendleft((trial, tries + 1))
                            continue
                        error = f"its worker was lost {tries} times, the last time: {lost}"
                        found = pool.write_failure(folder, trial, error, attempts=tries)
                    on_done(trial, found)
        except BaseException:
            for ref in sent:
                ray.cancel(ref, force=True)
            raise


def share(nodes: Sequence[Mapping[str, float]], workers: int, is_cuda: bool) -> int:
    """Return how many CPUs each trial gets: as many as leave room for all that run at once.

    Args:
        nodes: ``CPU`` and ``GPU`` of each node.
        workers: How many trials run at once.
        is_cuda: Whether each needs a GPU.

    Raises:
        StudyError: If no node can run a trial.
    """

    def places(threads: int) -> int:
        gpus = [node.get("GPU", 0) if is_cuda else float("inf") for node in nodes]
        return sum(int(min(node.get("CPU", 0) // threads, gpu)) for node, gpu in zip(nodes, gpus, strict=True))

    wanted = min(workers, places(1))
    if not wanted:
        need = "a GPU; device=cpu needs none" if is_cuda else "a CPU"
        raise StudyError(f"backend=ray: no node of the cluster has {need}")
    said = os.environ.get("OMP_NUM_THREADS", "")
    most = int(said) if said.isdigit() and int(said) else int(max(node.get("CPU", 0) for node in nodes))
    return max(threads for threads in range(1, most + 1) if threads == 1 or places(threads) >= wanted)


@contextmanager
def _connected(ray: Any, running: Mapping[str, Any], is_cuda: bool) -> Iterator[None]:
    """Use the cluster of an address, of ``RAY_ADDRESS`` or of ``ray start`` on this machine, else one of our own."""
    if ray.is_initialized():  # by the program that we are part of
        yield
        return
    address = running.get("ray_address")
    # For a Ray of our own: it tells nobody, and has the GPUs that were named.
    environment = {"RAY_USAGE_STATS_ENABLED": "0"}
    if is_cuda:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(running["devices"])
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "of this machine"
        tokens = "If it asks for a token, set RAY_AUTH_MODE=token. " if "Token" in str(error.__cause__) else ""
        raise StudyError(
            f"the Ray cluster {where} cannot be used: {error}. {tokens}ray_address=local starts a Ray of our own"
        ) from error
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value
    try:
        yield
    except ray.exceptions.RayError as error:
        raise StudyError(f"the Ray cluster is lost: {error}. The same command goes on") from error
    finally:
        ray.shutdown()


@contextmanager
def _probe(folder: Path) -> Iterator[str]:
    """Yield the name of a new file in the folder of the study: a node that sees it shares the folder."""
    for old in folder.glob("probe-*"):  # of a study that was killed
        old.unlink()
    file = folder / f"probe-{uuid.uuid4().hex}"
    file.touch()
    try:
        yield file.name
    finally:
        file.unlink()


def _environment() -> dict[str, str]:
    """Return the user's switches of yolo-attn, for the nodes."""
    return {
        key: value for key, value in os.environ.items() if key.startswith("YOLO_ATTN_") and key != "YOLO_ATTN_CACHE"
    }


def _make_task() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def task(order: Mapping[str, Any]) -> dict[str, Any]:  # inside a function: Ray sends it as it is, not by name
        import socket

        import ray

        try:
            from yolo_attn.study.ray_node import carry_out
        except ImportError as error:
            raise ImportError(f"{socket.gethostname()} has no yolo-attn that fits: {error}") from None
        return carry_out(order, ray.get)

    return task


def _bundle(folder: Path, record: store.Record, trial: store.Pending) -> bytes:
    """Return what a node needs for a trial if it does not share the folder: half a trial, too, to go on with."""
    variant = next(one for one in record["variants"] if one["name"] == trial.variant)
    paths = [
        folder / RECORD, folder / variant["model"], store.start_file(folder, variant, trial.seed),
        folder / "data", store.trial_folder(folder, trial.variant, trial.seed),
    ]  # fmt: skip
    return ray_node.pack(folder, [path for path in paths if path.exists()])


def _answer(ray: Any, ref: Any) -> dict[str, Any]:
    """Return what came of a task; an error of its own is one."""
    try:
        answer = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        return {"error": f"{type(error.cause).__name__}: {error.cause}"}
    except ray.exceptions.RayError as error:
        raise _Lost(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
    if answer["found"] is None:
        raise _Lost(f"its process on {answer['host']} was killed")
    return answer


def _settle(
    folder: Path, record: store.Record, trial: store.Pending, tries: int, answer: Mapping[str, Any]
) -> dict[str, Any]:
    """Put what a node sends into the folder of the study, ``trial.json`` last; return what that holds."""
    if "error" in answer:
        return pool.write_failure(folder, trial, answer["error"], attempts=tries)
    found = {**answer["found"]}
    place = store.trial_folder(folder, trial.variant, trial.seed)
    if found["state"] == "finished":
        try:
            check_pair(folder, record, trial.variant, trial.seed, found)
        except StudyError as error:
            found |= {"state": "failed", "error": f"StudyError: {error}"}
        if answer["files"] is not None:
            found["command"] = command(describe(folder, record, trial.variant, trial.seed, "cpu"))
    if answer["files"] is not None:
        with_new = folder / "trials" / f".{trial.variant}-seed{trial.seed}"
        shutil.rmtree(with_new, ignore_errors=True)  # of a study that was killed
        ray_node.unpack(answer["files"], with_new)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        store.trial_folder(with_new, trial.variant, trial.seed).replace(place)
        shutil.rmtree(with_new)
    store.write_json(place / store.TRIAL, found)
    return found
