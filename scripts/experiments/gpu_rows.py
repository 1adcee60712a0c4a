"""What is measured on a GPU, one function a row: training steps, a layer, its attention kernels, AMP training."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile

from yolo_attn import registry
from yolo_attn.bench.floor import autocast, ceilings
from yolo_attn.coco.data_yaml import write_description

from . import grid, reference, speed_study, whole_model

ATTENTION = ("MHSA", "MHSALePE", "DAttention", "CloAttention", "BiFormer")
BACKENDS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}
PATIENCE = 150  # seconds that one training may take
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured, and on what."""

    device: str = "cuda:0"
    data: Path = Path()
    against: Path | None = None
    models: Sequence[str] = ("stock", "plain", "cbam", "coordatt", "biformer", "dat-neck")
    batches: Sequence[int] = (16, 64)
    side: int = 640
    workers: int = 12
    warmup: int = 10
    counted: int = 40
    layers: Sequence[str] = tuple(layer.name for layer in registry.TABLE)
    compiled: Sequence[str] = tuple(layer.name for layer in registry.TABLE)
    scales: Sequence[str] = ("n", "m")
    levels: Sequence[str] = ("P3", "P4", "P5")
    layer_batch: int = 8
    rounds: int = 5
    precisions: Sequence[str] = ("bf16", "fp32")
    amp_precision: str = "fp16"
    amp_steps: int = 200
    amp_side: int = 160
    amp_batch: int = 8

    @property
    def kind(self) -> str:
        """Kind of the device: ``cuda`` or ``cpu``."""
        return torch.device(self.device).type

    @property
    def settings(self) -> Row:
        """What a record says of it, free of paths."""
        names = {"data": self.data.name, "against": self.against.name if self.against else ""}
        return json.loads(json.dumps(asdict(self) | names, default=str))


TINY: Row = {
    "models": ("stock", "cbam"), "batches": (2,), "side": 64, "workers": 0, "warmup": 1, "counted": 3,
    "compiled": ("SE",), "scales": ("n",), "levels": ("P5",), "layer_batch": 1, "rounds": 1,
    "amp_steps": 3, "amp_side": 64, "amp_batch": 2,
}  # fmt: skip


def training_cases(plan: Plan) -> list[Row]:
    """Return each model at each batch size."""
    return [{"model": model, "batch": batch} for batch in plan.batches for model in plan.models]


def train(case: Row, plan: Plan) -> Row:
    """Time real training steps of a model in a process of its own; ``stock`` is yolov8n without yolo-attn there."""
    stock = case["model"] == "stock"
    model = "yolov8n.yaml" if case["model"] in ("stock", "plain") else f"yolov8n-{case['model']}.yaml"
    with tempfile.TemporaryDirectory() as work:
        data = _whole_batches(plan, Path(work) / "data")
        arguments = {
            "model": model, "data": str(data), "imgsz": plan.side, "batch": case["batch"], "nbs": case["batch"],
            "epochs": 1000, "optimizer": "SGD", "amp": True, "workers": plan.workers, "cache": "ram", "val": False,
            "save": False, "plots": False, "pretrained": False, "verbose": False, "project": work,
            "device": plan.device.removeprefix("cuda:"),
        }  # fmt: skip
        request, result = Path(work) / "request.json", Path(work) / "result.json"
        asked = {"arguments": arguments, "stock": stock, "warmup": plan.warmup, "counted": plan.counted}
        request.write_text(json.dumps(asked), encoding="utf-8")
        program = Path(__file__).with_name("train_steps.py")
        extra = {"YOLO_ATTN_AUTOLOAD": "0" if stock else "1", "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
        command = [sys.executable, str(program), str(request), str(result)]
        done = subprocess.run(command, env=environment(**extra), capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            print(done.stderr, flush=True)
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])  # the lines above name files of this machine
        found = json.loads(result.read_text(encoding="utf-8"))
    if found["batch"] != case["batch"] or found["ours"] == stock:
        raise RuntimeError(f"not what was asked for: batch {found['batch']}, yolo-attn there: {found['ours']}")
    return found


