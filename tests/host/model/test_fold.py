"""The host's ``fuse()`` reaches our layers and changes no output."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import yolo_attn
from experiments.transfer_table import build, randomise
from yolo_attn import registry
from yolo_attn.graft import graft
from yolo_attn.host.model import fold, surgery
from yolo_attn.layers.cbam import CBAM
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# Layers with batch norms inside, and how many.
INSIDE = {"BAM": 7, "CAA": 2, "CoordAtt": 1, "CoT": 3, "GAM": 2, "Triplet": 3, "SK": 4}
LIMIT = 1e-5  # float32 noise of a convolution with other factors, relative to the largest entry


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    yolo_attn.install()


def grafted(layer: str) -> nn.Module:
    """Return yolov8n with a layer in backbone and neck, every parameter and statistic random, in eval mode."""
    plain = tasks.yaml_model_load("yolov8n.yaml")
    return randomise(build(graft(graft(plain, layer, "backbone"), layer, "neck"))).eval()


def outputs(model: nn.Module) -> list[torch.Tensor]:
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return surgery._flat(model(x))


def ours(model: nn.Module, layer: str) -> list[nn.Module]:
    return [m for m in model.modules() if type(m).__name__ == layer]


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, NORMS) for m in module.modules())


def size(modules: list[nn.Module]) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def distance(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    pairs = zip(actual, expected, strict=True)
    return max(((a - e).abs().max() / e.abs().max()).item() for a, e in pairs)


@pytest.mark.parametrize("layer", [layer.name for layer in registry.TABLE])
def test_fused_outputs_are_those_of_the_model(layer: str) -> None:
    model = grafted(layer)
    expected, parameters = outputs(model), size(ours(model, layer))
    assert len(ours(model, layer)) == 4
    assert all(norms(m) == INSIDE.get(layer, 0) for m in ours(model, layer))
    fused = copy.deepcopy(model)
    for _ in range(2):
        assert fused.fuse(verbose=False) is fused
        assert fused.is_fused()
        assert distance(outputs(fused), expected) < LIMIT
        assert norms(nn.ModuleList(ours(fused, layer))) == 0
        assert (size(ours(fused, layer)) < parameters) == (layer in INSIDE)
    assert all(norms(m) == INSIDE.get(layer, 0) for m in ours(model, layer))  # the original is as it was


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layer", INSIDE)
def test_folding_is_exact(layer: str, train: bool) -> None:
    module = randomise(registry.create(layer, 32)).double().eval()
    x = torch.randn(2, 32, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        expected = module(x)
        fold.fold(module.train(train))
        first = module.eval()(x)
        fold.fold(module)
        assert distance([first], [expected]) < 1e-12  # float64 noise; 1e-4 and more if a factor is missing
        others = module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))
        assert all(torch.equal(other(x), first) for other in others)


def test_a_saved_folded_model_opens_in_a_fresh_process(tmp_path: Path, run) -> None:
    model = grafted("BAM").fuse(verbose=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.save({"model": model, "x": x, "y": model(x)[0]}, tmp_path / "folded.pt")
    code = """
import torch
found = torch.load("folded.pt", weights_only=False)
with torch.no_grad():
    y = found["model"](found["x"])[0]
assert (y - found["y"]).abs().max() < 1e-5 * y.abs().max()  # other threads, other order of sums
"""
    run("python", "-c", code)


def test_a_hosted_export_folds_its_copy_and_equals_the_model(tmp_path: Path, monkeypatch) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    yolo = YOLO("yolov8n-cot.yaml")
    randomise(yolo.model).eval()
    path = yolo.export(format="torchscript", imgsz=64)
    assert norms(yolo.model) > 20
    exported = torch.jit.load(str(path))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        y, expected = exported(x), yolo.model(x)[0]
    assert distance([y], [expected]) < LIMIT


@pytest.mark.parametrize("layer", INSIDE)
def test_onnx_of_a_folded_layer_equals_the_layer(layer: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    module = randomise(registry.create(layer, 32)).eval()
    x = torch.randn(1, 32, 12, 9)
    with torch.no_grad():
        expected = module(x)
    fold.fold(module)
    buffer = io.BytesIO()
    torch.onnx.export(module, (x,), buffer, input_names=["x"], opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    y = torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]))
    assert distance([y], [expected]) < LIMIT


@pytest.mark.parametrize("layer", INSIDE)
@pytest.mark.parametrize("half", [False, True])
def test_a_folded_layer_keeps_type_and_flags_and_runs_in_train_mode(layer: str, half: bool) -> None:
    module = registry.create(layer, 32).eval().requires_grad_(False)
    module = module.half() if half else module
    fold.fold(module)
    assert norms(module) == 0
    assert {p.dtype for p in module.parameters()} == {torch.float16 if half else torch.float32}
    assert not any(p.requires_grad for p in module.parameters())
    assert module.train()(torch.randn(1, 32, 1, 1, dtype=next(module.parameters()).dtype)).isfinite().all()


def test_norm_in_the_spatial_gate_is_folded() -> None:
    layer = randomise(CBAM(16, spatial_bn=True)).eval()
    x = torch.randn(1, 16, 9, 9)
    expected = layer(x)
    fold.fold(layer)
    assert norms(layer) == 0
    assert distance([layer(x)], [expected]) < LIMIT


def test_a_quantised_or_parametrised_convolution_is_left_alone() -> None:
    layer = registry.create("CoordAtt", 16).eval()
    nn.utils.parametrizations.weight_norm(layer.conv1)
    x = torch.randn(1, 16, 9, 9)
    expected = layer(x)
    fold.fold(layer)
    assert norms(layer) == 1
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("gate", [0.0, 0.05])
def test_a_layer_behind_a_closed_gate_is_dropped(gate: float) -> None:
    layer = Gated("CoT", 16).eval()
    nn.init.constant_(layer.gate, gate)
    x = torch.randn(1, 16, 9, 9)
    expected = layer(x)
    fold.fold(layer)
    assert distance([layer(x)], [expected]) < LIMIT
    assert (len(list(layer.parameters())) == 1) == (gate == 0)
