"""The layers that gate rows and columns from one-dimensional convolutions (ELA, SCSA) against slow formulas."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import State, agree, distance, features, group_norm, half_precision_error, randomise, softmax
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_attn.layers import ELA, SCSA

pytestmark = pytest.mark.usefixtures("form")


def convolution_1d(t: Tensor, p: State, name: str, groups: int) -> Tensor:
    """Convolve ``(B, C, length)``, with zeros at both ends, as a sum of shifted strips."""
    weight = p[f"{name}.weight"]
    k, width = weight.shape[2], weight.shape[0] // groups
    padded = F.pad(t, (k // 2, k // 2))
    y = []
    for g in range(groups):
        part = padded[:, g * weight.shape[1] : (g + 1) * weight.shape[1]]
        rows = weight[g * width : (g + 1) * width]
        y.append(sum(torch.einsum("bcl,oc->bol", part[:, :, j : j + t.shape[2]], rows[:, :, j]) for j in range(k)))
    bias = p.get(f"{name}.bias")
    return torch.cat(y, 1) + (0 if bias is None else bias[:, None])


def means(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(3) / x.shape[3], x.sum(2) / x.shape[2]


# -------------------------------------------------------------------------------------------------------------- ELA


def ela_oracle(groups: int, num_groups: int) -> Callable[[Tensor, State], Tensor]:
    def oracle(x: Tensor, p: State) -> Tensor:
        def gate(t: Tensor) -> Tensor:
            return torch.sigmoid(group_norm(convolution_1d(t, p, "conv", groups), p, "gn", num_groups))

        rows, columns = means(x)
        return x * gate(rows)[:, :, :, None] * gate(columns)[:, :, None, :]

    return oracle


@pytest.mark.parametrize(
    ("width", "arguments", "groups", "num_groups"),
    [
        (32, {}, 32, 16),
        (64, {"kernel_size": 5, "num_groups": 32}, 64, 32),
        (48, {"kernel_size": 5, "groups": 6}, 6, 16),
        (48, {"groups": 6, "bias": True}, 6, 16),
        (32, {"kernel_size": 1, "groups": 1, "bias": True}, 1, 16),
        (24, {}, 24, 8),
        (10, {}, 10, 2),
        (7, {"kernel_size": 3}, 7, 1),
    ],
)
@pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1)], ids=str)
def test_ela(width: int, arguments: dict[str, Any], groups: int, num_groups: int, size: tuple[int, int]) -> None:
    layer = randomise(ELA(width, **arguments))
    shapes = {"conv.weight": (width, width // groups, arguments.get("kernel_size", 7))}
    shapes |= {"conv.bias": (width,)} if "bias" in arguments else {}
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        **shapes,
        **{"gn.weight": (width,), "gn.bias": (width,)},
    }
    agree(layer, ela_oracle(groups, num_groups), features(2, width, *size))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)], ids=str)
def test_ela_serves_one_value_a_group(train: bool, size: tuple[int, int]) -> None:
    layer = randomise(ELA(16)).train(train)
    x = features(1, 16, *size).requires_grad_()
    expected = ela_oracle(16, 16)(x, layer.state_dict())
    assert distance(layer(x), expected) < 1e-11  # float64 noise
    layer(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert layer(x[:0]).shape == (0, 16, *size)


# ------------------------------------------------------------------------------------------------------------- SCSA


def scsa_oracle(
    heads: int = 1, window: int = 7, maximum: bool = False, soft: bool = False
) -> Callable[[Tensor, State], Tensor]:
    def gate(t: Tensor, dim: int) -> Tensor:
        return softmax(t, dim) if soft else torch.sigmoid(t)

    def strip(t: Tensor, p: State, norm: str) -> Tensor:
        quarter = t.shape[1] // 4
        names = "local_dwc", "global_dwc_s", "global_dwc_m", "global_dwc_l"
        parts = [
            convolution_1d(t[:, j * quarter : (j + 1) * quarter], p, name, quarter) for j, name in enumerate(names)
        ]
        return gate(group_norm(torch.cat(parts, 1), p, norm, 4), 2)

    def windows(u: Tensor) -> Tensor:
        h, w = (side if window == -1 else min(window, side) for side in u.shape[2:])
        rows = []
        for r in range(u.shape[2] // h):
            row = []
            for s in range(u.shape[3] // w):
                cut = u[:, :, r * h : (r + 1) * h, s * w : (s + 1) * w].flatten(2)
                row.append(cut.max(2).values if maximum and window != -1 else cut.sum(2) / (h * w))
            rows.append(torch.stack(row, 2))
        return torch.stack(rows, 2)

    def factors(t: Tensor, p: State, name: str) -> Tensor:
        y = t * p[f"{name}.weight"][:, 0]
        return y + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else y

    def oracle(x: Tensor, p: State) -> Tensor:
        rows, columns = means(x)
        u = x * strip(rows, p, "norm_h")[:, :, :, None] * strip(columns, p, "norm_w")[:, :, None, :]
        t = group_norm(windows(u), p, "norm", 1)
        q, k, v = (factors(t, p, name).flatten(2) for name in "qkv")
        d = x.shape[1] // heads
        mixed = []
        for j in range(heads):
            one, other, values = (part[:, j * d : (j + 1) * d] for part in (q, k, v))
            weights = softmax(torch.einsum("bcn,bdn->bcd", one, other) / d**0.5, 2)
            mixed.append(torch.einsum("bcd,bdn->bcn", weights, values).sum(2) / values.shape[2])
        return u * gate(torch.cat(mixed, 1), 1)[:, :, None, None]

    return oracle


@pytest.mark.parametrize(
    ("width", "arguments", "settings"),
    [
        (16, {}, {}),
        (32, {"head_num": 8}, {"heads": 8}),
        (16, {"head_num": 2, "window_size": 3, "qkv_bias": True}, {"heads": 2, "window": 3}),
        (16, {"window_size": -1, "attn_drop_ratio": 0.5}, {"window": -1}),
        (16, {"window_size": -1, "down_sample_mode": "max_pool"}, {"window": -1}),
        (24, {"window_size": 2, "group_kernel_sizes": [3, 3, 5, 11]}, {"window": 2}),
        (24, {"window_size": 4, "down_sample_mode": "max_pool"}, {"window": 4, "maximum": True}),
        (16, {"head_num": 4, "gate_layer": "softmax"}, {"heads": 4, "soft": True}),
        (4, {"head_num": 4, "window_size": 1}, {"heads": 4, "window": 1}),
    ],
)
@pytest.mark.parametrize("size", [(9, 15), (7, 7), (6, 20), (3, 2), (1, 1), (1, 8)], ids=str)
def test_scsa(width: int, arguments: dict[str, Any], settings: dict[str, Any], size: tuple[int, int]) -> None:
    layer = randomise(SCSA(width, **arguments)).eval()
    agree(layer, scsa_oracle(**settings), features(2, width, *size))


def test_scsa_keys_and_defaults() -> None:
    layer = SCSA(16, qkv_bias=True)
    names = "local_dwc", "global_dwc_s", "global_dwc_m", "global_dwc_l"
    shapes: dict[str, tuple[int, ...]] = {}
    for name, kernel in zip(names, (3, 5, 7, 9), strict=True):
        shapes |= {f"{name}.weight": (4, 1, kernel), f"{name}.bias": (4,)}
    for name in ("norm_h", "norm_w", "norm"):
        shapes |= {f"{name}.weight": (16,), f"{name}.bias": (16,)}
    for name in "qkv":
        shapes |= {f"{name}.weight": (16, 1, 1, 1), f"{name}.bias": (16,)}
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == shapes
    assert not {f"{name}.bias" for name in "qkv"} & set(SCSA(16).state_dict())
    assert (layer.head_num, layer.window_size, layer.gate_layer) == (1, 7, "sigmoid")


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_scsa_serves_one_value_a_group(train: bool) -> None:
    layer = randomise(SCSA(4)).train(train)
    x = features(1, 4, 1, 1).requires_grad_()
    assert distance(layer(x), scsa_oracle()(x, layer.state_dict())) < 1e-11  # float64 noise
    assert layer(x[:0]).shape == (0, 4, 1, 1)


def test_scsa_drops_entries_in_training_alone() -> None:
    layer, x = randomise(SCSA(16, attn_drop_ratio=0.5)), features(1, 16, 9, 9)
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))
    kept = randomise(SCSA(16)).train()
    assert torch.equal(kept(x), kept(x))


def test_scsa_prefers_one_of_equal_pixels() -> None:
    u = torch.ones(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    layer = SCSA(4, window_size=2, down_sample_mode="max_pool")
    layer._windows(u).sum().backward()
    assert u.grad.unique(return_counts=True)[1].tolist() == [4 * 21, 4 * 4]


@pytest.mark.parametrize("mode", ["avg_pool", "max_pool"])
def test_scsa_exported_from_a_large_map_serves_all_sizes(mode: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    layer = randomise(SCSA(16, 2, down_sample_mode=mode)).float().eval()
    buffer, axes = io.BytesIO(), {0: "batch", 2: "height", 3: "width"}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": axes, "y": axes}}
    torch.onnx.export(layer, (torch.randn(1, 16, 20, 20),), buffer, opset_version=17, dynamo=False, **names)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for shape in ((1, 16, 20, 20), (2, 16, 7, 16), (2, 16, 40, 33), (1, 16, 6, 6), (1, 16, 3, 9)):
        x = features(*shape).float()
        with torch.no_grad():
            expected = layer(x)
        y = torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]))
        assert distance(y, expected) < 1e-5, shape  # float32 noise of another implementation


def test_ela_loads_the_copy_with_a_full_convolution() -> None:
    layer = randomise(ELA(32, kernel_size=1, groups=1, bias=True))
    theirs = {
        key.replace("conv.", "conv1x1.0.").replace("gn.", "conv1x1.1."): v for key, v in layer.state_dict().items()
    }
    other = ELA(32, kernel_size=1, groups=1, bias=True).double()
    other.load_state_dict(theirs, strict=True)
    x = features(2, 32, 5, 7)
    assert "conv1x1.1.bias" in theirs and torch.equal(other(x), layer(x))


@pytest.mark.parametrize("layer", [ELA(64), SCSA(64), SCSA(64, gate_layer="softmax")], ids=lambda m: type(m).__name__)
def test_large_inputs_in_half_precision(layer: nn.Module) -> None:
    torch.manual_seed(0)
    assert half_precision_error(layer.double().eval(), 30 * features(1, 64, 20, 20), torch.float16) < 5e-3  # roundings


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ELA(0), "channels=0 must be an integer >= 1"),
        (lambda: ELA(32, 4), "kernel_size=4 must be an odd integer >= 1"),
        (lambda: ELA(32, 7, 5), "channels=32 is not divisible by groups=5"),
        (lambda: ELA(24, 7, None, 16), "channels=24 is not divisible by num_groups=16"),
        (lambda: ELA(24, 7, None, 0), "num_groups=0 must be an integer >= 1"),
        (lambda: ELA(32, 7, None, None, 2), "bias=2 must be True or False"),
        (lambda: SCSA(None), "channels=None must be an integer >= 1"),
        (lambda: SCSA(18), "channels=18 is not divisible by quarters=4"),
        (lambda: SCSA(16, 3), "channels=16 is not divisible by head_num=3"),
        (lambda: SCSA(16, 0), "head_num=0 must be an integer >= 1"),
        (lambda: SCSA(16, 1, 0), "window_size=0 must be an integer >= 1, or -1 for the whole map"),
        (lambda: SCSA(16, 1, -2), "window_size=-2 must be an integer >= 1, or -1 for the whole map"),
        (lambda: SCSA(16, 1, 7, [3, 5, 7]), "group_kernel_sizes=[3, 5, 7] must be 4 odd integers >= 1"),
        (lambda: SCSA(16, 1, 7, [3, 5, 7, 8]), "group_kernel_sizes=8 must be an odd integer >= 1"),
        (lambda: SCSA(16, 1, 7, 3), "group_kernel_sizes=3 must be 4 odd integers >= 1"),
        (lambda: SCSA(16, 1, 7, (3, 5, 7, 9), 2), "qkv_bias=2 must be True or False"),
        (
            lambda: SCSA(16, down_sample_mode="recombination"),
            "down_sample_mode='recombination' must be one of 'avg_pool', 'max_pool'",
        ),
        (lambda: SCSA(16, attn_drop_ratio=1), "attn_drop_ratio=1 must be a number in [0, 1)"),
        (lambda: SCSA(16, gate_layer="tanh"), "gate_layer='tanh' must be one of 'sigmoid', 'softmax'"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
