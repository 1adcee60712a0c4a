"""Every layer against its golden files: outputs, gradients and buffers computed in float64 from the common listings.

The files live beside the checkout (or in the folders that ``YOLO_ATTN_GOLDEN`` and ``YOLO_ATTN_GOLDEN2`` name); without
them the tests skip.
Tolerances are those of the golden README: float32 noise of the listings is 2e-6 (outputs) and 1e-5 (gradients), typical
mistakes move an output by 3e-4 and more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from yolo_attn import registry

SHARED = Path(__file__).parents[2] / "shared"
FOLDERS = [
    Path(os.environ.get("YOLO_ATTN_GOLDEN", SHARED / "golden")),
    Path(os.environ.get("YOLO_ATTN_GOLDEN2", SHARED / "golden2")),
]
CASES = [
    {**case, "path": folder / case["file"]}
    for folder in FOLDERS
    if (folder / "manifest.json").is_file()
    for case in json.loads((folder / "manifest.json").read_text())["cases"]
    if case["module"] != "regional_routing_attention"
]
TOLERANCE = {torch.float32: (1e-5, 5e-5), torch.float64: (3e-7, 3e-7)}

# What a listing calls the width, and its arguments that do nothing.
WIDTHS = {"channel", "channels", "in_channels", "in_dim", "dim", "inp", "in_size", "inplanes", "c1"}
WIDTHS |= {"out_channels", "planes", "c2"}  # of the output, the same
UNUSED = {("Shuffle", "reduction")}
# Our name of an argument where a listing has another one.
RENAMED = {("ECA", "k_size"): "kernel_size", ("GAM", "group"): "grouped", ("Shuffle", "G"): "groups"}
RENAMED |= {("LSKA", "k_size"): "kernel_size"}
# What a listing does without an argument that says so.
IMPLIED: dict[str, dict[str, Any]] = {
    "ECAAttention": {"bias": True},
    "EMA": {"factor": 32},
    "GAM_Attention (plain)": {"channel_sigmoid": False},
    "GAM_Attention (grouped)": {"channel_sigmoid": False},
    "sa_layer": {"groups": 64},
    "timm GlobalContext": {"ratio": 0.125, "fusion_types": ["channel_mul"]},
}
# Our names of the parameters of timm's layer, which computes the same with another epsilon.
TIMM = {"conv_attn": "conv_mask", "mlp_scale.fc1": "channel_mul_conv.0", "mlp_scale.fc2": "channel_mul_conv.3"}
TIMM |= {"mlp_scale.norm": "channel_mul_conv.1"}

pytestmark = [
    pytest.mark.skipif(not CASES, reason=f"golden files not found in {FOLDERS}"),
    pytest.mark.usefixtures("form"),
]


def error(actual: torch.Tensor, reference: torch.Tensor, floor: float = 0.0) -> float:
    scale = max(reference.abs().max().item(), floor) or 1.0
    return (actual.detach().double() - reference.double()).abs().max().item() / scale


def layer_cases(modes: str) -> list:
    return [pytest.param(c, id=c["name"], marks=marks(c)) for c in CASES if modes in c["modes"]]


def marks(case: dict) -> list:
    return [] if case["module"] in registry.names() else [pytest.mark.skip(reason=f"no layer {case['module']}")]


def arguments(case: dict) -> dict[str, Any]:
    """Return the arguments of a case under our names."""
    module, given = case["module"], dict(IMPLIED.get(case.get("listing", ""), {}))
    for name, value in case["kwargs"].items():
        if name not in WIDTHS and (module, name) not in UNUSED:
            given[RENAMED.get((module, name), name)] = value
    return given


def from_timm(key: str) -> str:
    for theirs, ours in TIMM.items():
        key = key.replace(theirs, ours)
    return key


def run(case: dict, mode: str, dtype: torch.dtype) -> None:
    data = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(case["path"]).items()}
    layer = registry.create(case["module"], case["shape"][1], **arguments(case))
    if case.get("listing") == "timm GlobalContext":
        layer.channel_mul_conv[1].eps = 1e-6
        data = {from_timm(k): v[:, None, None] if ".norm." in k else v for k, v in data.items()}
        case = {**case, "zero_grad": {m: [*map(from_timm, keys)] for m, keys in case["zero_grad"].items()}}
    state = {k[3:]: v for k, v in data.items() if k.startswith("sd.")}
    assert set(layer.state_dict()) == set(state)
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
    largest = max((v.abs().max().item() for v in expected.values()), default=0.0)
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
