"""Files in, files out: graft layers into a model YAML, strip the layers out of a checkpoint."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import get_flops

from ... import registry
from ...errors import HostError, RowError
from ...graft import fill, insert, plan, remove, to_yaml
from ...layers.gated import Gated
from ..opening import open_checkpoint
from .blocks import is_layer
from .ours import has_attention

Grafts = Sequence[tuple[str, str | int, Sequence[Any]]]
Say = Callable[[str], object]
_SIDE = 640  # pixels; the size that Ultralytics states GFLOPs for
_TASKS = {
    "classify": "ClassificationModel", "segment": "SegmentationModel", "pose": "PoseModel", "obb": "OBBModel",
    "semantic": "SemanticSegmentationModel", "depth": "DepthModel",
}  # fmt: skip
# Heads whose model is another one than that of their task.
_HEADS = {
    "RTDETRDecoder": "RTDETRDetectionModel", "WorldDetect": "WorldModel", "YOLOEDetect": "YOLOEModel",
    "YOLOESegment": "YOLOESegModel", "YOLOESegment26": "YOLOESegModel",
}  # fmt: skip


def graft_file(model: str, grafts: Grafts, output: str | Path, say: Say = print) -> None:
    """Write a model YAML with attention layers inserted, and say what changed and what it costs.

    Args:
        model: Name or path of the model YAML.
        grafts: Layer, place and row arguments of each insertion.
        output: File to write; it must not exist.
        say: Takes one line.

    Raises:
        RowError: If a place does not exist in this model, or the output exists.
        UnknownLayerError: If there is no such layer.
        FileNotFoundError: If there is no such model.
    """
    if os.path.lexists(output):
        raise RowError(f"{output} exists; name another file with -o (nothing was written)")
    base = tasks.yaml_model_load(model)
    rows = plan(base, grafts)
    filled = fill(base, grafts)
    result = insert(filled, rows)
    old_rows, full_rows, new_rows = ([*m["backbone"], *m["head"]] for m in (base, filled, result))
    index = 0
    for number, old in enumerate(old_rows):
        if new_rows[index][0] != old[0]:
            say(f"  row {index} ({number} before), {old[2]}: reads {new_rows[index][0]} instead of {old[0]}")
        if full_rows[number] != old:
            say(f"  row {index}: {new_rows[index]}")
        for offset, row in enumerate(rows.get(number, ()), start=1):
            say(f"+ row {index + offset}: {row}")
        index += 1 + len(rows.get(number, ()))
    inside = sum(full != old for full, old in zip(full_rows, old_rows, strict=True))
    say(
        f"{len(new_rows) - len(old_rows)} rows inserted, {len(old_rows)} kept"
        + (f", {inside} of them with attention inside" if inside else "")
    )
    try:
        (p0, g0), (p1, g1) = _cost(base), _cost(result)
    except (TypeError, RuntimeError, AssertionError) as error:  # a family that needs more than an image, as World does
        say(f"the cost is unknown: this model cannot be built on its own ({str(error).splitlines()[0]})")
    else:
        say(f"parameters {p0:,} -> {p1:,} ({p1 / p0 - 1:+.2%}); GFLOPs {g0:.2f} -> {g1:.2f} at {_SIDE} px")
    named = [(registry.row_of(layer), place) for layer, place, _ in grafts]
    words = " and ".join(f"{' '.join([name, *given])} at {place}" for (name, given), place in named)
    text = {key: value for key, value in result.items() if key not in ("scale", "yaml_file")}
    with _created(output) as file:
        file.write(to_yaml(text, f"{model} with {words}.").encode())
    say(f"wrote {output}")
    if base.get("scales") and not tasks.guess_model_scale(output):
        say(f"its scale comes from its name as a file; without one it is {next(iter(base['scales']))!r}")


def strip(checkpoint: str | Path, output: str | Path, force: bool = False, say: Say = print) -> float:
    """Write a checkpoint without attention layers if every gate is zero, so that nothing changes.

    Args:
        checkpoint: An Ultralytics checkpoint with layers of ours.
        output: File to write; it must not exist.
        force: Write also if the outputs differ.
        say: Takes one line.

    Returns:
        Largest difference of the outputs on a random image, relative to the largest output.

    Raises:
        HostError: If there is nothing to strip, the output exists, or the outputs differ and ``force`` is not given.
        CheckpointError: If the checkpoint cannot be opened, or ``ULTRALYTICS_SAFE_LOAD=1`` forbids it.
    """
    if os.path.lexists(output):
        raise HostError(f"{output} exists; name another file with -o (nothing was written)")
    content = open_checkpoint(checkpoint)
    model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    layers = [layer for layer in getattr(model, "model", []) if has_attention(layer)]
    if model is None or not layers:
        raise HostError(f"{checkpoint} has no layer of yolo-attn; there is nothing to strip")
    plain = _without_attention(model)
    difference = _difference(model, plain)
    gates = [abs(module.openness()) for module in model.modules() if isinstance(module, Gated)]
    count = sum(map(is_layer, model.modules())) - len(gates)  # a gate holds the layer that it opens
    largest = f", largest gate {max(gates):.4g}" if gates else ""
    say(f"{count} attention layers, {len(gates)} with a gate{largest}")
    say(f"without them the outputs differ by {difference:.3g} of their largest value")
    if difference and not force:
        raise HostError(
            f"{checkpoint}: its attention layers take part in the outputs, which differ by {difference:.3g} without "
            "them; --force strips them all the same (nothing was written)"
        )
    with _created(output) as file:
        torch.save({**content, "model": plain, "ema": None, "optimizer": None}, file)
    say(f"wrote {output}")
    return difference


@contextmanager
def _created(output: str | Path) -> Iterator[IO[bytes]]:
    """Lend a new file, which goes again if the block fails; one that is there, be it a link, stays as it is."""
    with Path(output).open("xb") as file:
        try:
            yield file
        except BaseException:
            Path(output).unlink()
            raise


def _without_attention(model: Any) -> nn.Module:
    """Return the model as its plain YAML builds it, with the weights and everything else the model has."""
    config = remove(model.yaml, registry.names())
    with silence():
        plain = type(model)(config, ch=config.get("ch", config.get("channels", 3)), verbose=False)
        plain.load(copy.deepcopy(model), verbose=False)
    hosts_own = {"yaml", "model", "save", *nn.Module().__dict__}
    for key, value in vars(model).items():
        if key not in hosts_own:
            setattr(plain, key, value)
    if hasattr(model.model[-1], "stride"):
        plain.model[-1].stride = model.model[-1].stride
    if hasattr(plain.model[-1], "shape"):
        plain.model[
            -1
        ].shape = None  # the host computes its anchors anew; those of the build have the build's precision
    return plain.to(next(model.parameters()).dtype).eval()


def outputs(model: Any) -> list[torch.Tensor]:
    """Return all tensors that a model gives for one random image, in eval mode and float32."""
    channels = model.yaml.get("channels", model.yaml.get("ch", 3))
    x = torch.rand(1, channels, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return _flat(copy.deepcopy(model).float().eval()(x))


def _difference(one: nn.Module, other: nn.Module) -> float:
    a, b = outputs(one), outputs(other)
    return max(((p - q).abs().max() / p.abs().max().clamp(min=1e-12)).item() for p, q in zip(a, b, strict=True))


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in _flat(item)]


def _cost(model: dict[str, Any]) -> tuple[int, float]:
    """Return parameters and GFLOPs of a model dictionary, as the host counts them."""
    with silence():
        built = build(model)
    return sum(p.numel() for p in built.parameters()), get_flops(built, _SIDE)


def build(model: dict[str, Any]) -> Any:
    """Return the model of a model dictionary, in the host's class for its task."""
    name = _HEADS.get(model["head"][-1][2]) or _TASKS.get(tasks.guess_model_task(model), "DetectionModel")
    return getattr(tasks, name)(copy.deepcopy(model), ch=model.get("channels", 3), verbose=False)


@contextmanager
def silence() -> Iterator[None]:
    """Keep the host's logger to errors."""
    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
