"""The layers of several wide convolutions with norms (GAM, SK) against slow formulas."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from oracles import State, agree, convolution, features, randomise, softmax
from torch import Tensor, nn

from yolo_attn import registry
from yolo_attn.layers import GAM, SK

pytestmark = pytest.mark.usefixtures("form")

MODES = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
SHAPES = pytest.mark.parametrize(
    ("batch", "size"), [(3, (5, 4)), (1, (9, 2)), (2, (1, 1)), (1, (1, 1))], ids=["3x5x4", "1x9x2", "2x1x1", "1x1x1"]
)


def grouped(x: Tensor, p: State, name: str, groups: int) -> Tensor:
    """Grouped convolution with bias: one of each group's channels after the other."""
    weights, biases = p[f"{name}.weight"].chunk(groups), p[f"{name}.bias"].chunk(groups)
    return torch.cat([convolution(*each) for each in zip(x.chunk(groups, 1), weights, biases, strict=True)], 1)


def batch_norm(x: Tensor, p: State, name: str, train: bool) -> Tensor:
    """Batch norm by its definition; one value per channel takes the running statistics."""
    mean, var = p[f"{name}.running_mean"][:, None, None], p[f"{name}.running_var"][:, None, None]
    n = x.numel() // x.shape[1]
    if train and n > 1:
        mean = x.sum((0, 2, 3))[:, None, None] / n
        var = (x - mean).square().sum((0, 2, 3))[:, None, None] / n
    z = (x - mean) / (var + 1e-5).sqrt()
    return z * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


def trains(layer: nn.Module, oracle: Callable[[Tensor, State], Tensor], x: Tensor) -> None:
    """Compare with the formula, and whether the running statistics moved: only in train mode, by several values."""
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    agree(layer, oracle, x)
    moves = layer.training and x.numel() > x.shape[1]
    assert all(torch.equal(buffer, before[name]) is not moves for name, buffer in layer.named_buffers())


# -------------------------------------------------------------------------------------------------------------- GAM


