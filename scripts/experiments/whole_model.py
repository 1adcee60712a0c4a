"""What a detector pays for an attention layer: yolov8n with the layer against yolov8n, in the same rounds."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from yolo_attn import registry
from yolo_attn.bench.floor import autocast
from yolo_attn.bench.measure import Call, interleave, peak_bytes, ratio, saved_bytes
from yolo_attn.graft import graft
from yolo_attn.host.model import surgery
from yolo_attn.host.run import whole_models

BASE = "yolov8n.yaml"
PLACES = ("backbone", "neck")
_BOXES = 8  # of each image
Row = dict[str, Any]


def measure_all(
    layers: Sequence[str], device: str, rounds: int, seconds: float, say: Callable[[str], object] = print,
    side: int = 640, batch: int = 0,
) -> Iterator[Row]:  # fmt: skip
    """Yield a row for each layer at each place, until the time is used up.

    Args:
        layers: YAML names.
        device: A torch device.
        rounds: Rounds per measurement.
        seconds: No measurement begins later than this after the call.
        say: Takes a line for each row.
        side: Side of the images in pixels.
        batch: Images of a training step. Default 2, on a GPU 16. Inference takes one.
    """
    begin = time.monotonic()
    cuda = device.startswith("cuda")
    batch = batch or (16 if cuda else 2)
    for name in layers:
        for place in PLACES:
            if time.monotonic() - begin > seconds:
                say(f"time is up: whole models from {name} at {place} on are left")
                return
            row = measure(name, place, device, rounds, side, batch)
            say(
                f"yolov8n with {row['layer']} at {place}: training step {row['training ratio'][0]:.3f}x, "
                f"inference {row['inference ratio'][0]:.3f}x, memory {row['memory ratio']:.3f}x"
            )
            yield row
            gc.collect()  # a model's graphs are in cycles; left alone they fill the memory


def measure(layer: str, place: str, device: str, rounds: int, side: int, batch: int) -> Row:
    """Return the ratios of training step, fused inference and memory of a model with a layer to those without.

    ``memory`` says what the memory ratio is of: the peak of a training step (GPU), or bytes kept for backward (CPU).
    """
    cuda = device.startswith("cuda")
    clock, precision = ("events", "fp16") if cuda else ("wall", "fp32")
    models = {"without": build("", place, device), "with": build(layer, place, device)}
    data = make_batch(side, batch, device)
    row: Row = {
        "layer": registry.find(layer).name, "place": place, "side": side, "batch": batch, "precision": precision,
    }  # fmt: skip
    steps = {name: training_step(model, data, device, precision) for name, model in models.items()}
    samples = interleave(steps, rounds, clock)
    row |= {"training ratio": ratio(samples["with"], samples["without"]), "training": samples}
    memory = {n: peak_bytes(steps[n]) if cuda else saved_bytes(model, data) for n, model in models.items()}
    row |= {"memory": "peak" if cuda else "saved", "memory ratio": memory["with"] / memory["without"]}
    calls = {name: _inference(model, data["img"][:1], cuda) for name, model in models.items()}
    samples = interleave(calls, rounds, clock)
    return row | {"inference ratio": ratio(samples["with"], samples["without"]), "inference": samples}


def build(layer: str, place: str, device: str) -> Any:
    """Return yolov8n in training mode, with a layer at a place unless its name is empty."""
    config = whole_models.read_config(BASE)
    return whole_models.build(graft(config, layer, place) if layer else config, device)


def make_batch(side: int, batch: int, device: str) -> dict[str, torch.Tensor]:
    """Return images and boxes as the host's loader gives them."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(batch * _BOXES, 4, generator=generator) * 0.4 + 0.1
    data = {
        "img": torch.rand(batch, 3, side, side, generator=generator),
        "batch_idx": torch.arange(batch).repeat_interleave(_BOXES).float(),
        "cls": torch.randint(0, 80, (batch * _BOXES, 1), generator=generator).float(),
        "bboxes": boxes,
    }
    return {key: value.to(device) for key, value in data.items()}


def training_step(model: Any, data: dict[str, torch.Tensor], device: str, precision: str) -> Call:
    """Return a call that makes one training step: loss, backward, optimiser."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True)

    def call(_: int) -> None:
        with autocast(torch.device(device).type, precision):
            loss = model(data)[0].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def _inference(model: Any, image: torch.Tensor, half: bool) -> Call:
    """Return a call that runs a fused copy on one image."""
    with surgery.silence():
        fused = copy.deepcopy(model).eval().fuse(verbose=False)
    if half:
        fused, image = fused.half(), image.half()

    def call(_: int) -> Any:
        with torch.no_grad():
            return fused(image)

    return call
