"""``yolo-attn study``: plan, train what is not trained yet, and report."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..cache import write_text
from ..errors import StudyError
from . import backends, pool, settings, sources, store, variants
from . import plan as planning

Say = Callable[[str], object]
_KEPT = ("name", "kind", "layer", "place", "matched", "pretrained", "what", "model", "scale", "parameters", "gflops")


_say: Say = functools.partial(print, flush=True)


def run(words: Sequence[str], dry_run: bool = False, retry: bool = False, say: Say = _say) -> int:
    """Begin a study, go on with it, or report on it if all is done.

    Args:
        words: ``key=value`` words; the first may be a study's YAML or folder.
        dry_run: Stop after the plan.
        retry: Run failed trials again.
        say: Takes one line.

    Returns:
        0 if every trial is finished, or with ``dry_run``; 1 if some failed or were interrupted.

    Raises:
        YoloAttnError: If it cannot be done.
    """
    request = settings.read(words)
    backend = backends.find_backend(request.running["backend"])
    folder = request.folder.absolute()
    with store.locked(folder), _interruptible(folder):
        record = _prepared(folder, request, say)
        todo = store.pending(folder, record, retry)
        if todo or dry_run:
            plan = planning.measure(folder, record, request.running, say)
            planning.check(plan)
            for line in planning.table(record, plan, request.running, todo):
                say(line)
            if dry_run:
                say(f"This is the plan; nothing is trained. The same command without --dry-run begins it in {folder}")
                return 0
            running = {key: request.running[key] for key in settings.REMEMBERED if key in request.running}
            store.write_json(folder / settings.RECORD, {**record, "running": running})
            _write_starts(folder, record, todo)
            _train(backend, folder, record, request.running, plan, todo, say)
        return _conclude(folder, record, request.running, say)


def _prepared(folder: Path, request: settings.Request, say: Say) -> store.Record:
    """Return what the study is, extended by what the command adds; model YAMLs are written."""
    from ..host.study import data, models

    old = store.read(folder)
    news: list[str] = []
    if old is None:
        if (folder / "trials").exists():
            raise StudyError(
                f"{folder} has trials and no {settings.RECORD}: nobody can say what they were. Move the folder away, "
                "or begin with another name="
            )
        chosen = request.settings
        for key in settings.CHECKPOINTS:
            if chosen[key]:
                models.check_checkpoint(key, chosen[key])
    else:
        store.check_whole(folder, old)
        chosen, news = store.extended(old, request.settings)
        done = not store.pending(folder, old, retry=True)
        if done and not news:
            return old
    say(f"reading {chosen['data']}")
    arguments = {**chosen["train"], **{key: chosen[key] for key in ("epochs", "batch", "imgsz")}}
    found = data.examine(chosen["data"] if old is None else old["data"]["file"], arguments, folder / "data")
    images, objects = found["images"], found["instances"]
    say(
        f"{images['train']} images with {objects['train']} objects to train, "
        f"{images['val']} with {objects['val']} to validate"
    )
    if found["judged"] != found["file"]:
        found["judged"] = "data/val.yaml"
    machine, versions = _machine(request.running), _versions()
    if old is not None:
        store.check_same(old, versions, found, machine["kind"])
        sources.check_layers(old)
        if not news:
            return old
    made = variants.make(chosen, found, say)
    if old is None:
        _check_weights(made, chosen, found["names"])
    fresh = made if old is None else store.check_variants(old, made)
    for variant in fresh:
        (folder / "models").mkdir(parents=True, exist_ok=True)
        write_text(folder / variant["model"], variant["text"])
    entries = [{key: variant[key] for key in _KEPT if key in variant} for variant in fresh]
    own_layers = sources.layers_of(variant["content"] for variant in made)
    if old is not None:
        for one in news:
            say(f"the study {old['name']} is extended by {one}")
        every = [*old["variants"], *entries]
        return {
            **old, "settings": chosen, "variants": every, "own_layers": own_layers, "extended": store.now(),
            "extensions": [*old.get("extensions", []), list(sys.argv)],
        }  # fmt: skip
    return {
        "schema": store.SCHEMA, "name": folder.name, "created": store.now(), "command": list(sys.argv),
        "settings": chosen, "variants": entries, "versions": versions, "data": found, "machine": machine,
        "own_layers": own_layers,
    }  # fmt: skip


def _check_weights(made: Sequence[variants.Variant], chosen: Mapping[str, Any], names: list[str]) -> None:
    """Check that pretrained weights that are here fit the models that begin with them."""
    from ..host.study.start import begin

    for variant in made:
        if variant["kind"] in ("plain", "larger"):
            file = variant.get("pretrained") or chosen["pretrained"]
            if file and Path(file).is_file():
                begin(variant["content"], 0, names, file)


def _versions() -> dict[str, str]:
    from ..host.run.record import versions

    return versions()


def _machine(running: Mapping[str, Any]) -> dict[str, Any]:
    from ..host.study.arguments import describe_machine, kind

    described = describe_machine(running["devices"])
    return {**described, "cores": len(pool.cores()), "kind": kind(running["devices"][0])}


def _write_starts(folder: Path, record: store.Record, todo: Sequence[store.Pending]) -> None:
    """Write the shared starts that trials need and that are not there."""
    from ..host.study.start import write_start

    by_name = {variant["name"]: variant for variant in record["variants"]}
    bases = {one["scale"]: one for one in record["variants"] if one["kind"] in ("plain", "larger")}
    for trial in todo:
        variant = by_name[trial.variant]
        file = store.start_file(folder, variant, trial.seed)
        if not file.is_file():
            base = bases[variant["scale"]]
            pretrained = base.get("pretrained") or record["settings"]["pretrained"]
            sources.check_weights(folder, variant["scale"], pretrained)
            write_start(folder / base["model"], trial.seed, record["data"]["names"], pretrained, file)


def _train(
    backend: pool.Backend,
    folder: Path,
    record: store.Record,
    running: Mapping[str, Any],
    plan: planning.Plan,
    todo: Sequence[store.Pending],
    say: Say,
) -> None:
    """Run trials, with a line for each that begins or ends."""
    total = len(store.trials(record))
    left = list(todo)
    took: list[tuple[float, float]] = []  # seconds of each finished trial, whole, and as planned

    def label(trial: store.Pending) -> str:
        return f"{trial.variant} seed {trial.seed}"

    def on_start(trial: store.Pending) -> None:
        say(f"begins   {label(trial)}")

    def on_done(trial: store.Pending, found: dict[str, Any] | None) -> None:
        left.remove(trial)
        number = f"{total - len(left)} of {total}"
        remaining = planning.left_seconds(plan, left, running["workers"])
        planned = plan["variants"][trial.variant]["seconds"]
        if found is not None and found["state"] == "finished" and planned:
            took.append((found["seconds"], planned))
        if remaining and took:  # as fast as they have been so far
            real, expected = map(sum, zip(*took, strict=True))
            remaining *= real / expected
        rest = f"; about {planning.duration(remaining)} left" if left else ""
        if found is None:
            say(f"killed   {label(trial)} ({number}): the same command goes on with it{rest}")
        elif found["state"] == "failed":
            say(f"failed   {label(trial)} ({number}): {found['error']}{rest}")
        else:
            own = found["metrics"]["ultralytics"]
            said = f"mAP50-95 {own['map']:.4f}, mAP50 {own['map50']:.4f}, {planning.duration(found['seconds'])}"
            say(f"finished {label(trial)} ({number}): {said}{rest}")

    backend(folder, todo, running, on_start, on_done)


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise StudyError(f"interrupted; the same command goes on with {folder}") from None


def _conclude(folder: Path, record: store.Record, running: Mapping[str, Any], say: Say) -> int:
    """Measure what models cost if all is trained, write the report, and say what is missing."""
    trials = store.trials(record)
    results = [store.result(folder, trial.variant, trial.seed) for trial in trials]
    failed = [t for t, found in zip(trials, results, strict=True) if found and found["state"] == "failed"]
    missing = [t for t, found in zip(trials, results, strict=True) if found is None]
    if not missing:
        _measure_cost(folder, record, running, say)
    _write_report(folder, say)
    for trial in failed:
        log = store.trial_folder(folder, trial.variant, trial.seed) / store.LOG
        say(f"failed: {trial.variant} seed {trial.seed}, its log: {log}")
    if failed:
        say(f"to run failed trials again: yolo-attn study {folder} --retry")
    if missing:
        say(f"{len(missing)} trials are not done; to go on: yolo-attn study {folder}")
    say(f"study: {folder}")
    return int(bool(failed or missing))


def _write_report(folder: Path, say: Say) -> None:
    from .report import write_report

    for file in write_report(folder):
        say(f"report: {file}")


def _measure_cost(folder: Path, record: store.Record, running: Mapping[str, Any], say: Say) -> None:
    """Measure latency of every variant into ``cost.json``; it is kept until the study has other variants."""
    file = folder / store.COST
    names = [variant["name"] for variant in record["variants"]]
    if file.is_file() and set(names) <= set(store.read_json(file)):
        return
    import torch

    from ..bench.cost import measure
    from ..host.study.arguments import torch_device

    models = {variant["name"]: folder / variant["model"] for variant in record["variants"]}
    name = torch_device(running["devices"][0])
    try:
        device = name if name == "cpu" else torch.device(name)  # on the CPU the host chooses how many threads
        measured = measure(models, record["settings"]["imgsz"], device, 15, len(record["data"]["names"]), say)
    except Exception as error:  # whatever it is, the trials are done: they get a report
        say(f"cost was not measured: {error}")
        return
    store.write_json(file, measured)
