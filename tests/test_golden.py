"""Every layer against its golden files: outputs, gradients and buffers computed in float64 from the common listings.

The files live beside the checkout (or in the folder that ``YOLO_ATTN_GOLDEN`` names); without them the tests skip.
Tolerances are those of the golden README: float32 noise of the listings is 2e-6 (outputs) and 1e-5 (gradients), typical
mistakes move an output by 3e-4 and more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from yolo_attn import registry

GOLDEN = Path(os.environ.get("YOLO_ATTN_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
MANIFEST = GOLDEN / "manifest.json"
CASES = json.loads(MANIFEST.read_text())["cases"] if MANIFEST.is_file() else []
WIDTH_NAMES = {"channel", "channels", "in_channels", "in_dim", "dim", "inp"}
TOLERANCE = {torch.float32: (1e-5, 5e-5), torch.float64: (3e-7, 3e-7)}

pytestmark = [
    pytest.mark.skipif(not CASES, reason=f"golden files not found in {GOLDEN}"),
    pytest.mark.usefixtures("form"),
]


def error(actual: torch.Tensor, reference: torch.Tensor, floor: float = 0.0) -> float:
    scale = max(reference.abs().max().item(), floor) or 1.0
    return (actual.detach().double() - reference.double()).abs().max().item() / scale


def layer_cases(modes: str) -> list:
    return [
        pytest.param(c, id=c["name"])
        for c in CASES
        if c["module"] != "regional_routing_attention" and "kwargs" in c and modes in c["modes"]
    ]


def run(case: dict, mode: str, dtype: torch.dtype) -> None:
    data = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(GOLDEN / case["file"]).items()}
    kwargs = dict(case["kwargs"])
    (width,) = [kwargs.pop(k) for k in list(kwargs) if k in WIDTH_NAMES]
    layer = registry.create(case["module"], width, **kwargs)
    state = {k[3:]: v for k, v in data.items() if k.startswith("sd.")}
    assert list(layer.state_dict()) == list(state) or set(layer.state_dict()) == set(state)
    layer.to(dtype).load_state_dict(state, strict=True)
    layer.train(mode == "train")
    x = data["x"].clone().requires_grad_()
    y = layer(x)
    assert tuple(y.shape) == tuple(case["output_shape"])
    (y * data["w"]).sum().backward()
    tolerance, grad_tolerance = TOLERANCE[dtype]
    assert error(y, data[f"{mode}.y"]) <= tolerance
    assert error(x.grad, data[f"{mode}.gx"]) <= grad_tolerance
    prefix = f"{mode}.gp."
    expected = {k[len(prefix) :]: v for k, v in data.items() if k.startswith(prefix)}
    largest = max(v.abs().max().item() for v in expected.values())
    parameters = dict(layer.named_parameters())
    assert {k for k, p in parameters.items() if p.requires_grad} == set(expected)
    assert {k for k, p in parameters.items() if not p.requires_grad} == set(case["no_grad"])
    for key, reference in expected.items():
        zero = key in case["zero_grad"].get(mode, [])
        floor = largest if zero else 1e-3 * largest
        assert parameters[key].grad is not None, key
        assert error(parameters[key].grad, reference, floor) <= grad_tolerance, key
    for key, buffer in layer.named_buffers():
        if mode == "train":
            assert error(buffer, data[f"train.buf.{key}"]) <= tolerance, key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("case", layer_cases("eval"))
def test_eval(case: dict, dtype: torch.dtype) -> None:
    run(case, "eval", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("case", layer_cases("train"))
def test_train(case: dict, dtype: torch.dtype) -> None:
    run(case, "train", dtype)
