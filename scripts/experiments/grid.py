"""The layers over the shapes of YOLOv8: ours and theirs in the same rounds, one row per layer, shape and precision."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from yolo_attn import registry
from yolo_attn.bench.floor import DTYPES, autocast, floor
from yolo_attn.bench.measure import Call, interleave, peak_bytes, quartiles, ratio, saved_bytes, synchronisations

from . import reference

# Widths of the maps that feed the head of YOLOv8 and their sides in pixels for images of 640 px.
WIDTHS = {"n": (64, 128, 256), "s": (128, 256, 512), "m": (192, 384, 576), "l": (256, 512, 512), "x": (320, 640, 640)}
SIDES = {"P3": 80, "P4": 40, "P5": 20}
DENSE = ("MHSA", "MHSALePE", "DAttention")  # every pixel attends to every other
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What one row measures."""

    layer: str
    model: str
    level: str
    batch: int
    precision: str
    compiled: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(B, C, H, W)`` of the map."""
        side = SIDES[self.level]
        return self.batch, WIDTHS[self.model][list(SIDES).index(self.level)], side, side


def cases(
    layers: Sequence[str],
    models: Sequence[str],
    levels: Sequence[str],
    batches: Sequence[int],
    precisions: Sequence[str],
    compiled: bool,
) -> list[Case]:
    """Return all cases, those of one setting together.

    Raises:
        UnknownLayerError: If there is no such layer.
    """
    names = [registry.find(name).name for name in layers]
    settings = itertools.product((False, True) if compiled else (False,), precisions, models, batches, names, levels)
    return [Case(layer, m, level, batch, precision, c) for c, precision, m, batch, layer, level in settings]


def measure_all(
    todo: Sequence[Case], device: str, clock: str, rounds: int, classes: Mapping[str, Any],
    found: dict[str, float], seconds: float, say: Callable[[str], object] = print,
) -> Iterator[Row]:  # fmt: skip
    """Measure case after case and yield its row, until the time is used up.

    Args:
        todo: The cases.
        device: A torch device.
        clock: One of ``measure.CLOCKS``.
        rounds: Rounds per case.
        classes: Other people's classes by name, or nothing.
        found: The machine's ceilings.
        seconds: No case begins later than this after the call.
        say: Takes a line for each case.
    """
    begin = time.monotonic()
    for number, case in enumerate(todo):
        if time.monotonic() - begin > seconds:
            say(f"time is up: {len(todo) - number} of {len(todo)} cases are left")
            return
        try:
            row = measure(case, device, clock, rounds, classes, found)
        except Exception as error:  # one case that runs out of memory or cannot be compiled does not end the others
            say(f"{number + 1}/{len(todo)} {case} failed: {type(error).__name__}: {error}")
            continue
        say(f"{number + 1}/{len(todo)} {_line(row)}")
        yield row


def measure(
    case: Case, device: str, clock: str, rounds: int, classes: Mapping[str, Any], found: dict[str, float]
) -> Row:
    """Measure one case; ``note`` says what could not be compared."""
    torch.manual_seed(0)
    size = case.shape[2:]
    ours = registry.create(case.layer, case.shape[1])
    theirs, note = reference.build(case.layer, ours, case.shape[1], size, classes) if classes else (None, "")
    row: Row = {**asdict(case), "note": note}
    x = torch.randn(case.shape)
    candidates = {"ours": ours.to(device)}
    if theirs is not None:
        try:
            row["difference"] = reference.difference(ours, theirs.to(device), x[:1].to(device))
            make_step(theirs, *make_inputs(case, device, 1), case, device)(0)
            candidates["theirs"] = theirs
        except Exception as error:  # their code may fail in any way; ours is measured all the same
            row["note"] = f"theirs failed: {' '.join(str(error).split())[:200] or type(error).__name__}"
    for kind, least in zip(("forward", "training"), floor(case.layer, case.shape, case.precision, found), strict=True):
        row[f"{kind} floor"] = least
    for name, layer in candidates.items():
        row |= {f"{name} {key}": value for key, value in _memory(layer, case, device).items()}
    row |= _times(candidates, case, device, clock, rounds)
    del candidates, ours, theirs
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return row


def _times(candidates: dict[str, nn.Module], case: Case, device: str, clock: str, rounds: int) -> Row:
    """Return median seconds of each candidate, forward alone and with backward, and the ratio theirs to ours."""
    row: Row = {}
    inputs, weights = make_inputs(case, device)
    if case.compiled:
        torch._dynamo.reset()
        candidates = {name: torch.compile(layer, dynamic=False) for name, layer in candidates.items()}  # type: ignore
        try:
            if "theirs" in candidates:
                make_step(candidates["theirs"], inputs, weights, case, device)(0)
        except Exception as error:  # not every code of other people can be compiled
            row["note"] = f"theirs cannot be compiled: {type(error).__name__}"
            del candidates["theirs"]
    for kind, make in (("forward", _forward), ("training", make_step)):
        calls = {name: make(layer, inputs, weights, case, device) for name, layer in candidates.items()}
        samples = interleave(calls, rounds, clock)
        for name, times in samples.items():
            row[f"{name} {kind}"] = quartiles(times)
        if "theirs" in samples:
            row[f"{kind} ratio"] = ratio(samples["theirs"], samples["ours"])
    return row


def _memory(layer: nn.Module, case: Case, device: str) -> Row:
    """Return bytes kept for backward and, on a GPU, the peak of a training step and its hidden synchronisations.

    The CPU's allocator keeps no peak; bytes kept for backward stand for it there.
    """
    inputs, weights = make_inputs(case, device, 1)
    step = make_step(layer, inputs, weights, case, device)
    with autocast(torch.device(device).type, case.precision):
        row: Row = {"saved": saved_bytes(layer, inputs[0])}
    if device.startswith("cuda"):
        row["synchronisations"] = synchronisations(step)
        row["peak"] = peak_bytes(step)
        pixels = case.shape[2] * case.shape[3]
        if case.layer in DENSE:
            row["peak in pixel-by-pixel maps"] = row["peak"] / (case.batch * pixels**2 * inputs[0].element_size())
    return row


def make_inputs(case: Case, device: str, count: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return inputs and weights of the loss, by default enough of them that no cache of a GPU holds them all."""
    if not count:
        count = 2
        if device.startswith("cuda"):
            cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 1 << 26)
            nbytes = DTYPES[case.precision].itemsize * torch.Size(case.shape).numel()
            count = max(2, -(-2 * cache // nbytes))
    made = torch.randn((2, *case.shape), device=device).to(DTYPES[case.precision])
    x, weight = (torch.empty_like(made[0]).copy_(part) for part in made)
    return [x.clone().requires_grad_() for _ in range(count)], [weight]


def _forward(
    layer: nn.Module, inputs: list[torch.Tensor], weights: list[torch.Tensor], case: Case, device: str
) -> Call:
    """Return a call that runs a layer forward in eval mode without recording."""
    layer.eval()
    context = torch.device(device).type

    def call(number: int) -> torch.Tensor:
        with torch.no_grad(), autocast(context, case.precision):
            return layer(inputs[number % len(inputs)])

    return call


def make_step(
    layer: nn.Module, inputs: list[torch.Tensor], weights: list[torch.Tensor], case: Case, device: str
) -> Call:
    """Return a call that runs a layer forward and backward; batch norms of single values use running statistics."""
    layer.train(case.batch > 1 or not any(isinstance(m, nn.BatchNorm1d) for m in layer.modules()))
    wanted = [p for p in layer.parameters() if p.requires_grad]
    context = torch.device(device).type

    def call(number: int) -> Any:
        x = inputs[number % len(inputs)]
        with autocast(context, case.precision):
            y = layer(x)
        return torch.autograd.grad(y, [x, *wanted], weights[0].to(y.dtype), allow_unused=True)

    return call


def _line(row: Row) -> str:
    """Return a row as a line for a terminal."""
    where = f"{row['layer']} {row['model']} {row['level']} batch {row['batch']} {row['precision']}"
    where += " compiled" * row["compiled"]
    parts = [f"{kind} {row[f'ours {kind}'][0] * 1e3:.3g} ms" for kind in ("forward", "training")]
    if "training ratio" in row:
        parts = [f"{part}, {row[f'{part.split()[0]} ratio'][0]:.2f}x" for part in parts]
        parts.append(f"saved {row['theirs saved'] / max(row['ours saved'], 1):.2f}x")
        parts.append(f"difference {row['difference']:.1e}")
    return "; ".join([where, *parts, *([row["note"]] if row["note"] else [])])
