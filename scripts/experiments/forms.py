"""What each form of ``yolo_attn.fast`` gains: the layers that use it with and without, in the same rounds."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch

from experiments import whole_model
from yolo_attn import fast, registry
from yolo_attn.bench.measure import Call, interleave, ratio, saved_bytes

USERS = {
    "_attention.attend": ("MHSA", "MHSALePE", "DAttention", "BiFormer", "CloAttention"),
    "_depthwise.depthwise": ("CAA", "CPCA", "CloAttention"),
    "caa.box_mean": ("CAA",),
    "cpca.CPCA.forward": ("CPCA",),
    "criss_cross.CrissCross._attend": ("CrissCross",),
}
LEVELS = {"P3": (64, 80), "P4": (128, 40), "P5": (256, 20)}  # of YOLOv8n at 640 px
Row = dict[str, Any]


def measure_all(
    forms: Sequence[str], rounds: int, threads: Sequence[int], whole: bool, say: Callable[[str], object] = print
) -> Iterator[Row]:
    """Yield a row for each form, layer, level and number of threads, then one for each form and layer in yolov8n."""
    for form, count in itertools.product(forms, threads):
        torch.set_num_threads(count)
        for layer, level in itertools.product(USERS[form], LEVELS):
            row = measure_layer(form, layer, level, rounds) | {"threads": count}
            said = f"{row['gain'][0]:.2f}" if "gain" in row else "does not apply"
            say(f"{form}: {layer} {level}, {count} threads: {said}")
            yield row
    for form in forms if whole else ():
        for layer in USERS[form]:
            row = measure_step(form, layer, rounds) | {"threads": threads[-1]}
            say(f"{form}: step of yolov8n with {layer} in the neck: {row['step gain'][0]:.3f}")
            yield row


def measure_layer(form: str, layer: str, level: str, rounds: int) -> Row:
    """Return how many times longer forward and backward take without a form, and the bytes kept without over with.

    Where the form declines, the row has neither.
    """
    width, side = LEVELS[level]
    torch.manual_seed(0)
    module = registry.create(layer, width).train()
    x = torch.randn(1, width, side, side, requires_grad=True)
    grad = torch.randn(1, width, side, side)

    def step(_: int) -> None:
        module(x).backward(grad)

    if not _is_used(form, module, x):
        return {"form": form, "layer": layer, "level": level}
    samples = interleave(_both(form, step), rounds)
    with_form = saved_bytes(module, x)
    with without(form):
        kept = saved_bytes(module, x) / with_form
    gain = ratio(samples["without"], samples["with"])
    return {"form": form, "layer": layer, "level": level, "gain": gain, "kept ratio": kept, "times": samples}


def measure_step(form: str, layer: str, rounds: int) -> Row:
    """Return how many times longer a training step of yolov8n with a layer in the neck takes without a form."""
    model = whole_model.build(layer, "neck", "cpu")
    step = whole_model.training_step(model, whole_model.make_batch(640, 2, "cpu"), "cpu", "fp32")
    samples = interleave(_both(form, step), rounds)
    return {"form": form, "layer": layer, "step gain": ratio(samples["without"], samples["with"]), "times": samples}


@contextlib.contextmanager
def without(form: str) -> Iterator[None]:
    """Take one form off the table in this block."""
    entry = fast.FORMS.pop(form)
    try:
        yield
    finally:
        fast.FORMS[form] = entry


def _is_used(form: str, module: torch.nn.Module, x: torch.Tensor) -> bool:
    """Tell whether the form serves a layer on a map, rather than declining."""
    load, seen = fast._load, []

    def watch(path: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            y = load(path)(*args, **kwargs)
            seen.append(path == fast.FORMS[form]["cpu"] and y is not NotImplemented)
            return y

        return call

    with mock.patch.object(fast, "_load", watch):
        module(x)
    return any(seen)


def _both(form: str, call: Call) -> dict[str, Call]:
    def plain(number: int) -> None:
        with without(form):
            call(number)

    return {"with": call, "without": plain}


def forms_table(content: Mapping[str, Any]) -> str:
    """Return the record of ``scripts/fast_forms.py`` as Markdown: a row for each form, layer and number of threads."""
    rows, levels = content["rows"], list(LEVELS)
    steps = {(row["form"], row["layer"]): row["step gain"] for row in rows if "step gain" in row}
    lines = [
        "| form | layer | threads | " + " | ".join(levels) + " | geometric mean | kept | step, neck |",
        "|---" * (6 + len(levels)) + "|",
    ]
    for key in dict.fromkeys((r["form"], r["layer"], r["threads"]) for r in rows if "gain" in r):
        form, layer, threads = key
        mine = {r["level"]: r for r in rows if "gain" in r and (r["form"], r["layer"], r["threads"]) == key}
        cells = [
            "{:.2f} ({:.2f}-{:.2f})".format(*mine[level]["gain"]) if level in mine else "declines" for level in levels
        ]
        mean = math.exp(sum(math.log(r["gain"][0]) for r in mine.values()) / len(mine))
        kept = f"{next(iter(mine.values()))['kept ratio']:.2f}"
        step = f"{steps[form, layer][0]:.3f}" if (form, layer) in steps else "-"
        lines.append(f"| `{form}` | {layer} | {threads} | " + " | ".join([*cells, f"{mean:.2f}", kept, step]) + " |")
    return "\n".join(lines)
