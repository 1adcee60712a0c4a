"""Where NaN or inf begins: in which weights, or in the output of which layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model.ours import readable
from ..opening import open_checkpoint

LARGEST_HALF = torch.finfo(torch.float16).max


def magnitudes(model: nn.Module) -> dict[str, float]:
    """Return the largest absolute value of each floating-point tensor of a model; NaN or inf if it holds one.

    The device is waited for once.
    """
    state = {name: value for name, value in model.state_dict().items() if _is_float(value) and value.numel()}
    if not state:
        return {}
    largest = torch.stack([value.detach().abs().amax().float() for value in state.values()])
    return dict(zip(state, largest.tolist(), strict=True))


def not_finite(largest: Mapping[str, float]) -> list[str]:
    """Return the names of the tensors that hold NaN or inf, given their ``magnitudes``."""
    return [name for name, value in largest.items() if not math.isfinite(value)]


def masks(model: nn.Module) -> frozenset[str]:
    """Return the names of the buffers of a sound model that hold inf on purpose, such as masks of attention."""
    return frozenset(not_finite(magnitudes(model))) & {name for name, _ in model.named_buffers()}


def diagnose(
    model: nn.Module, images: Tensor | None, last: Path, autocast: Callable[[], Any], known: Container[str] = ()
) -> str:
    """Say where the first non-finite value is, by the name of the layer.

    Weights that are non-finite everywhere tell nothing of the cause: the batch then runs once more through the weights
    of the last checkpoint. The model is left as it was: weights, buffers, modes and random numbers.

    Args:
        model: The model, in the mode that gave the value.
        images: The batch ``(B, C, H, W)`` that gave it; None if it is gone.
        last: Last checkpoint of the run; it need not exist.
        autocast: Returns the context of precision that the model ran in.
        known: Names of tensors that hold inf on purpose.
    """
    bad = [name for name in not_finite(magnitudes(model)) if name not in known]
    if not bad:
        if images is None:
            return "weights finite; the batch is gone"
        return f"{_first_output(model, images, autocast)} (weights finite)"
    weights = f"{len(bad)} of {len(model.state_dict())} tensors of the weights are non-finite"
    if images is None or not last.is_file():
        return f"{weights}, first {readable(model, bad[0])}"
    checkpoint = open_checkpoint(last)
    with _weights(model, checkpoint["ema"].float().state_dict()):
        found = _first_output(model, images, autocast)
    return (
        f"{found}, with the weights of {last.name} (epoch {checkpoint['epoch'] + 1}) on the same batch; now {weights}"
    )


def first_output(model: nn.Module, images: Tensor) -> tuple[str, bool] | None:
    """Return the name of the first module to end with a non-finite output, and whether its input was finite.

    The forward runs without gradients, in the mode the modules are in; buffers and random numbers are restored.
    """
    found: list[tuple[str, bool]] = []

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not _finite(output):
            found.append((name, _finite(inputs)))

    handles = [module.register_forward_hook(partial(hook, name)) for name, module in model.named_modules() if name]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
    return found[0] if found else None


def _first_output(model: nn.Module, images: Tensor, autocast: Callable[[], Any]) -> str:
    if not _finite(images):
        return "first non-finite value: the images of the batch"
    with autocast():
        found = first_output(model, images)
    if found is None:
        return "no layer's output is non-finite: look at the loss and at the boxes of the batch"
    name, input_is_finite = found
    origin = "" if input_is_finite else ", whose input is non-finite too"
    return f"first non-finite value: output of {readable(model, name)}{origin}"


@contextmanager
def _weights(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Lend a model other weights; both must have the same keys."""
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(state)
        yield
    finally:
        model.load_state_dict(own)


def _finite(value: Any) -> bool:
    """Return whether every floating-point tensor in nested containers is finite."""
    if isinstance(value, Tensor):
        return not _is_float(value) or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, (list, tuple)) else True


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
