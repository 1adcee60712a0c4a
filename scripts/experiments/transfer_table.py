"""How many tensors of a base arrive in its grafted model, by the host alone and by us."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ultralytics.nn import tasks

from yolo_attn.graft import graft
from yolo_attn.host.model import surgery
from yolo_attn.host.model.align import align
from yolo_attn.host.model.ours import plain_state


def transfer_row(family: str, place: str, layer: str = "CBAM") -> dict[str, Any]:
    """Load a randomised base of a family into its grafted model, by the host alone and by us.

    Args:
        family: Name of a model YAML without ``.yaml``, such as ``yolo11n``.
        place: Place of the layer.
        layer: YAML name of the layer.

    Returns:
        ``tensors`` of the base, how many of them equal the base's in the model after ``stock`` and after ``ours``, and
        the largest ``difference`` of our model's outputs from the base's.
    """
    plain = tasks.yaml_model_load(f"{family}.yaml")
    base = randomise(build(plain))
    target = build(graft(plain, layer, place))
    with stock_loading():
        target.load(base, verbose=False)
    stock = _arrived(base, target)
    target = build(graft(plain, layer, place))
    target.load(base, verbose=False)
    pairs = zip(surgery.outputs(base), surgery.outputs(target), strict=True)
    return {
        "model": family, "layer": layer, "place": place, "tensors": len(base.model.state_dict()), "stock": stock,
        "ours": _arrived(base, target), "difference": max((a - b).abs().max().item() for a, b in pairs),
    }  # fmt: skip


def _arrived(base: Any, target: Any) -> int:
    """Count the tensors of the base that stand, unchanged, in the corresponding layer of the target."""
    count = 0
    for i, j in align(list(base.model), list(target.model)).items():
        theirs = plain_state(target.model[j])
        state = plain_state(base.model[i])
        count += sum(k in theirs and torch.equal(theirs[k].float(), v.float()) for k, v in state.items())
    return count


def build(config: dict[str, Any]) -> Any:
    """Return the model of a model dictionary, in the class of its task, in eval mode."""
    with surgery.silence():
        return surgery.build(config).eval()


def randomise(model: Any, seed: int = 1) -> Any:
    """Give every parameter and statistic of a model values that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(seed + 6)
    return model


@contextmanager
def stock_loading() -> Iterator[None]:
    """Give ``BaseModel.load`` back to the host for a while; rows and names stay ours."""
    ours = tasks.BaseModel.load
    tasks.BaseModel.load = inspect.unwrap(ours)  # type: ignore[method-assign]
    try:
        yield
    finally:
        tasks.BaseModel.load = ours  # type: ignore[method-assign]
