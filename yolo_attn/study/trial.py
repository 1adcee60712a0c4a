"""One trial of a study, from its files to its files: what every backend calls, in a process of its own."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import DataError, StudyError
from . import pairs, sources, store


def run_trial(folder: str | Path, variant: str, seed: int, device: str, on_node: bool = False) -> dict[str, Any]:
    """Train and judge a trial, going on where it stands, and write its ``trial.json``.

    A failure is written down, not raised. An interruption writes nothing: the next call goes on.

    Args:
        folder: Folder of the study, with its ``study.json``, models and starts.
        variant: Name of the variant.
        seed: Seed.
        device: Device as Ultralytics names it: ``cpu``, ``0``.
        on_node: Whether this may be another machine than that where the study was begun.

    Returns:
        What ``trial.json`` holds.
    """
    root = Path(folder).absolute()
    place = store.trial_folder(root, variant, seed)
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place / store.TRIAL_LOCK):  # what a cluster or a killed study has lost may still be ending
        return _run_alone(root, place, variant, seed, device, on_node)


def _run_alone(root: Path, place: Path, variant: str, seed: int, device: str, on_node: bool) -> dict[str, Any]:
    done = store.result(root, variant, seed)
    if done is not None and done["state"] == "finished":
        return done
    before = store.read_json(place / store.ATTEMPTS) if (place / store.ATTEMPTS).is_file() else {}
    attempts = {"started": before.get("started") or store.now(), "attempts": before.get("attempts", 0) + 1}
    store.write_json(place / store.ATTEMPTS, attempts)
    found: dict[str, Any] = {
        "schema": store.SCHEMA, "variant": variant, "seed": seed, "state": "failed", "error": None, **attempts,
        "host": socket.gethostname(),
    }  # fmt: skip
    try:
        found |= _work(root, variant, seed, device, on_node)
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}"
    _write_down(root, place, found)
    if found["state"] == "finished":
        from ..host.study.trial import clean

        clean(place)
        (place / store.TRIAL_LOCK).unlink(missing_ok=True)
    (place / store.ATTEMPTS).unlink(missing_ok=True)
    return found


def _write_down(root: Path, place: Path, found: dict[str, Any]) -> None:
    """Write ``trial.json``; of two trials that end together, the second is checked against the first."""
    with _alone(root / "trials" / store.PAIRS_LOCK):
        if found["error"] is None:
            try:
                check_pair(root, store.read(root) or {}, found["variant"], found["seed"], found)
                found["state"] = "finished"
            except StudyError as error:
                found["error"] = f"StudyError: {error}"
        found["ended"] = store.now()
        store.write_json(place / store.TRIAL, found)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process holds a file."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with file.open("w") as held:
        with suppress(OSError):  # a file system without locks
            fcntl.lockf(held, fcntl.LOCK_EX)  # released when this process ends, on a network's file system too
        yield


def _work(root: Path, variant: str, seed: int, device: str, on_node: bool) -> dict[str, Any]:
    from ..host.study import trial as host

    record = store.read(root)
    if record is None:
        raise StudyError(f"{root} is no study")
    check_versions(record)
    sources.check_layers(record)
    if on_node:
        check_data(record)
    trial = describe(root, record, variant, seed, device)
    known = host.train(trial)
    batches = known.pop("batches")
    known["batches"] = hash_of(batches)
    known["command"] = command(trial)
    return {**known, "metrics": host.judge(trial, _file(root, record["data"]["judged"]))}


def check_versions(record: Mapping[str, Any]) -> None:
    """Check that this machine trains with what the study was begun with.

    Raises:
        StudyError: If not.
    """
    from ..host.run.record import versions

    now, then = versions(), record["versions"]
    for name in ("yolo-attn", "ultralytics", "torch"):
        if then[name] != now[name]:
            raise StudyError(
                f"{socket.gethostname()} has {name}={now[name]}, and the study was begun with {name}={then[name]}: "
                "install that version there"
            )


def check_data(record: Mapping[str, Any]) -> None:
    """Check that this machine has the data of the study, under the same path.

    Raises:
        StudyError: If not.
    """
    from ..host.study.data import examine

    file, settings = record["data"]["file"], record["settings"]
    host = socket.gethostname()
    if not Path(file).is_file():
        raise StudyError(f"{host} has no {file}: a study needs its data on each node, under the same path")
    arguments = {**settings["train"], **{key: settings[key] for key in ("epochs", "batch", "imgsz")}}
    try:
        found = examine(file, arguments)
    except (DataError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise StudyError(f"{host} cannot read {file} ({why}): a study needs its data on each node") from error
    if found["fingerprint"] != record["data"]["fingerprint"]:
        raise StudyError(f"{host} has other images or labels behind {file} than those that the study was begun with")


def describe(root: Path, record: Mapping[str, Any], variant: str, seed: int, device: str) -> Any:
    """Return a trial of a study as the host runs it."""
    from ..host.study.trainer import Trial

    entry = next(one for one in record["variants"] if one["name"] == variant)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return Trial(
        folder=store.trial_folder(root, variant, seed),
        model=root / entry["model"],
        start=store.start_file(root, entry, seed),
        seed=seed,
        device=device,
        arguments=training_arguments(record["settings"], record["data"]["file"]),
        is_whole=entry["kind"] != pairs.OWN,
        threads=int(threads) if threads.isdigit() else None,
    )


def training_arguments(settings: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Return the training arguments of Ultralytics that settings stand for."""
    own = {key: settings[key] for key in ("epochs", "batch", "imgsz")}
    return {**settings["train"], "data": data, **own, "workers": settings["loader_workers"]}


def command(trial: Any) -> str:
    """Return the command that trains like a trial, with Ultralytics alone and the files of the study."""
    given = {"model": trial.model, "pretrained": trial.start, **trial.arguments, "seed": trial.seed}
    return shlex.join(["yolo", "train", *(f"{key}={value}" for key, value in given.items())])


def hash_of(batches: Mapping[int, str]) -> str:
    """Return one hash of those of the first batches of some epochs."""
    return "sha256:" + hashlib.sha256(" ".join(batches[epoch] for epoch in sorted(batches)).encode()).hexdigest()


def check_pair(root: Path, record: Mapping[str, Any], variant: str, seed: int, known: Mapping[str, Any]) -> None:
    """Check that a trial began with the weights and saw the batches of the finished ones of its seed.

    Raises:
        StudyError: If not.
    """
    kinds = {one["name"]: one["kind"] for one in record["variants"]}
    mend = f"To train it again, delete {store.trial_folder(root, variant, seed)}"
    for other in kinds:
        done = store.result(root, other, seed) if other != variant else None
        if done is None or done["state"] != "finished":
            continue
        found = pairs.differing((kinds[other], kinds[variant]), done, known)
        if pairs.BATCHES in found:
            raise StudyError(
                f"{variant} saw other batches than {other} with seed {seed}: they are no pair. Both need as many "
                f"loader workers; Ultralytics takes fewer than loader_workers= where there are fewer cores. {mend}"
            )
        if found:
            raise StudyError(
                f"{variant} began with other weights than {other} with seed {seed}: they are no pair. {mend}"
            )


def _file(root: Path, name: str) -> str:
    return name if Path(name).is_absolute() else str(root / name)
