"""The gates of few parameters (ECA, EMA, SimAM, Triplet, Shuffle, MLCA) against slow formulas."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from oracles import State, agree, convolution, features, group_norm, pointwise, randomise, softmax
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_attn import registry
from yolo_attn.layers import ECA, EMA, MLCA, Shuffle, SimAM, Triplet
from yolo_attn.layers.eca import adaptive_kernel_size
from yolo_attn.layers.mlca import bin_means

pytestmark = pytest.mark.usefixtures("form")

SIZES = pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1), (1, 1)], ids=str)


def mean(x: Tensor) -> Tensor:
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def sliding(sequence: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """One filter along the last axis, zeros outside, as a sum of shifted sequences."""
    k, length = weight.numel(), sequence.shape[-1]
    padded = F.pad(sequence, (k // 2, k // 2))
    return bias + sum(weight.flatten()[j] * padded[..., j : j + length] for j in range(k))


# -------------------------------------------------------------------------------------------------------------- ECA


def eca_oracle(x: Tensor, p: State) -> Tensor:
    return x * torch.sigmoid(sliding(mean(x), p["conv.weight"], p.get("conv.bias", 0.0)))[:, :, None, None]


@SIZES
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "kernel"), [(9, 3), (4, 9), (1, 1), (130, None)])
def test_eca(width: int, kernel: int | None, bias: bool, size: tuple[int, int]) -> None:
    layer = randomise(ECA(width, kernel, bias=bias))
    assert set(layer.state_dict()) == {"conv.weight", *(["conv.bias"] if bias else [])}
    assert layer.conv.weight.shape == (1, 1, kernel or 5)
    agree(layer, eca_oracle, features(2, width, *size))


def test_the_kernel_is_the_odd_number_nearest_to_the_rule() -> None:
    for width in range(2, 3000):
        exact = (math.log2(width) + 1) / 2
        odds = [k for k in range(1, 12, 2) if abs(k - exact) == min(abs(j - exact) for j in range(1, 12, 2))]
        assert adaptive_kernel_size(width, 2, 1) == max(odds), width
    kernels = {1: 1, 7: 1, 8: 3, 48: 3, 80: 3, 127: 3, 128: 5, 144: 5, 640: 5, 2047: 5, 2048: 7, 32767: 7}
    assert {width: ECA(width).kernel_size for width in kernels} == kernels
    assert ECA(64, gamma=1).kernel_size == 7 and ECA(64, gamma=1, b=2.5).kernel_size == 9
    assert ECA(64, gamma=2, b=-20).kernel_size == 7


def test_eca_loads_states_that_call_the_filter_conv1() -> None:
    one, other = ECA(16, 5), ECA(16, 5)
    renamed = {"conv1.weight": one.conv.weight.detach()}
    other.load_state_dict(renamed)
    assert torch.equal(other.conv.weight, one.conv.weight) and list(renamed) == ["conv1.weight"]
    model = nn.Sequential(nn.Identity(), ECA(16, 5))
    model.load_state_dict({"1.conv1.weight": one.conv.weight.detach()})
    assert torch.equal(model[1].conv.weight, one.conv.weight)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"conv1.weight"'):
        other.load_state_dict({**renamed, "conv.weight": torch.zeros(1, 1, 5)})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"conv.bias"'):
        other.load_state_dict({**renamed, "conv1.bias": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r'Missing key.*"conv.weight"'):
        other.load_state_dict({})


# -------------------------------------------------------------------------------------------------------------- EMA


def ema_oracle(groups: int) -> Callable[[Tensor, State], Tensor]:
    def gate(u: Tensor, p: State) -> Tensor:
        h, w = u.shape[2:]
        rows = pointwise(u.sum(3, keepdim=True) / w, p, "conv1x1")
        columns = pointwise(u.sum(2, keepdim=True) / h, p, "conv1x1")
        a = group_norm(u * torch.sigmoid(rows) * torch.sigmoid(columns), p, "gn", u.shape[1])
        q = convolution(u, p["conv3x3.weight"], p["conv3x3.bias"])
        t = (softmax(mean(a), 1)[:, :, None, None] * q + softmax(mean(q), 1)[:, :, None, None] * a).sum(1)
        return torch.sigmoid(t)[:, None]

    return lambda x, p: torch.cat([u * gate(u, p) for u in x.chunk(groups, 1)], 1)


@SIZES
@pytest.mark.parametrize(("width", "factor"), [(12, 3), (8, 8), (5, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_ema(width: int, factor: int, size: tuple[int, int], batch: int) -> None:
    layer = randomise(EMA(width, factor))
    n = width // factor
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        **{"gn.weight": (n,), "gn.bias": (n,)},
        **{"conv1x1.weight": (n, n, 1, 1), "conv1x1.bias": (n,)},
        **{"conv3x3.weight": (n, n, 3, 3), "conv3x3.bias": (n,)},
    }
    agree(layer, ema_oracle(factor), features(batch, width, *size))


def test_ema_has_eight_groups() -> None:
    assert EMA(64).factor == 8 and EMA(64).gn.num_channels == 8


# ------------------------------------------------------------------------------------------------------------ SimAM


def simam_oracle(e_lambda: float) -> Callable[[Tensor, State], Tensor]:
    def oracle(x: Tensor, p: State) -> Tensor:
        d = (x - mean(x)[:, :, None, None]) ** 2
        v = d.sum((2, 3), keepdim=True) / max(x.shape[2] * x.shape[3] - 1, 1)
        return x / (1 + torch.exp(-(d / (4 * (v + e_lambda)) + 0.5)))

    return oracle


@SIZES
@pytest.mark.parametrize("e_lambda", [1e-4, 0.5, 1])
def test_simam(e_lambda: float, size: tuple[int, int]) -> None:
    layer = SimAM(6, e_lambda)
    assert not layer.state_dict()
    layer.load_state_dict({})
    agree(layer, simam_oracle(e_lambda), features(2, 6, *size))


def test_simam_of_a_constant_map_is_a_constant_gate() -> None:
    for size in ((1, 1), (3, 4)):
        x = torch.full((1, 2, *size), 3.0, dtype=torch.float64)
        assert torch.allclose(SimAM(2)(x), x * torch.sigmoid(torch.tensor(0.5, dtype=torch.float64)))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)], ids=str)
def test_simam_of_large_maps_in_half_precision(dtype: torch.dtype, limit: float) -> None:
    # The sum of squares is 30 times what float16 can hold. The limits are two roundings of the types.
    x = (20 * features(1, 4, 80, 80)).to(dtype)
    y = SimAM(4).to(dtype)(x)
    exact = SimAM(4)(x.double())
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= limit * exact.abs()).all()


# ---------------------------------------------------------------------------------------------------------- Triplet


def triplet_oracle(train: bool) -> Callable[[Tensor, State], Tensor]:
    def plane(x: Tensor, p: State, gate: str) -> Tensor:
        """Return the gate of the last two axes of (B, reduced, rows, columns)."""
        z = torch.stack([x.max(1).values, x.sum(1) / x.shape[1]], 1)
        t = convolution(z, p[f"{gate}.conv.conv.weight"])
        m, v = p[f"{gate}.conv.bn.running_mean"], p[f"{gate}.conv.bn.running_var"]
        if train and t.numel() > 1:
            m = t.sum() / t.numel()
            v = (t - m).square().sum() / t.numel()
        t = (t - m) / (v + 1e-5).sqrt() * p[f"{gate}.conv.bn.weight"] + p[f"{gate}.conv.bn.bias"]
        return torch.sigmoid(t)

    def oracle(x: Tensor, p: State) -> Tensor:
        cw = plane(x.permute(0, 2, 1, 3), p, "cw").permute(0, 2, 1, 3)
        hc = plane(x.permute(0, 3, 2, 1), p, "hc").permute(0, 3, 2, 1)
        products = [x * cw, x * hc, *([x * plane(x, p, "hw")] if "hw.conv.conv.weight" in p else [])]
        return sum(products) / len(products)

    return oracle


@SIZES
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("no_spatial", [True, False])
@pytest.mark.parametrize(("batch", "width"), [(2, 5), (1, 9), (1, 1)])
def test_triplet(batch: int, width: int, size: tuple[int, int], no_spatial: bool, train: bool) -> None:
    layer = randomise(Triplet(width, no_spatial)).train(train)
    assert any(key.startswith("hw.") for key in layer.state_dict()) is not no_spatial
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    agree(layer, triplet_oracle(train), features(batch, width, *size))
    cells = {"cw": width * size[1], "hc": size[0] * width, "hw": size[0] * size[1]}
    for gate in cells if not no_spatial else ("cw", "hc"):
        moves = train and batch * cells[gate] > 1
        name = f"{gate}.conv.bn.running_mean"
        assert torch.equal(layer.get_buffer(name), before[name]) is not moves, gate


def test_triplet_prefers_one_of_equal_values() -> None:
    layer = randomise(Triplet(3)).eval()
    x = torch.ones(1, 3, 4, 5, dtype=torch.float64)
    agree(layer, triplet_oracle(False), x)  # ``max`` of the formula gives the gradient to one value


def test_triplet_remembers_slowly() -> None:
    assert {m.momentum for m in Triplet(4).modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}


def test_triplet_loads_states_of_the_older_file() -> None:
    one, other = randomise(Triplet(6)).eval(), Triplet(6).double().eval()
    older = {"cw": "ChannelGateH", "hc": "ChannelGateW", "hw": "SpatialGate"}
    state = {f"{older[k[:2]]}.spatial.{k[len('cw.conv.') :]}": v for k, v in one.state_dict().items()}
    assert "ChannelGateW.spatial.bn.running_var" in state
    other.load_state_dict(state)
    x = features(2, 6, 5, 4)
    assert torch.equal(one(x), other(x))
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"hw\.'):
        Triplet(6, no_spatial=True).load_state_dict(state)


# ---------------------------------------------------------------------------------------------------------- Shuffle


def shuffle_oracle(groups: int) -> Callable[[Tensor, State], Tensor]:
    def oracle(x: Tensor, p: State) -> Tensor:
        gated = []
        for u in x.chunk(groups, 1):
            a, d = u.chunk(2, 1)
            a = a * torch.sigmoid(p["cweight"] * mean(a)[:, :, None, None] + p["cbias"])
            d = d * torch.sigmoid(p["sweight"] * group_norm(d, p, "gn", d.shape[1]) + p["sbias"])
            gated += [a, d]
        y, c = torch.cat(gated, 1), x.shape[1]
        return torch.stack([y[:, (j % 2) * (c // 2) + j // 2] for j in range(c)], 1)

    return oracle


@SIZES
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("width", "groups"), [(12, 3), (16, 8), (2, 1), (8, 2)])
def test_shuffle(width: int, groups: int, batch: int, size: tuple[int, int]) -> None:
    layer = randomise(Shuffle(width, groups))
    half = (1, width // (2 * groups), 1, 1)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        **dict.fromkeys(("cweight", "cbias", "sweight", "sbias"), half),
        **dict.fromkeys(("gn.weight", "gn.bias"), half[1:2]),
    }
    agree(layer, shuffle_oracle(groups), features(batch, width, *size))


def test_a_fresh_shuffle_is_a_constant_gate_and_a_permutation() -> None:
    x = features(2, 16, 3, 4)
    y = Shuffle(16).double()(x) / torch.sigmoid(torch.ones((), dtype=torch.float64))
    assert torch.allclose(y[:, ::2], x[:, :8]) and torch.allclose(y[:, 1::2], x[:, 8:])


# ------------------------------------------------------------------------------------------------------------- MLCA


@pytest.mark.parametrize("length", [1, 2, 4, 5, 7, 13, 20])
@pytest.mark.parametrize("bins", [1, 3, 5, 8])
def test_bins_are_those_of_adaptive_pooling(length: int, bins: int) -> None:
    x = features(1, 1, length)
    matrix = bin_means(length, bins, x)
    assert matrix.dtype == x.dtype
    assert torch.allclose(x @ matrix.T, F.adaptive_avg_pool1d(x, bins), rtol=1e-12, atol=1e-12)


def mlca_oracle(n: int, share: float) -> Callable[[Tensor, State], Tensor]:
    def oracle(x: Tensor, p: State) -> Tensor:
        cells = F.adaptive_avg_pool2d(x, n)
        g = torch.sigmoid(sliding(mean(cells), p["conv.weight"]))[:, :, None, None]
        sequence = torch.cat([cells[:, :, r, s] for r in range(n) for s in range(n)], 1)
        local = torch.sigmoid(sliding(sequence, p["conv_local.weight"])).chunk(n * n, 1)
        rows = [torch.stack(local[r * n : r * n + n], 2) for r in range(n)]
        mixed = (1 - share) * g + share * torch.stack(rows, 2)
        return x * F.adaptive_avg_pool2d(mixed, x.shape[2:])

    return oracle


@pytest.mark.parametrize("size", [(10, 15), (9, 13), (3, 7), (1, 6), (1, 1)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("width", "local_size", "share"), [(9, 5, 0.5), (3, 1, 0.3), (8, 3, 1), (8, 4, 0)])
def test_mlca(width: int, local_size: int, share: float, batch: int, size: tuple[int, int]) -> None:
    layer = randomise(MLCA(width, local_size, local_weight=share))
    assert set(layer.state_dict()) == {"conv.weight", "conv_local.weight"}
    agree(layer, mlca_oracle(local_size, share), features(batch, width, *size))


def test_mlca_takes_the_kernel_of_eca() -> None:
    for width, gamma, b in ((7, 2, 1), (8, 2, 1), (128, 2, 1), (64, 1, 1), (64, 2, 5.0)):
        k = ECA(width, gamma=gamma, b=b).kernel_size
        layer = MLCA(width, gamma=gamma, b=b)
        assert layer.conv.kernel_size == layer.conv_local.kernel_size == (k,)


# -------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("name", ["ECA", "EMA", "SimAM", "Triplet", "Shuffle", "MLCA"])
def test_a_compiled_layer_is_one_graph_and_agrees(name: str) -> None:
    layer = registry.create(name, 16).double().eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for shape in ((1, 16, 9, 10), (2, 16, 12, 7)):
        x = features(*shape).requires_grad_()
        one, other = ((y, *torch.autograd.grad(y.sum(), x)) for y in (compiled(x), layer(x)))
        assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ECA(64, 4), "kernel_size=4 must be an odd integer >= 1"),
        (lambda: ECA(64, 0), "kernel_size=0 must be an odd integer >= 1"),
        (lambda: ECA(64, 3, 0), "gamma=0 must be a number > 0"),
        (lambda: ECA(64, None, 2, "1"), "b='1' must be a finite number"),
        (lambda: ECA(64, gamma=1e-9), "gamma=1e-09 with b=1.0 asks for a kernel of 7e+09 channels; 255 are allowed"),
        (lambda: ECA(64, gamma=5e-324), "gamma=5e-324 with b=1.0 asks for a kernel of inf channels; 255 are allowed"),
        (lambda: MLCA(64, b=1e3), "gamma=2.0 with b=1000.0 asks for a kernel of 503 channels; 255 are allowed"),
        (lambda: EMA(48, 32), "channels=48 is not divisible by factor=32"),
        (lambda: EMA(4), "channels=4 is not divisible by factor=8"),
        (lambda: EMA(64, 0), "factor=0 must be an integer >= 1"),
        (lambda: SimAM(64, 0), "e_lambda=0 must be a number > 0"),
        (lambda: SimAM(64, -1e-4), "e_lambda=-0.0001 must be a number > 0"),
        (lambda: SimAM(64, float("nan")), "e_lambda=nan must be a finite number"),
        (lambda: Triplet(64, None), "no_spatial=None must be True or False"),
        (lambda: Shuffle(24, 8), "channels=24 is not divisible by 2 * groups=16"),
        (lambda: Shuffle(8, 8), "channels=8 is not divisible by 2 * groups=16"),
        (lambda: Shuffle(64, 64), "channels=64 is not divisible by 2 * groups=128"),
        (lambda: Shuffle(64, 0), "groups=0 must be an integer >= 1"),
        (lambda: MLCA(64, 0), "local_size=0 must be an integer >= 1"),
        (lambda: MLCA(64, 5, -1), "gamma=-1 must be a number > 0"),
        (lambda: MLCA(64, 5, 2, 1, 1.5), "local_weight=1.5 must be a number in [0, 1]"),
        (lambda: MLCA(64, 5, 2, 1, -0.1), "local_weight=-0.1 must be a number in [0, 1]"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
