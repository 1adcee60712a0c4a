"""regional_routing_attention against its golden files, a slow formula, and its error messages."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from yolo_attn.layers import regional_routing_attention

GOLDEN = Path(os.environ.get("YOLO_ATTN_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
MANIFEST = GOLDEN / "manifest.json"
CASES = [
    case
    for case in (json.loads(MANIFEST.read_text())["cases"] if MANIFEST.is_file() else [])
    if case["module"] == "regional_routing_attention"
]
# Those of the golden README: outputs and input gradients, relative to the largest entry.
TOLERANCE = {torch.float32: (1e-5, 5e-5), torch.float64: (3e-7, 3e-7)}


def error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    return ((actual.detach().double() - reference.double()).abs().max() / reference.abs().max()).item()


@pytest.mark.skipif(not CASES, reason=f"golden files not found in {GOLDEN}")
@pytest.mark.parametrize("return_attention", [False, True], ids=["fused", "weights"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_golden(case: dict, dtype: torch.dtype, return_attention: bool) -> None:
    data = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(GOLDEN / case["file"]).items()}
    q, k, v = (data[name].clone().requires_grad_() for name in "qkv")
    y = regional_routing_attention(
        q, k, v, region_graph=data["graph"], **case["kwargs"], return_attention=return_attention
    )
    tolerance, grad_tolerance = TOLERANCE[dtype]
    if return_attention:
        y, weights = y
        assert weights.shape == data["eval.attn"].shape
        assert error(weights, data["eval.attn"]) <= tolerance
    (y * data["w"]).sum().backward()
    assert y.shape == data["eval.y"].shape
    assert error(y, data["eval.y"]) <= tolerance
    for tensor, name in ((q, "gq"), (k, "gk"), (v, "gv")):
        assert error(tensor.grad, data[f"eval.{name}"]) <= grad_tolerance, name


def direct(q, k, v, scale, graph, size, kv_size):
    """One softmax per query pixel over the listed regions' pixels, zeros beyond the maps included."""
    y = torch.zeros(q.shape[0], v.shape[1], *q.shape[2:], dtype=q.dtype)
    heads, d, dv = graph.shape[1], q.shape[1] // graph.shape[1], v.shape[1] // graph.shape[1]
    columns, kv_columns = -(-q.shape[3] // size[1]), -(-k.shape[3] // kv_size[1])

    def pixel(x, b, channels, row, column):
        inside = row < x.shape[2] and column < x.shape[3]
        return x[b, channels, row, column] if inside else torch.zeros_like(x[b, channels, 0, 0])

    for b, m, row, column in torch.cartesian_prod(*map(torch.arange, (q.shape[0], heads, *q.shape[2:]))).tolist():
        cells = []
        for region in graph[b, m, row // size[0] * columns + column // size[1]].tolist():
            top, left = region // kv_columns * kv_size[0], region % kv_columns * kv_size[1]
            cells += [(top + r, left + c) for r in range(kv_size[0]) for c in range(kv_size[1])]
        keys = torch.stack([pixel(k, b, slice(m * d, m * d + d), *cell) for cell in cells])
        values = torch.stack([pixel(v, b, slice(m * dv, m * dv + dv), *cell) for cell in cells])
        logits = scale * keys @ q[b, m * d : m * d + d, row, column]
        y[b, m * dv : m * dv + dv, row, column] = logits.softmax(0) @ values
    return y


def test_padding_on_both_grids_and_wider_values() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    k, v = torch.randn(2, 4, 5, 4, dtype=torch.float64), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    graph = torch.randint(0, 6, (2, 2, 6, 2))
    y = regional_routing_attention(q, k, v, 0.7, graph, (2, 2), [2, 2])
    assert error(y, direct(q, k, v, 0.7, graph, (2, 2), (2, 2))) < 1e-12  # rounding in float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"region_graph": torch.zeros(1, 2, 4, 1)}, "region_graph"),
        ({"region_graph": torch.zeros(1, 2, 3, 1, dtype=torch.long)}, r"regions\) = \(1, 2, 4\)"),
        ({"region_graph": torch.zeros(1, 3, 4, 1, dtype=torch.long)}, "query has 4 channels.*3 heads"),
        ({"region_size": (3, 2), "auto_pad": False}, "query map 4x4 is not divisible by regions of 3x2"),
        ({"region_size": 2}, "region_size=2"),
        ({"region_size": (2, 0)}, r"region_size\[1\]=0"),
        ({"kv_region_size": (2,)}, r"kv_region_size=\(2,\)"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    x = torch.randn(1, 4, 4, 4)
    arguments = {"region_graph": torch.zeros(1, 2, 4, 1, dtype=torch.long), "region_size": (2, 2)} | change
    with pytest.raises(ValueError, match=message):
        regional_routing_attention(x, x, x, 0.5, **arguments)


def test_graph_out_of_range_is_an_error() -> None:
    x = torch.randn(1, 4, 4, 4)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        regional_routing_attention(x, x, x, 0.5, torch.full((1, 2, 4, 1), 4), (2, 2))


def test_half_precision_follows_float32() -> None:
    torch.manual_seed(0)
    x, graph = torch.randn(2, 8, 6, 6), torch.randint(0, 9, (2, 2, 9, 3))
    exact, exact_weights = regional_routing_attention(x, x, x, 0.5, graph, (2, 2), return_attention=True)
    h = x.bfloat16()
    y, weights = regional_routing_attention(h, h, h, 0.5, graph, (2, 2), return_attention=True)
    fused = regional_routing_attention(h, h, h, 0.5, graph, (2, 2))
    assert y.dtype == weights.dtype == fused.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: inputs, weights and sums each round by up to 2^-9.
    assert error(y, exact) < 2e-2 and error(fused, exact) < 2e-2 and error(weights, exact_weights) < 2e-2
