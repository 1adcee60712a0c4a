"""Models as programs of PyTorch itself: ``torch.export`` and ``torch.compile``, compared with the eager model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from yolo_attn.host.run.comparison import raw_difference, relative_difference
from yolo_attn.host.run.export_check import FP32, ROUNDINGS, Row
from yolo_attn.host.run.runtimes import tensors

STEP = 32  # sides of an image are multiples of it
LARGE = [[320, 384], [256, 288]]  # an example side of 1 at P5 would be kept for good


def exported(file: str, sizes: list[list[int]]) -> Row:
    """Run the program that ``torch.export`` makes of a model for one size."""
    model = _load(file, False)
    image = _image(sizes[0])
    program = torch.export.export(model, (image,)).module()
    return _compare(model, program, [sizes[0]])


def exported_dynamic(file: str, sizes: list[list[int]]) -> Row:
    """Run the program that ``torch.export`` makes of a model for all sizes, at two of them."""
    model = _load(file, True)
    h, w = (torch.export.Dim(name, min=8, max=40) for name in ("h", "w"))
    # PyTorch cannot prove all that our windows and the host's head rely on; what it cannot is checked when it runs.
    program = torch.export.export(
        model,
        (_image(LARGE[0]),),
        dynamic_shapes=({2: STEP * h, 3: STEP * w},),
        prefer_deferred_runtime_asserts_over_guards=True,
    ).module()
    return _compare(model, program, LARGE)


def compiled(file: str, sizes: list[list[int]]) -> Row:
    """Compile the attention layers of a model without a break in the graph, by inductor, and run them at two sizes."""
    from yolo_attn.host.model.blocks import find_attention
    from yolo_attn.host.model.ours import is_attention

    model = _load(file, False)
    row = Row("same", 0.0, FP32)
    layers = [layer for layer in model.model if is_attention(layer)]
    layers += [layer for block in model.model for layer in find_attention(block).values()]
    for layer in layers[:1]:
        program = torch.compile(copy.deepcopy(layer), fullgraph=True)
        maps: list[tuple[Tensor, Tensor]] = []
        layer.register_forward_hook(lambda _, given, y, maps=maps: maps.append((given[0], y)))
        with torch.no_grad():
            for size in (*sizes, *LARGE):
                model(_image(size))
                x, y = maps[-1]
                row.difference = max(row.difference or 0.0, relative_difference(y, program(x)))
    row.state = "same" if (row.difference or 0.0) <= row.allowed else "differs"
    return row


def _load(file: str, dynamic: bool) -> Any:
    """Return the model as the host's exporter prepares it."""
    from ultralytics import YOLO

    model: Any = YOLO(file).model
    model = model.float().eval().fuse(verbose=False)
    head = model.model[-1]
    head.export, head.dynamic, head.format = True, dynamic, "torchscript"
    return model.requires_grad_(False)


def _compare(model: nn.Module, program: Any, sizes: list[list[int]]) -> Row:
    row = Row("same", 0.0)
    for size in sizes:
        image = _image(size)
        with torch.no_grad():
            expected, found = tensors(model(image)), tensors(program(image))
            exact = tensors(copy.deepcopy(model).double()(image.double()))
        row.rounding = max(row.rounding, raw_difference(exact, expected, 80))
        row.difference = max(row.difference or 0.0, raw_difference(expected, found, 80))
    row.allowed = max(FP32, ROUNDINGS * row.rounding)
    row.state = "same" if (row.difference or 0.0) <= row.allowed else "differs"
    return row


def _image(size: list[int]) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
