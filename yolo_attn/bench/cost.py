"""What models cost on this machine, each against a plain one in the same rounds; nothing is trained."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import HostError
from ..host.run import whole_models
from . import exported, memory
from .measure import Call, interleave, quartiles, ratio, seconds, settle_allocator

Row = dict[str, Any]
Config = dict[str, Any]
Group = Mapping[str, Config]  # models that are timed in the same rounds
# What is known of a model without a clock, and a call that predicts with it for each runtime.
Ready = tuple[Row, dict[str, Call]]
Say = Callable[[str], object]
PYTORCH = "pytorch"
LEAST, MOST = 5, 15  # rounds, where their number follows from the time
_SLOWER = 1.5  # an export with attention takes so many times longer than the plain one, more or less


@dataclass(frozen=True)
class Plan:
    """How models are measured.

    Attributes:
        imgsz: Side of the images in pixels.
        batch: Images of a prediction.
        training_batch: Images of a training step.
        device: Of PyTorch; exported models run on the CPU.
        threads: Of every runtime on the CPU.
        rounds: How many; None means as many as fit into the time, from ``LEAST`` to ``MOST``.
        clock: On the CPU ``wall``, or ``cpu`` for processor time where other programs run too.
        channels: Of the images.
    """

    imgsz: int
    batch: int
    training_batch: int
    device: torch.device
    threads: int
    rounds: int | None = None
    clock: str = "wall"
    channels: int = 3

    def images(self, batch: int) -> torch.Tensor:
        """Return the same images at every call."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(batch, self.channels, self.imgsz, self.imgsz, generator=generator).to(self.device)


def make_plan(
    model: Config,
    imgsz: int = 640,
    device: str | torch.device = "",
    rounds: int | None = None,
    batch: int = 1,
    threads: int | None = None,
    clock: str = "wall",
) -> Plan:
    """Return a plan for a device by the host's name for it.

    Args:
        model: What is measured: dictionary of a model YAML.
        imgsz: Rounded up to a size that the model can take, as the host does.
        device: As in ``yolo predict``: ``cpu``, ``0``, or nothing for the first GPU, else the CPU; or PyTorch's own.
        rounds: As in ``Plan``.
        batch: As in ``Plan``.
        threads: None means what the host takes for a prediction.
        clock: As in ``Plan``; on a GPU it is always the GPU's own.

    Raises:
        HostError: If there is no such device, or there are fewer cores than threads.
    """
    chosen = whole_models.choose_device(device)
    if threads:
        if threads > (cores := os.cpu_count() or threads):
            raise HostError(f"threads={threads}: this machine has {cores} cores; more threads only wait for each other")
        torch.set_num_threads(threads)
    settle_allocator()
    built = whole_models.build(model)
    imgsz, channels = whole_models.rounded(imgsz, built), whole_models.channels(built)
    training_batch = 16 if chosen.type == "cuda" else 2
    clock = "events" if chosen.type == "cuda" else clock
    return Plan(imgsz, batch, training_batch, chosen, torch.get_num_threads(), rounds, clock, channels)


def measure(
    models: Mapping[str, str | Path],
    imgsz: int,
    device: str | torch.device,
    rounds: int,
    nc: int,
    progress: Callable[[str], object],
) -> Row:
    """Return what models cost, as ``cost.json`` of a study holds it.

    Args:
        models: Name or path of a model YAML for each name; the first is the plain one.
        imgsz: Side of the images in pixels.
        device: As in ``yolo predict``, or PyTorch's own.
        rounds: In each of them a model and the plain one are timed once.
        nc: Number of classes.
        progress: Takes a line after every model or two.

    Returns:
        For each name ``parameters``, ``gflops``, ``latency`` (seconds of one prediction in PyTorch) and
        ``latency_ratio`` to the plain model in the same rounds, each with ``median``, ``q1`` and ``q3``; beside them
        ``imgsz``, ``batch``, ``threads``, ``device`` and ``processor``.

    Raises:
        ModelNameError: If there is no such model.
        HostError: If there is no such device, or the plain model cannot be measured.
    """
    configs = {name: whole_models.read_config(model, nc) for name, model in models.items()}
    (first, plain), *others = configs.items()
    plan = make_plan(plain, imgsz, device, rounds)
    groups = [dict(others[n : n + 2]) for n in range(0, len(others), 2)]
    rows: dict[str, Row] = {}
    for found in compare({first: plain}, groups, lambda config: in_pytorch(config, plan, False), plan, say=progress):
        rows |= found
    machine = whole_models.machine(plan.device)
    return {
        **{name: _as_cost(rows[name]) for name in models}, "imgsz": plan.imgsz, "batch": 1, "threads": plan.threads,
        "device": machine["device"], "processor": machine["processor"],
    }  # fmt: skip


def _as_cost(row: Row) -> Row:
    if "error" in row:
        return row
    timed = {key: row[PYTORCH][key] for key in ("latency", "latency_ratio")}
    return {"parameters": row["parameters"], "gflops": row["gflops"], **timed}


