"""The plan of a study: what it trains, and what that will take, from a few training steps of each variant."""

from __future__ import annotations

import hashlib
import json
import operator
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import tabular
from ..errors import StudyError, YoloAttnError
from . import pool, store, trial

Say = Callable[[str], object]
Plan = dict[str, Any]
_HEADS = ("variant", "what it is", "parameters", "GFLOPs", "trials", "a trial takes", "memory")


def measure(folder: Path, record: store.Record, running: Mapping[str, Any], say: Say) -> Plan:
    """Return the plan of a study and keep it in ``plan.json``; what was measured before is not measured again.

    A variant that cannot be measured has an ``error`` in place of times: its trials will say the same.
    """
    file = folder / store.PLAN
    old = store.read_json(file)["variants"] if file.is_file() else {}
    found: dict[str, Any] = {}
    threads = pool.threads(running["workers"])
    for variant in record["variants"]:
        name = variant["name"]
        key = _key(folder, record, variant, running["devices"][0], threads)
        if old.get(name, {}).get("key") == key and "error" not in old[name]:
            found[name] = old[name]
            continue
        say(f"measuring a few training steps of {name}")
        found[name] = {"key": key, **_measured(folder, record, variant, running["devices"][0], threads)}
        found[name] |= {"parameters": variant["parameters"], "gflops": variant["gflops"]}
        store.write_json(file, {"variants": {**old, **found}})
    per_variant = len(record["settings"]["seeds"])
    total = sum(one["seconds"] or 0 for one in found.values()) * per_variant
    plan = {"variants": found, "seconds": total, "workers": running["workers"]}
    store.write_json(file, plan)
    return plan


def _key(folder: Path, record: store.Record, variant: Mapping[str, Any], device: str, threads: int) -> str:
    """Return a hash of all that the time of a trial depends on."""
    model = (folder / variant["model"]).read_text(encoding="utf-8")
    arguments = trial.training_arguments(record["settings"], record["data"]["fingerprint"])
    words = json.dumps([model, arguments, device, threads, record["machine"]["processor"]], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _measured(
    folder: Path, record: store.Record, variant: Mapping[str, Any], device: str, threads: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="yolo-attn-plan-") as place:
        request, answer, log = (Path(place) / name for name in ("request.json", "answer.json", "log.txt"))
        store.write_json(request, {"record": record, "folder": str(folder.absolute())})
        pool.run_child(["measure", place, variant["name"], device], log, threads)
        if answer.is_file():
            found = store.read_json(answer)
        else:  # the process died
            found = {"error": " ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])}
    if "error" in found:
        return {**dict.fromkeys(("seconds_per_epoch", "seconds_around", "seconds", "memory")), **found}
    seconds = found["seconds_around"] + found["seconds_per_epoch"] * record["settings"]["epochs"]
    return {**found, "seconds": seconds}


def measure_variant(place: Path, name: str, device: str) -> None:
    """Measure a variant in this process: read ``request.json`` of a folder and write its ``answer.json``."""
    from dataclasses import replace

    from ..host.study.trial import measure as measure_steps

    request = store.read_json(place / "request.json")
    described = trial.describe(Path(request["folder"]), request["record"], name, 0, device)
    try:
        found = measure_steps(replace(described, folder=place / "run", start=None))
    except Exception as error:  # a finding, as it will be in the trial
        text = str(error) if isinstance(error, YoloAttnError) else f"{type(error).__name__}: {error}"
        found = {"error": " ".join(text.split())}
    store.write_json(place / "answer.json", found)


def table(record: store.Record, plan: Plan, running: Mapping[str, Any], todo: Sequence[store.Pending]) -> list[str]:
    """Return the plan as lines of text."""
    rows = []
    for variant in record["variants"]:
        one = plan["variants"][variant["name"]]
        left = sum(trial.variant == variant["name"] for trial in todo)
        cells = (
            variant["name"], variant["what"], f"{variant['parameters']:,}", f"{variant['gflops']:.2f}",
            f"{left} of {len(record['settings']['seeds'])}", duration(one["seconds"]), size(one["memory"]),
        )  # fmt: skip
        rows.append(dict(zip(_HEADS, cells, strict=True)))
    columns = [(head, operator.itemgetter(head), number > 1) for number, head in enumerate(_HEADS)]
    lines = tabular.text(columns, rows, sys.maxsize)
    for variant in record["variants"]:
        if error := plan["variants"][variant["name"]].get("error"):
            lines.append(f"warning: {variant['name']} could not be measured: {error}")
    settings = record["settings"]
    begins = f"weights of {settings['pretrained']}" if settings["pretrained"] else "random weights"
    lines += [
        f"A trial: {settings['epochs']} epoch{'s' if settings['epochs'] > 1 else ''} at {settings['imgsz']} px, "
        f"batch {settings['batch']}, from {begins}, "
        f"with {settings['loader_workers']} workers of the data loader (loader_workers=).",
        f"{len(todo)} trials to run, {_at_once(running, todo)} at once on {', '.join(running['devices'])}: about "
        f"{duration(left_seconds(plan, todo, running['workers']))}.",
    ]
    return [*lines, *_memory_warnings(plan, running, _at_once(running, todo))]


def left_seconds(plan: Plan, todo: Sequence[store.Pending], workers: int) -> float | None:
    """Return how long trials will take, or None if a variant was not measured."""
    times = [plan["variants"][trial.variant]["seconds"] for trial in todo]
    return None if None in times else sum(times) / max(1, min(workers, len(todo)))


def _at_once(running: Mapping[str, Any], todo: Sequence[store.Pending]) -> int:
    return max(1, min(running["workers"], len(todo)))


def _memory_warnings(plan: Plan, running: Mapping[str, Any], at_once: int) -> list[str]:
    sizes = [one["memory"] for one in plan["variants"].values() if one["memory"]]
    if not sizes or running["backend"] == "ray":  # a cluster's memory is not this machine's
        return []
    devices = running["devices"]
    on_one = -(-at_once // len(devices))  # trials at once on the fullest device
    if devices[0] in ("cpu", "mps"):
        import psutil

        there, where = psutil.virtual_memory().available, "free"
    else:
        import torch

        if not torch.cuda.is_available():
            return []
        there = min(torch.cuda.get_device_properties(int(device)).total_memory for device in devices)
        at_once, where = on_one, f"on device {devices[0]}"
    needed = at_once * max(sizes)
    if needed <= there:
        return []
    return [
        f"warning: {at_once} trials at once need about {size(needed)}, and {size(there)} are {where}: fewer workers="
    ]


def duration(seconds: float | None) -> str:
    """Return a time in words."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(number: float | None) -> str:
    """Return bytes in words."""
    return "unknown" if number is None else f"{number / 2**30:.1f} GiB"


def check(plan: Plan) -> None:
    """Check that something can be trained.

    Raises:
        StudyError: If no variant could be measured.
    """
    errors = [one["error"] for one in plan["variants"].values() if one.get("error")]
    if errors and len(errors) == len(plan["variants"]):
        raise StudyError(f"no variant can be trained: {errors[0]}")
