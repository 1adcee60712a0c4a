"""The layers that multiply the map by a far-reaching linear map of itself (LSKA, LSK) against slow formulas."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from oracles import State, agree, convolution, depthwise, features, pointwise, randomise
from torch import Tensor

from yolo_attn.layers import LSK, LSKA, LSKBlock, LSKblock

pytestmark = pytest.mark.usefixtures("form")

# kernel_size: near, far, dilation, as the paper's table has them
TABLE = {7: (3, 3, 2), 11: (3, 5, 2), 23: (5, 7, 3), 35: (5, 11, 3), 41: (5, 13, 3), 53: (5, 17, 3)}


def lska_oracle(dilation: int) -> Callable[[Tensor, State], Tensor]:
    def oracle(x: Tensor, p: State) -> Tensor:
        t = depthwise(depthwise(x, p, "conv0h"), p, "conv0v")
        t = depthwise(depthwise(t, p, "conv_spatial_h", dilation), p, "conv_spatial_v", dilation)
        return x * pointwise(t, p, "conv1")

    return oracle


@pytest.mark.parametrize("kernel", TABLE)
@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 3, 1, 5), (3, 1, 1, 1)], ids=str)
def test_lska(kernel: int, shape: tuple[int, ...]) -> None:
    near, far, dilation = TABLE[kernel]
    c = shape[1]
    layer = randomise(LSKA(c, kernel))
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        **{"conv0h.weight": (c, 1, 1, near), "conv0h.bias": (c,)},
        **{"conv0v.weight": (c, 1, near, 1), "conv0v.bias": (c,)},
        **{"conv_spatial_h.weight": (c, 1, 1, far), "conv_spatial_h.bias": (c,)},
        **{"conv_spatial_v.weight": (c, 1, far, 1), "conv_spatial_v.bias": (c,)},
        **{"conv1.weight": (c, c, 1, 1), "conv1.bias": (c,)},
    }
    agree(layer, lska_oracle(dilation), features(*shape))


@pytest.mark.parametrize("kernel", TABLE)
def test_lska_reaches_as_far_as_its_kernel(kernel: int) -> None:
    layer = randomise(LSKA(1, kernel))
    side = kernel + 4
    x = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    layer(x)[0, 0, side // 2, side // 2].backward()
    seen = x.grad[0, 0] != 0
    assert seen.any(0).sum() == seen.any(1).sum() == kernel


def test_lska_defaults() -> None:
    assert LSKA(8).kernel_size == 7


def lsk_oracle(x: Tensor, p: State) -> Tensor:
    u = depthwise(x, p, "conv0")
    v = depthwise(u, p, "conv_spatial", 3)
    both = torch.cat([pointwise(u, p, "conv1"), pointwise(v, p, "conv2")], 1)
    pooled = torch.stack([both.sum(1) / both.shape[1], both.max(1).values], 1)
    gates = torch.sigmoid(convolution(pooled, p["conv_squeeze.weight"], p["conv_squeeze.bias"]))
    h = both.shape[1] // 2
    blend = sum(both[:, j * h : (j + 1) * h] * gates[:, j : j + 1] for j in (0, 1))
    return x * pointwise(blend, p, "conv")


@pytest.mark.parametrize("shape", [(2, 8, 9, 7), (3, 7, 4, 25), (1, 2, 3, 1), (2, 3, 1, 1), (1, 12, 1, 8)], ids=str)
def test_lsk(shape: tuple[int, ...]) -> None:
    c, h = shape[1], shape[1] // 2
    layer = randomise(LSK(c))
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        **{"conv0.weight": (c, 1, 5, 5), "conv0.bias": (c,)},
        **{"conv_spatial.weight": (c, 1, 7, 7), "conv_spatial.bias": (c,)},
        **{"conv1.weight": (h, c, 1, 1), "conv1.bias": (h,)},
        **{"conv2.weight": (h, c, 1, 1), "conv2.bias": (h,)},
        **{"conv_squeeze.weight": (2, 2, 7, 7), "conv_squeeze.bias": (2,)},
        **{"conv.weight": (c, h, 1, 1), "conv.bias": (c,)},
    }
    agree(layer, lsk_oracle, features(*shape))


def test_lsk_prefers_one_of_equal_channels() -> None:
    layer = randomise(LSK(4))
    with torch.no_grad():
        layer.conv2.weight.copy_(layer.conv1.weight.copy_(torch.ones_like(layer.conv1.weight)))
        layer.conv2.bias.copy_(layer.conv1.bias.copy_(torch.zeros_like(layer.conv1.bias)))
        layer.conv_spatial.weight.zero_()
        layer.conv_spatial.weight[:, :, 3, 3] = 1
        layer.conv_spatial.bias.zero_()  # now all channels that the maximum sees are equal
        layer.conv.weight.fill_(1)
    agree(layer, lsk_oracle, features(1, 4, 3, 3))


@pytest.mark.parametrize("alias", [LSKblock, LSKBlock])
def test_lsk_has_the_names_of_its_copies(alias: type) -> None:
    assert alias is LSK


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LSKA(0), "channels=0 must be an integer >= 1"),
        (lambda: LSKA(8, 9), "kernel_size=9 must be one of 7, 11, 23, 35, 41, 53"),
        (lambda: LSKA(8, "7"), "kernel_size='7' must be one of 7, 11, 23, 35, 41, 53"),
        (lambda: LSKA(8, [7]), "kernel_size=[7] must be one of 7, 11, 23, 35, 41, 53"),
        (lambda: LSKA(8, 7.0), "kernel_size=7.0 must be an integer >= 1"),
        (lambda: LSK(1), "channels=1 must be an integer >= 2"),
        (lambda: LSK("8"), "channels='8' must be an integer >= 2"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
