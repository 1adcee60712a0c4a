"""The folder of a study: plain files, written whole; one process at a time; nothing mixed.

::

    study.json    settings, variants, versions, data and machine; only ever extended
    plan.json     what each variant is expected to take
    models/       model YAML of each variant
    init/         the shared start of each scale and seed
    trials/<variant>/seed<k>/trial.json    written last: a trial without it is not done
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..cache import write_text
from ..errors import StudyError
from .settings import CHECKPOINTS, GROWING, RECORD

SCHEMA = 1
PLAN, COST, TRIAL, LOG, LOCK, ATTEMPTS, TRIAL_LOCK, PAIRS_LOCK = (
    "plan.json",
    "cost.json",
    "trial.json",
    "log.txt",
    "study.lock",
    "attempts.json",
    "trial.lock",
    "pairs.lock",
)
Record = dict[str, Any]
_CLOCK_STEP = 2.0  # seconds by which Linux may date one process differently when its clock is set
_PARTS = ("name", "settings", "variants", "versions", "data", "machine")
_LOST = "Put it back from a copy, or begin another study with name="
_AGAIN = "Delete it: the trial is run again"
# What of a variant says which model it is.
_SAME = ("kind", "layer", "place", "matched", "pretrained")


@dataclass(frozen=True, order=True)
class Pending:
    """A trial that is to be run."""

    seed: int
    number: int
    variant: str


def read(folder: Path) -> Record | None:
    """Return what ``study.json`` holds, or None if there is none.

    Raises:
        StudyError: If it is not one that this version reads.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    record = read_json(file, _LOST)
    if record.get("schema") != SCHEMA:
        raise StudyError(f"{file} is no study of this version of yolo-attn (schema {SCHEMA}); name another with name=")
    return record


def check_whole(folder: Path, record: Record) -> None:
    """Check that what ``study.json`` holds has all its parts.

    Raises:
        StudyError: If not.
    """
    missing = [key for key in _PARTS if key not in record] or [key for key in GROWING if key not in record["settings"]]
    if missing:
        raise StudyError(f"{folder / RECORD} is damaged: it has no {missing[0]!r}. {_LOST}")


def read_json(file: Path, mend: str = "Delete it: what it held is made again") -> Record:
    """Return the object that a JSON file of a study holds.

    Raises:
        StudyError: If it holds none; it ends with the mend.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{file} cannot be read: {error}") from error
    except ValueError as error:
        raise StudyError(f"{file} is damaged: {error}. {mend}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{file} is damaged: it holds no JSON object. {mend}")
    return content


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1, allow_nan=False) + "\n")


def extended(record: Record, asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a study with what a command adds, and in words what that is.

    Raises:
        StudyError: If the command asks for something else than the study has.
    """
    settings, news = dict(record["settings"]), []
    for key, value in asked.items():
        old: Any = settings.get(key)
        if key in GROWING:
            more = [item for item in value if item not in old]
            if more:
                news.append(
                    f"{key}: {', '.join(str(item.get('slug') if isinstance(item, dict) else item) for item in more)}"
                )
            settings[key] = [*old, *more]
        elif key == "train":
            for name, item in value.items():
                if old.get(name) != item:
                    raise _other(record, name, old.get(name, "its default"), item)
        elif old != value and not _is_downloaded(key, old, value):
            raise _other(record, key, old, value)
    return settings, news


def _is_downloaded(key: str, old: Any, new: Any) -> bool:
    """Return whether a checkpoint is a file now that was but a name when the study began: the host put it here."""
    return key in CHECKPOINTS and bool(old and new) and Path(old).name == old == Path(new).name


def check_same(record: Record, versions: Mapping[str, str], data: Mapping[str, Any], kind: str) -> None:
    """Check that trials of now are of one kind with those of before.

    Raises:
        StudyError: If versions, data or the kind of device are others; it says which, and the mend.
    """
    for name in ("yolo-attn", "ultralytics", "torch"):
        if record["versions"][name] != versions[name]:
            raise _other(record, name, record["versions"][name], versions[name], "install that version, or")
    if record["data"]["fingerprint"] != data["fingerprint"]:
        what = [
            f"{split}: {record['data']['images'][split]} images with {record['data']['instances'][split]} objects, now "
            f"{data['images'][split]} with {data['instances'][split]}"
            for split in ("train", "val")
        ]
        raise StudyError(
            f"{record['name']}: the data have changed since the study began ({'; '.join(what)}), and its trials would "
            "not be of one kind. Put the data back, or begin another study with name="
        )
    if record["machine"]["kind"] != kind:
        raise _other(record, "device", record["machine"]["kind"], kind)