def gam_oracle(train: bool, rate: int, sigmoid: bool, groups: int) -> Callable[[Tensor, State], Tensor]:
    def linear(x: Tensor, p: State, name: str) -> Tensor:
        return torch.einsum("bchw,oc->bohw", x, p[f"{name}.weight"]) + p[f"{name}.bias"][:, None, None]

    def oracle(x: Tensor, p: State) -> Tensor:
        a = linear(linear(x, p, "channel_attention.0").clamp(min=0), p, "channel_attention.2")
        u = x * (torch.sigmoid(a) if sigmoid else a)
        t = batch_norm(grouped(u, p, "spatial_attention.0", groups), p, "spatial_attention.1", train).clamp(min=0)
        s = torch.sigmoid(batch_norm(grouped(t, p, "spatial_attention.3", groups), p, "spatial_attention.4", train))
        if groups > 1:
            c = x.shape[1]
            s = torch.stack([s[:, (j % 4) * (c // 4) + j // 4] for j in range(c)], 1)
        return u * s

    return oracle


@MODES
@SHAPES
@pytest.mark.parametrize(("width", "rate", "hidden"), [(8, 4, 2), (3, 4, 1), (7, 2, 3)])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_gam(width: int, rate: int, hidden: int, sigmoid: bool, batch: int, size: tuple[int, int], train: bool) -> None:
    layer = randomise(GAM(width, rate, sigmoid)).train(train)
    assert layer.channel_attention[0].weight.shape == (hidden, width)
    assert layer.spatial_attention[0].weight.shape == (hidden, width, 7, 7)
    trains(layer, gam_oracle(train, rate, sigmoid, 1), features(batch, width, *size))


@MODES
@SHAPES
@pytest.mark.parametrize(("width", "rate"), [(16, 4), (8, 2), (36, 3)])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_gam_in_groups(width: int, rate: int, sigmoid: bool, batch: int, size: tuple[int, int], train: bool) -> None:
    layer = randomise(GAM(width, rate, sigmoid, True)).train(train)
    hidden = width // rate
    assert layer.spatial_attention[0].weight.shape == (hidden, width // rate, 7, 7)
    assert layer.spatial_attention[3].weight.shape == (width, hidden // rate, 7, 7)
    trains(layer, gam_oracle(train, rate, sigmoid, rate), features(batch, width, *size))


# --------------------------------------------------------------------------------------------------------------- SK


def sk_oracle(train: bool, kernels: int, groups: int) -> Callable[[Tensor, State], Tensor]:
    def oracle(x: Tensor, p: State) -> Tensor:
        maps = [
            batch_norm(grouped(x, p, f"convs.{j}.conv", groups), p, f"convs.{j}.bn", train).clamp(min=0)
            for j in range(kernels)
        ]
        u = sum(maps)
        z = u.sum((2, 3)) / (u.shape[2] * u.shape[3]) @ p["fc.weight"].T + p["fc.bias"]
        logits = torch.stack([z @ p[f"fcs.{j}.weight"].T + p[f"fcs.{j}.bias"] for j in range(kernels)])
        return (softmax(logits, 0)[..., None, None] * torch.stack(maps)).sum(0)

    return oracle


@MODES
@SHAPES
@pytest.mark.parametrize(
    ("width", "kernels", "reduction", "group", "least", "hidden"),
    [(6, [1, 3, 5, 7], 16, 1, 32, 32), (8, (3, 5), 2, 4, 3, 4), (9, [9], 3, 3, 1, 3)],
)
def test_sk(
    width: int,
    kernels: list[int],
    reduction: int,
    group: int,
    least: int,
    hidden: int,
    batch: int,
    size: tuple[int, int],
    train: bool,
) -> None:
    layer = randomise(SK(width, kernels, reduction, group, least)).train(train)
    shapes = {k: tuple(v.shape) for k, v in layer.state_dict().items()}
    assert shapes["fc.weight"] == (hidden, width) and shapes["fcs.0.weight"] == (width, hidden)
    assert [shapes[f"convs.{j}.conv.weight"] for j in range(len(kernels))] == [
        (width, width // group, k, k) for k in kernels
    ]
    trains(layer, sk_oracle(train, len(kernels), group), features(batch, width, *size))


def test_sk_has_four_kernels() -> None:
    assert sum(p.numel() for p in SK(64).parameters()) == 355_360


# -------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(("name", "arguments"), [("GAM", {}), ("GAM", {"grouped": True}), ("SK", {"kernels": [1, 3]})])
def test_a_compiled_layer_is_one_graph_and_agrees(name: str, arguments: dict) -> None:
    layer = registry.create(name, 16, **arguments).double().eval()
    x = features(2, 16, 6, 7).requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    one, other = ((y, *torch.autograd.grad(y.sum(), x)) for y in (compiled(x), layer(x)))
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GAM(64, 0), "rate=0 must be an integer >= 1"),
        (lambda: GAM(64, 4, "no"), "channel_sigmoid='no' must be True or False"),
        (lambda: GAM(64, 4, True, None), "grouped=None must be True or False"),
        (lambda: GAM(62, 4, True, True), "channels=62 is not divisible by rate=4"),
        (lambda: GAM(24, 4, True, True), "channels // rate=6 is not divisible by rate=4"),
        (lambda: GAM(18, 3, True, True), "channels=18 is not divisible by shuffled groups=4"),
        (lambda: SK(64, 3), "kernels=3 must be a list of odd integers >= 1"),
        (lambda: SK(64, []), "kernels=[] must be a list of odd integers >= 1"),
        (lambda: SK(64, "35"), "kernels='35' must be a list of odd integers >= 1"),
        (lambda: SK(64, [3, 4]), "kernels=4 must be an odd integer >= 1"),
        (lambda: SK(64, [3], 0), "reduction=0 must be an integer >= 1"),
        (lambda: SK(64, [3], 16, 0), "group=0 must be an integer >= 1"),
        (lambda: SK(10, [3], 16, 4), "channels=10 is not divisible by group=4"),
        (lambda: SK(64, [3], 16, 1, 0), "L=0 must be an integer >= 1"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
