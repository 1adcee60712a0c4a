"""What is checked of a layer and its maps: pure PyTorch, shared by the tests and by ``yolo-attn check``."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ContractError, YoloAttnError

TAKEN = frozenset(("i", "f", "type", "np"))  # the host writes these on every layer
TAKEN_TEXT = ", ".join(sorted(TAKEN))


def features(*shape: int, seed: int = 1) -> Tensor:
    """Return a map as a layer of a YOLO sees it: noise through a SiLU."""
    return nn.functional.silu(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def distance(a: Tensor, b: Tensor) -> float:
    """Return how far two maps differ, relative to the second."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12)).item()


def open_gates(module: nn.Module) -> nn.Module:
    """Fill what starts at zero, in place, so that nothing hides behind a closed gate."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.8)
            elif not parameter.any():
                parameter.normal_(std=0.3)
    return module


def check_map(y: Any, x: Tensor, width: int | None = None) -> None:
    """Check what a layer returns for a map.

    Raises:
        ContractError: If it is no finite map of the shape and dtype of ``x`` (or of another ``width``).
    """
    if not isinstance(y, Tensor):
        raise ContractError(f"forward returns a {type(y).__name__}; return one tensor, the map")
    expected = (x.shape[0], width or x.shape[1], *x.shape[2:])
    if tuple(y.shape) != expected:
        raise ContractError(
            f"{_shape(x)} becomes {_shape(y)}; return {'x'.join(map(str, expected))}, or name another width in a "
            "static method out_channels(channels, *args)"
        )
    if y.dtype != x.dtype:
        raise ContractError(f"a map of {x.dtype} becomes one of {y.dtype}; make new tensors with dtype=x.dtype")
    if not torch.isfinite(y).all():
        raise ContractError(f"a map of {x.dtype} becomes one with NaN or infinity")


def check_unchanged(x: Tensor, before: Tensor) -> None:
    """Check that a layer left its input alone.

    Raises:
        ContractError: If it did not.
    """
    if not torch.equal(x, before):
        raise ContractError("forward writes into its input, which other rows read too; start with x = x.clone()")


def check_attributes(module: nn.Module) -> None:
    """Check that a layer leaves the names free that the host writes on it.

    Raises:
        ContractError: If it does not.
    """
    for path, part in module.named_modules():
        found = TAKEN & {*vars(part), *part._parameters, *part._buffers, *part._modules}
        if found:
            where = f" of {path}" if path else ""
            raise ContractError(f"attribute {sorted(found)[0]!r}{where}: Ultralytics writes {TAKEN_TEXT}; rename it")


def check_copies(module: nn.Module, fresh: nn.Module, x: Tensor) -> None:
    """Check that copies, pickles and a fresh layer with the same state compute the same.

    Args:
        module: The layer, in eval mode.
        fresh: Another one with other weights.
        x: A map.

    Raises:
        ContractError: If one does not.
    """
    buffer = io.BytesIO()
    try:
        torch.save(module, buffer)
    except Exception as error:
        raise ContractError(f"it cannot be pickled, so no checkpoint can hold it: {line(error)}") from error
    buffer.seek(0)
    try:
        fresh.load_state_dict(module.state_dict(), strict=True)
    except RuntimeError as error:
        raise ContractError(f"a fresh one does not take its state_dict: {line(error)}") from error
    copies = {
        "a deepcopy": copy.deepcopy(module),
        "a checkpoint of it": torch.load(buffer, weights_only=False),
        "a fresh one with its state_dict": fresh.eval(),
    }
    with torch.no_grad():
        expected = module(x.clone())
        for name, other in copies.items():
            if not torch.equal(other(x.clone()), expected):
                raise ContractError(f"{name} computes something else; keep all numbers in parameters and buffers")


def onnx_distances(module: nn.Module, first: Tensor, *others: Tensor) -> Iterator[float]:
    """Export a layer to ONNX with dynamic axes and yield how far it is from eager, relative, for each map.

    Args:
        module: The layer, in eval mode.
        first: The map that it is exported with.
        *others: Further maps to run.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
    """
    import numpy as np
    import onnx  # noqa: F401, the exporter needs it
    import onnxruntime

    axes = {0: "batch", 2: "height", 3: "width"}
    buffer: Any = io.BytesIO()  # torch's annotation knows paths alone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of an exporter that the host uses too
        torch.onnx.export(
            module,
            (first,),
            buffer,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": axes},
            opset_version=17,
            dynamo=False,
        )
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for x in (first, *others):
        with torch.no_grad():
            expected = module(x.clone())
        y = torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]))
        yield distance(y, expected) if y.shape == expected.shape else float("inf")


def line(error: BaseException) -> str:
    """Return an error in one line, with its kind where it is not ours."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = "" if isinstance(error, YoloAttnError) else f"{type(error).__name__}: "
    return (kind + first).rstrip(": .")


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape))