def _whole_batches(plan: Plan, folder: Path) -> Path:
    """Write the data as YOLO labels, which stock Ultralytics reads, with images for whole batches only."""
    annotations = plan.data / "annotations"
    prefix = "instances_" if (annotations / "instances_train.json").is_file() else ""
    splits = {s: (annotations / f"{prefix}{s}.json", plan.data / f"images/{s}") for s in ("train", "val")}
    description = speed_study.write_yolo_labels(write_description(splits), folder)
    images = sorted((folder / "images/train").iterdir())
    for image in images[len(images) // max(plan.batches) * max(plan.batches) :]:
        image.unlink()
    return description


def layer_cases(plan: Plan) -> list[Row]:
    """Return the machine's ceilings, then each layer uncompiled."""
    cases = grid.cases(plan.layers, plan.scales, plan.levels, [plan.layer_batch], plan.precisions, False)
    return [{"what": "ceilings"}, *map(asdict, cases)]


def compiled_cases(plan: Plan) -> list[Row]:
    """Return each layer compiled, a level at a time: few of them fit into the time."""
    settings = itertools.product(plan.precisions, plan.scales, plan.levels, plan.compiled)
    return [asdict(grid.Case(la, scale, le, plan.layer_batch, pr, True)) for pr, scale, le, la in settings]


def measure_layer(case: Row, plan: Plan) -> Row:
    """Time a layer and its counterpart, forward and forward with backward; or the ceilings of the machine."""
    clock = "events" if plan.kind == "cuda" else "wall"
    classes, failures = _classes(plan.against)
    found = _ceilings(plan.device, tuple(plan.precisions), clock)
    if "what" in case:
        return {"rates": found, "failures": failures}
    return grid.measure(grid.Case(**case), plan.device, clock, plan.rounds, classes, found)


@functools.cache
def _classes(folder: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    return reference.load_classes(folder) if folder else ({}, {})


@functools.cache
def _ceilings(device: str, precisions: tuple[str, ...], clock: str) -> dict[str, float]:
    return ceilings(device, list(precisions), clock)


def attention_cases(plan: Plan) -> list[Row]:
    """Return each layer with softmax attention at every head width that it has by default."""
    precisions = dict.fromkeys([*plan.precisions, plan.amp_precision])
    settings = itertools.product(precisions, plan.scales, plan.levels, ATTENTION)
    return [asdict(grid.Case(layer, scale, level, 1, p, False)) for p, scale, level, layer in settings]


def attention(case: Row, plan: Plan) -> Row:
    """Tell which kernels a training step takes, and which of PyTorch's fused backends can serve it alone.

    Returns:
        ``heads``: shapes of the queries; ``takes``: the operators of attention; ``kernels``: theirs on the device;
        ``accepts``: for each backend an empty text, or why not.
    """
    one = grid.Case(**case)
    layer = registry.create(one.layer, one.shape[1]).to(plan.device)
    step = grid.make_step(layer, *grid.make_inputs(one, plan.device, 1), one, plan.device)
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as spy:
        step(0)
    with profile() as seen:
        step(0)
    events = seen.key_averages()
    kernels = [e.key[:120] for e in events if e.device_type == DeviceType.CUDA and re.search("flash|fmha|sdpa", e.key)]
    return {
        "heads": [list(call.args[0].shape) for call in spy.call_args_list],
        "takes": sorted(e.key for e in events if e.key.startswith("aten::_scaled_dot_product")),
        "kernels": sorted(kernels),
        "accepts": {name: _why_not(step, backend) for name, backend in BACKENDS.items()},
    }


def _why_not(step: Callable[[int], Any], backend: str) -> str:
    with warnings.catch_warnings(record=True) as said, sdpa_kernel(getattr(SDPBackend, backend)):
        warnings.simplefilter("always")
        try:
            step(0)
        except RuntimeError as error:
            return " ".join([str(error), *(str(w.message) for w in said)])[:400]
    return ""


def amp_cases(plan: Plan) -> list[Row]:
    """Return yolov8n alone and with each layer in the neck."""
    return [{"layer": layer, "steps": plan.amp_steps} for layer in ("", *plan.layers)]


def train_amp(case: Row, plan: Plan) -> Row:
    """Train a model under autocast with scaled gradients, on real images and random boxes, and look for NaN."""
    model = whole_model.build(case["layer"], "neck", plan.device)
    batch = whole_model.make_batch(plan.amp_side, plan.amp_batch, plan.device)
    pictures = _pictures(plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.937, nesterov=True)
    scaler = torch.amp.GradScaler(plan.kind)
    losses, skipped = [], 0
    for number in range(case["steps"]):
        optimizer.param_groups[0]["lr"] = 0.01 * min(1.0, (number + 1) / 100)
        batch["img"] = pictures[number % len(pictures)]
        with autocast(plan.kind, plan.amp_precision):
            loss = model(batch)[0].sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < before
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach().float())
    values = torch.stack(losses).cpu()
    is_bad = ~values.isfinite()
    return {
        "loss first": values[0].item(), "loss last": values[-1].item(), "scale": scaler.get_scale(),
        "steps with infinite gradients": skipped, "steps with a loss that is not finite": int(is_bad.sum()),
        "weights are finite": all(bool(p.isfinite().all()) for p in model.parameters()),
    }  # fmt: skip


def _pictures(plan: Plan) -> torch.Tensor:
    """Return some batches of training images, (batches, images, 3, side, side)."""
    files = itertools.islice(itertools.cycle(sorted((plan.data / "images/train").iterdir())), 4 * plan.amp_batch)
    size = (plan.amp_side, plan.amp_side)
    pictures = [torch.from_numpy(np.array(Image.open(file).convert("RGB").resize(size))) for file in files]
    return (torch.stack(pictures).permute(0, 3, 1, 2).float() / 255).unflatten(0, (4, -1)).to(plan.device)


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment for one that finds the same modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **extra}
