"""What one call costs: time in interleaved rounds, bytes kept for backward, peak memory, hidden synchronisations."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

CLOCKS = ("wall", "cpu", "events")
# Each of them makes the host wait for the device, or reads a value that it would have to wait for.
SYNCHRONISATIONS = ("cudaStreamSynchronize", "aten::item", "aten::_local_scalar_dense", "aten::nonzero")
_SAMPLE = {"wall": 0.02, "cpu": 0.02, "events": 0.004}  # seconds, the least that one sample lasts

_LARGEST_KEPT = 31 << 20  # bytes; glibc raises its thresholds up to blocks of 32 MiB

Call = Callable[[int], Any]


def settle_allocator() -> None:
    """Make the C library keep freed maps, as it does in any process that has freed a large one before.

    In a fresh process glibc hands freed memory back to the system at once, and each temporary map then costs page
    faults that take many times as long as writing it: they would be measured instead of the layers, ours and theirs.
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8)


def seconds(call: Call, calls: int, clock: str) -> float:
    """Return the mean time of one of ``calls`` calls.

    Args:
        call: Takes the number of the call, so that it can rotate its inputs.
        calls: How many.
        clock: ``wall``; ``cpu``, the processor time of this process (for a machine that is not idle); ``events``, the
            time on the CUDA device.
    """
    if clock == "events":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for number in range(calls):
            call(number)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / calls
    read = time.process_time if clock == "cpu" else time.perf_counter
    begin = read()
    for number in range(calls):
        call(number)
    return (read() - begin) / calls


def interleave(
    calls: Mapping[str, Call], rounds: int, clock: str = "wall", least: int = 0, limit: float = math.inf
) -> dict[str, list[float]]:
    """Return seconds per call of each candidate in each round, every round timing all of them, in turning order.

    Args:
        calls: Candidates by name.
        rounds: How many rounds.
        clock: As in ``seconds``.
        least: Rounds that are measured however long they take, if there is a limit.
        limit: After so many seconds no further round begins.
    """
    begin = time.monotonic()
    counts = {}
    for name, call in calls.items():
        call(0)  # the first call compiles, allocates and chooses algorithms
        counts[name] = max(1, math.ceil(_SAMPLE[clock] / max(seconds(call, 1, clock), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        if number >= least and time.monotonic() - begin > limit:
            break
        order = list(calls) if number % 2 == 0 else list(calls)[::-1]
        for name in order:
            samples[name].append(seconds(calls[name], counts[name], clock))
    return samples


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, first and third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, low, high


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return median and quartiles of ``one / other``, taken round by round."""
    return quartiles([a / b for a, b in zip(one, other, strict=True)])


def saved_bytes(layer: nn.Module, x: Any) -> int:
    """Return the bytes that one forward call keeps for backward, each storage once.

    Parameters and buffers are left out, since they exist anyway; the input counts if it is kept. Tensors that a
    checkpoint holds beside autograd are not seen.
    """
    own = {t.untyped_storage().data_ptr() for t in (*layer.parameters(), *layer.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            kept[pointer] = tensor  # held, so that no other tensor gets its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del y
    return total


def peak_bytes(call: Call) -> int:
    """Return the most CUDA memory that a call takes beside what was taken before."""
    call(0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(0)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def synchronisations(call: Call) -> dict[str, int]:
    """Return how often a call makes the host wait for the device, by kind; empty if it never does."""
    call(0)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as result:
        call(0)
    counts = {event.key: event.count for event in result.key_averages()}
    return {name: counts[name] for name in SYNCHRONISATIONS if name in counts}
