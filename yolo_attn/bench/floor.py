"""The least time a layer can take on this machine: bytes it must move over bandwidth, or arithmetic over rate."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from .. import registry
from .measure import interleave, quartiles

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Maps of the input's size that must be read or written, whatever the implementation, if no cache holds a whole map:
# (forward in eval mode, forward and backward). A gate made of means or maxima over the whole map must have read it all
# before it writes, hence reads it twice; its backward reads the map once and the output's gradient twice. All others
# could read once and write once; their backward reads map and gradient and writes a gradient.
_GATE, _MAP = (3, 7), (2, 5)
_GATES = (
    *("SE", "BAM", "CBAM", "CoordAtt", "CPCA", "ECA", "EMA", "SimAM", "Triplet", "Shuffle", "MLCA", "SK"),
    *("SCSA", "ELA", "Polarized", "PolarizedSeq", "PSA_p", "PSA_s", "GC"),
)
MAPS = dict.fromkeys(_GATES, _GATE)


def autocast(device: str, precision: str) -> Any:
    """Return the context in which a layer of float32 parameters computes in ``precision``."""
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device, DTYPES[precision])


def flops(layer: str, shape: tuple[int, int, int, int]) -> tuple[int, int]:
    """Return the floating-point operations of the products of a layer: forward, and forward with backward.

    Counted without computing anything; element-wise work and poolings are not in it.
    """
    counters = [
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})
        for _ in range(2)
    ]
    with FakeTensorMode():
        module = registry.find(layer).load()(shape[1]).eval()
        x = torch.randn(shape, requires_grad=True)
        with counters[0]:
            y = module(x)
        with counters[1]:
            y.sum().backward()
    forward, backward = (counter.get_total_flops() for counter in counters)
    return forward, forward + backward


def _convolution_backward(grad: torch.Size, x: torch.Size, weight: torch.Size, *rest: Any, **_: Any) -> int:
    # PyTorch's own formula takes the weight gradient of a depthwise convolution for that of a dense one.
    wanted = sum(rest[-1][:2])
    return wanted * 2 * grad.numel() * weight[1:].numel()


def ceilings(device: str, precisions: list[str], clock: str) -> dict[str, float]:
    """Measure copy bandwidth (bytes read and written per second) and the matmul rate of each precision (FLOP/s)."""
    cuda = device.startswith("cuda")
    source = torch.empty((1 << 30 if cuda else 1 << 26) // 4, device=device).normal_()
    target = torch.empty_like(source)
    times = interleave({"copy": lambda _: target.copy_(source)}, 7, clock)["copy"]
    found = {"bandwidth": 2 * source.numel() * 4 / quartiles(times)[0]}
    side = 8192 if cuda else 1024
    for precision in precisions:
        a = torch.randn(side, side, device=device, dtype=DTYPES[precision])
        times = interleave({"matmul": partial(_square, a)}, 5, clock)["matmul"]
        found[f"matmul {precision}"] = 2 * side**3 / quartiles(times)[0]
    return found


def _square(a: torch.Tensor, _: int) -> torch.Tensor:
    return a @ a


def floor(layer: str, shape: tuple[int, int, int, int], precision: str, found: dict[str, float]) -> tuple[float, float]:
    """Return the least seconds of forward, and of forward with backward.

    Args:
        layer: YAML name of the layer.
        shape: ``(B, C, H, W)`` of the map.
        precision: ``fp32``, ``bf16`` or ``fp16``; the map has it too.
        found: What ``ceilings`` measured.
    """
    itemsize = DTYPES[precision].itemsize
    size = itemsize * shape[0] * shape[1] * shape[2] * shape[3]
    operations = flops(layer, shape)
    return tuple(  # type: ignore[return-value]
        max(maps * size / found["bandwidth"], count / found[f"matmul {precision}"])
        for maps, count in zip(MAPS.get(layer, _MAP), operations, strict=True)
    )
