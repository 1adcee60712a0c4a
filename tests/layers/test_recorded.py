"""Recorded graphs of every layer serve other maps than their example: traces, ONNX, exported and compiled programs."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn

from yolo_attn import registry
from yolo_attn.registry import Layer

WIDTH, EXAMPLE = 32, (10, 12)
OTHERS = [(6, 8), (3, 5), (2, 7), (1, 1)]
LIMIT = 1e-5  # float32 noise of another implementation, relative to the largest entry
NAMES = pytest.mark.parametrize("layer", registry.TABLE, ids=lambda layer: layer.name)
AXES = {"x": {2: "height", 3: "width"}, "y": {2: "height", 3: "width"}}
GRID_SAMPLE = {"DAttention": 16}  # ONNX has no GridSample before this opset


def build(layer: Layer) -> nn.Module:
    torch.manual_seed(0)
    module = registry.create(layer.name, WIDTH).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(0.8)
    return module


def features(*size: int) -> torch.Tensor:
    return nn.functional.silu(torch.randn(1, WIDTH, *size, generator=torch.Generator().manual_seed(size[0])))


def distance(found: torch.Tensor | np.ndarray, expected: torch.Tensor) -> float:
    found = torch.as_tensor(np.asarray(found))
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def to_onnx(module: nn.Module, opset: int, axes: dict | None = AXES) -> bytes:
    buffer = io.BytesIO()
    words = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes, "opset_version": opset}
    torch.onnx.export(module, (features(*EXAMPLE),), buffer, dynamo=False, **words)
    return buffer.getvalue()


def check_onnx(module: nn.Module, graph: bytes) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for size in (EXAMPLE, *OTHERS):
        x = features(*size)
        assert distance(session.run(None, {"x": x.numpy()})[0], module(x)) < LIMIT, size


@NAMES
def test_a_trace_serves_other_sizes(layer: Layer) -> None:
    module = build(layer)
    trace = torch.jit.trace(module, features(*EXAMPLE), check_trace=False)
    for size in (EXAMPLE, *OTHERS):
        assert distance(trace(features(*size)), module(features(*size))) < LIMIT, size


@NAMES
@pytest.mark.parametrize("opset", [13, 20])
def test_onnx_of_an_old_and_a_new_opset_serves_other_sizes(layer: Layer, opset: int) -> None:
    pytest.importorskip("onnx")
    module = build(layer)
    check_onnx(module, to_onnx(module, max(opset, GRID_SAMPLE.get(layer.name, 0))))


@NAMES
def test_two_of_a_size_are_simplified_to_what_they_are(layer: Layer) -> None:
    # onnxslim gets the padding of a second map of one size wrong, if it is done by F.pad.
    onnx, onnxslim = pytest.importorskip("onnx"), pytest.importorskip("onnxslim")
    onnxruntime = pytest.importorskip("onnxruntime")
    module, x = nn.Sequential(build(layer), build(layer)).eval(), features(*EXAMPLE)
    graph = onnxslim.slim(onnx.load_from_string(to_onnx(module, 20, None))).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert distance(session.run(None, {"x": x.numpy()})[0], module(x)) < LIMIT


@NAMES
def test_simplified_onnx_serves_other_sizes(layer: Layer) -> None:
    # onnxslim takes clamp(min=1) and clamp(max=1) of one tensor for the same expression.
    onnx, onnxslim = pytest.importorskip("onnx"), pytest.importorskip("onnxslim")
    module = build(layer)
    check_onnx(module, onnxslim.slim(onnx.load_from_string(to_onnx(module, 17))).SerializeToString())


def test_a_folded_cot_holds_its_averaged_weights() -> None:
    onnx = pytest.importorskip("onnx")
    module = build(registry.find("CoT"))
    x, kinds = features(*EXAMPLE), []
    expected = module(x)
    for _ in range(2):
        kinds.append({node.op_type for node in onnx.load_from_string(to_onnx(module, 17)).graph.node})
        module.fold_for_inference()
    assert distance(module(x), expected) < LIMIT
    assert "ReduceMean" in kinds[0] - kinds[1]


@NAMES
def test_an_exported_program_serves_other_sizes(layer: Layer) -> None:
    module = build(layer)
    # Below 16 windows become one pixel, a size that torch.export keeps for good.
    height, width = (torch.export.Dim(name, min=16, max=64) for name in ("height", "width"))
    exported = torch.export.export(
        module,
        (features(20, 24),),
        dynamic_shapes=({2: height, 3: width},),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    values = [node.meta.get("val") for node in exported.graph.nodes]
    assert max(value.dim() for value in values if isinstance(value, torch.Tensor)) <= 6  # what XNNPACK takes
    program = exported.module()
    for size in ((20, 24), (16, 17), (40, 32)):
        assert distance(program(features(*size)), module(features(*size))) < LIMIT, size


@NAMES
def test_a_compiled_layer_has_no_break_and_serves_other_sizes(layer: Layer) -> None:
    torch._dynamo.reset()
    module = build(layer)
    program = torch.compile(module, fullgraph=True, backend="aot_eager")
    for size in (EXAMPLE, *OTHERS[:2]):
        assert distance(program(features(*size)), module(features(*size))) < LIMIT, size


@pytest.mark.slow
@NAMES
def test_a_layer_compiled_by_inductor_serves_a_second_size(layer: Layer) -> None:
    torch._dynamo.reset()
    module = build(layer)
    program = torch.compile(module, fullgraph=True)
    for size in (EXAMPLE, *OTHERS[:2]):
        assert distance(program(features(*size)), module(features(*size))) < LIMIT, size