def _other(record: Record, key: str, old: Any, new: Any, mend: str = "leave it as it was, or") -> StudyError:
    return StudyError(
        f"{record['name']} was begun with {key}={old}, and this is {key}={new}: its trials would not be of one kind. "
        f"For this, {mend} begin another study with name="
    )


def check_variants(record: Record, variants: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the variants that a study has not yet.

    Raises:
        StudyError: If one that it has would now be another model.
    """
    known = {variant["name"]: variant for variant in record["variants"]}
    fresh = []
    for variant in variants:
        old = known.get(variant["name"])
        if old is None:
            fresh.append(variant)
        elif variant["kind"] != "pointwise" and any(old.get(key) != variant.get(key) for key in (*_SAME, "parameters")):
            raise StudyError(
                f"{record['name']}: {variant['name']} was a model of {old['parameters']:,} parameters and is now one "
                f"of {variant['parameters']:,}. Begin another study with name="
            )
    return fresh


def trial_folder(folder: Path, variant: str, seed: int) -> Path:
    """Return the folder of a trial."""
    return folder / "trials" / variant / f"seed{seed}"


def result(folder: Path, variant: str, seed: int) -> Record | None:
    """Return what ``trial.json`` of a trial holds, or None if it is not done."""
    file = trial_folder(folder, variant, seed) / TRIAL
    if not file.is_file():
        return None
    found = read_json(file, _AGAIN)
    if found.get("state") not in ("finished", "failed"):
        raise StudyError(f"{file} is damaged: its state is {found.get('state')!r}. {_AGAIN}")
    return found


def start_file(folder: Path, variant: Mapping[str, Any], seed: int) -> Path:
    """Return the file of the start that a variant shares with those of its scale."""
    return folder / "init" / f"{variant['scale']}-seed{seed}.pt"


def trials(record: Record) -> list[Pending]:
    """Return all trials of a study, seed by seed: the pairs of the first seed are complete first."""
    names = [variant["name"] for variant in record["variants"]]
    return sorted(Pending(seed, n, name) for seed in record["settings"]["seeds"] for n, name in enumerate(names))


def pending(folder: Path, record: Record, retry: bool) -> list[Pending]:
    """Return the trials that are not done; failed ones only with ``retry``."""
    found = []
    for trial in trials(record):
        done = result(folder, trial.variant, trial.seed)
        if done is None or (retry and done["state"] == "failed"):
            found.append(trial)
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working on a study.

    Raises:
        StudyError: If one does.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    own = json.dumps({"pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()})
    with _alone_on_this_machine(folder):
        for _ in range(2):
            try:
                handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                if holder := _holder(file):
                    raise _taken(folder, holder) from None
                file.unlink(missing_ok=True)
        else:
            raise _taken(folder, None)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(own)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            if is_new and not any(folder.iterdir()):  # nothing came of it
                folder.rmdir()


@contextmanager
def _alone_on_this_machine(folder: Path) -> Iterator[None]:
    """Hold a folder by a lock that ends with this process, where the system has one; no clock and no file can be wrong.

    Raises:
        StudyError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise _taken(folder, _holder(folder / LOCK)) from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def _taken(folder: Path, holder: Mapping[str, Any] | None) -> StudyError:
    if holder is None:
        return StudyError(f"{folder} is being worked on by another process; wait for it or end it")
    return StudyError(
        f"{folder} is being worked on by process {holder['pid']} on {holder['host']}; wait for it or end it. If there "
        f"is no such process, delete {folder / LOCK}"
    )


def _holder(file: Path) -> dict[str, Any] | None:
    """Return who holds a lock, or None if nobody does any more."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        pid, host, started = held["pid"], held["host"], held["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # killed while it wrote it
    if host != socket.gethostname():
        return held
    now = _started(pid)
    return held if now is not None and abs(now - started) < _CLOCK_STEP else None


def _started(pid: int) -> float | None:
    """Return when a process began, or None if there is none of that number."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