def compare(
    plain: Group,
    groups: Sequence[Group],
    prepare: Callable[[Config], Ready],
    plan: Plan,
    end: float = float("inf"),
    say: Say = lambda _: None,
) -> Iterator[dict[str, Row]]:
    """Yield the rows of each group, and in the end that of the plain model, which is timed with every group.

    Args:
        plain: The plain model by its name.
        groups: The others. A model that cannot be prepared gets a row with its ``error``.
        prepare: Makes a model ready to be timed.
        plan: Says how.
        end: When to be done, on the monotonic clock, if the plan leaves the rounds open.
        say: Takes a line of progress after each group.

    Raises:
        HostError: If the plain model cannot be prepared.
    """
    ((first, config),) = plain.items()
    begin = time.monotonic()
    try:
        row, calls = prepare(config)
    except Exception as error:  # too little memory for the size, an exporter that breaks down
        raise HostError(f"{first} cannot be measured: {_first_line(error)}") from error
    samples: dict[str, list[float]] = {kind: [] for kind in calls}
    preparing = 0.0
    every = groups or [{}]
    for number, group in enumerate(every):
        start = time.monotonic()
        rows, ready = _prepare_all(group, prepare)
        preparing += time.monotonic() - start
        left = len(every) - number
        spare = (end - time.monotonic() - preparing / (number + 1) * (left - 1)) / left / max(1, len(calls))
        for kind, call in calls.items():
            timed = _time({first: call, **{n: own[kind] for n, own in ready.items() if kind in own}}, plan, spare)
            mine = timed.pop(first)
            samples[kind] += mine
            for name, times in timed.items():
                rows[name][kind] = _timing(times, mine)
        yield rows
        done = number + 1
        rest = (time.monotonic() - begin) / done * (len(every) - done)
        say(f"{', '.join(calls)}: {done} of {len(every)} groups of models, about {_duration(rest)} left")
        del ready
        gc.collect()  # a model's graphs are in cycles; left alone they fill the memory
    yield {first: row | {kind: _timing(times, times) for kind, times in samples.items()}}


def _prepare_all(group: Group, prepare: Callable[[Config], Ready]) -> tuple[dict[str, Row], dict[str, dict[str, Call]]]:
    rows: dict[str, Row] = {}
    ready: dict[str, dict[str, Call]] = {}
    for name, config in group.items():
        try:
            rows[name], ready[name] = prepare(config)
        except Exception as error:  # one model that cannot be built or exported does not end the others
            rows[name] = {"error": _first_line(error)}
    return rows, ready


def _time(calls: Mapping[str, Call], plan: Plan, limit: float) -> dict[str, list[float]]:
    if plan.rounds is not None:
        return interleave(calls, plan.rounds, plan.clock)
    return interleave(calls, MOST, plan.clock, LEAST, limit)


def _timing(times: Sequence[float], plain: Sequence[float]) -> Row:
    names = ("median", "q1", "q3")
    return {
        "latency": dict(zip(names, quartiles(times), strict=True)),
        "latency_ratio": dict(zip(names, ratio(times, plain), strict=True)),
        "rounds": len(times),
    }


def in_pytorch(config: Config, plan: Plan, with_memory: bool = True) -> Ready:
    """Build a model and prepare it as the host predicts with it."""
    model = whole_models.build(config, plan.device)
    row: Row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": whole_models.gflops(model, plan.imgsz),
    }
    if with_memory:
        trained = whole_models.in_training_format(model, plan.device)
        row["training_memory"] = memory.of_training(trained, plan.images(plan.training_batch))
        model.to(memory_format=torch.contiguous_format)  # as a checkpoint holds it
    predict, image = whole_models.predictor(model, plan.device), plan.images(plan.batch)

    def call(_: int) -> Any:
        with torch.inference_mode():
            return predict(image)

    if with_memory:
        row["inference_memory"] = memory.of_inference(lambda: call(0), [*model.parameters(), *model.buffers(), image])
    return row, {PYTORCH: call}


def as_exported(config: Config, forms: Sequence[str], plan: Plan, folder: Path) -> Ready:
    """Export a model and load it into each runtime; a runtime that cannot load it is a finding."""
    file = whole_models.export_onnx(whole_models.build(config), folder / "model.onnx", plan.imgsz, plan.batch)
    image = plan.images(plan.batch).cpu().numpy()
    row: Row = {}
    calls = {}
    for form in forms:
        try:
            calls[form] = exported.load(form, file, image, plan.threads)
            calls[form](0)
        except Exception as error:  # whatever a runtime raises is the finding
            calls.pop(form, None)
            row[form] = {"error": _first_line(error)}
    file.unlink()
    return row, calls


def measure_exported(
    plain: Group, groups: Sequence[Group], forms: Sequence[str], plan: Plan, end: float, say: Say
) -> Iterator[dict[str, Row]]:
    """Yield the rows of exported models, as ``compare`` does."""
    if plan.clock == "events":
        plan = replace(plan, clock="wall")  # they run on the CPU
    with tempfile.TemporaryDirectory(prefix="yolo-attn-bench-") as name:
        folder = Path(name)
        yield from compare(plain, groups, lambda config: as_exported(config, forms, plan, folder), plan, end, say)


def which_fit(
    plain: Config, ratios: Sequence[float], groups: int, forms: Sequence[str], plan: Plan, left: float
) -> tuple[list[str], float]:
    """Return the formats, in their order, that can be measured in the time left, and the seconds all would take.

    Args:
        plain: The plain model; it is exported and run once.
        ratios: Latency of every other model over that of the plain one.
        groups: Number of groups that they are timed in.
        forms: Formats whose runtimes are installed.
        plan: Says how.
        left: Seconds.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="yolo-attn-bench-") as name:
        _, calls = as_exported(plain, forms, plan, Path(name))
    needed = (1 + _SLOWER * len(ratios)) * (time.monotonic() - begin)
    fitting = []
    rounds = 2 + (plan.rounds or LEAST)
    for form in forms:
        one = seconds(calls[form], 1, "wall") if form in calls else 0.0
        needed += rounds * one * (groups + sum(ratios))
        if needed < left - (time.monotonic() - begin):
            fitting.append(form)
    return fitting, needed


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def _duration(span: float) -> str:
    return f"{span:.0f} s" if span < 90 else f"{span / 60:.0f} min"
