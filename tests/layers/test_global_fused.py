"""The layers that mix pixels of the whole map: their CPU forms equal their modules called one by one, twice derived."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolo_attn.layers import CloAttention, CoT, CrissCross, DoubleAttention

EXACT = 1e-11  # float64 noise of sums in another order

LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "DoubleAttention": (lambda: DoubleAttention(6, 9, 5), 6),
    "DoubleAttention odd": (lambda: DoubleAttention(7, 9, 5, residual=True), 7),
    "DoubleAttention wide": (lambda: DoubleAttention(9, 3, 5), 9),
    "DoubleAttention short": (lambda: DoubleAttention(6, 9, 5, reconstruct=False), 6),
    "CloAttention": (lambda: CloAttention(12, 4, (1, 1, 2), (3, 5), 2), 12),
    "CloAttention global": (lambda: CloAttention(6, 3, (3,), (), 2), 6),
    "CloAttention local": (lambda: CloAttention(6, 3, (3, 0), (3,), 2, qkv_bias=False), 6),
    "CoT": (lambda: CoT(8), 8),
    "CoT narrow kernel": (lambda: CoT(12, 1), 12),
    "CrissCross": (lambda: CrissCross(16), 16),
    "CrissCross twice": (lambda: CrissCross(5, 2), 5),
}


def build(name: str) -> tuple[nn.Module, nn.Module]:
    """Return the layer and its copy whose hooked modules want to be called."""
    make, _ = LAYERS[name]
    layer, called = make().double(), make().double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, value in layer.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.5)
    called.load_state_dict(layer.state_dict())
    for module in called.modules():
        module.register_forward_hook(lambda *_: None)
    return layer, called


def features(name: str, batch: int, h: int = 5, w: int = 8, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, LAYERS[name][1], h, w, generator=generator, dtype=torch.float64)


def assert_close(actual: Tensor, expected: Tensor, scale: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= EXACT * scale


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_the_fused_layer_equals_its_modules(name: str, batch: int, training: bool) -> None:
    found = []
    for layer in build(name):
        layer.train(training)
        x = features(name, batch).requires_grad_()
        y = layer(x)
        w = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        first = torch.autograd.grad((y * w).sum(), [x, *layer.parameters()], retain_graph=True)
        again = torch.autograd.grad((y * w).sum(), [x, *layer.parameters()], create_graph=True)
        whole = sum((g**2).sum() for g in again)
        second = torch.autograd.grad(whole, [x, *layer.parameters()], materialize_grads=True)
        with torch.no_grad():
            calm = layer(x)
        found.append((y, calm, first, again, second, dict(layer.named_buffers())))
    fused, called = found
    for actual, expected in zip(fused[:2], called[:2], strict=True):
        assert_close(actual, expected, expected.abs().max().item())
    for actual, expected in zip(fused[2:5], called[2:5], strict=True):
        largest = max(g.abs().max().item() for g in expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, largest)
    assert fused[5].keys() == called[5].keys()
    for key, value in fused[5].items():
        assert torch.allclose(value.double(), called[5][key].double(), rtol=EXACT), key


@pytest.mark.parametrize("name", LAYERS)
def test_one_node_computes_the_layer_unless_its_modules_are_hooked(name: str) -> None:
    for layer, is_fused in zip(build(name), (True, False), strict=True):
        node, names = layer(features(name, 1).requires_grad_()).grad_fn, []
        while node is not None and len(names) < 3:
            names.append(type(node).__name__)
            node = node.next_functions[0][0] if node.next_functions else None
        assert any("Fused" in n for n in names) == is_fused


@pytest.mark.parametrize("name", LAYERS)
def test_frozen_parameters_and_frozen_maps(name: str) -> None:
    layer, called = build(name)
    for frozen in ("map", "parameters"):
        found = []
        for module in (layer, called):
            for parameter in module.parameters():
                parameter.requires_grad_(frozen == "map")
            x = features(name, 2).requires_grad_(frozen == "parameters")
            wanted = [x] if frozen == "parameters" else list(module.parameters())
            found.append(torch.autograd.grad(module(x).square().sum(), wanted))
        largest = max(g.abs().max().item() for g in found[1])
        for actual, expected in zip(*found, strict=True):
            assert_close(actual, expected, largest)
