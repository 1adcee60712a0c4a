"""What a layer costs: the counters are right where a hand can count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_attn.bench import floor, measure


class Squares(nn.Module):
    """``(w x)^2 + exp(w x)``: keeps x, w x (twice, one storage) and the result of exp."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.weight
        return y * y.view(5, -1).view_as(y) + y.exp()


def test_bytes_kept_for_backward_count_each_storage_once_and_no_parameter() -> None:
    x = torch.randn(7, 5, requires_grad=True)
    assert measure.saved_bytes(Squares(), x) == 3 * 7 * 5 * 4
    assert measure.saved_bytes(nn.Flatten(), x) == 0


def test_a_read_of_a_value_is_found() -> None:
    x = torch.ones(3)
    assert measure.synchronisations(lambda _: x + 1) == {}
    assert measure.synchronisations(lambda _: x[0].item()) == {"aten::item": 1, "aten::_local_scalar_dense": 1}


def test_rounds_time_all_candidates_in_turning_order() -> None:
    calls: list[str] = []
    wait = torch.randn(300, 300)

    def call(name: str) -> measure.Call:
        return lambda _: (calls.append(name), wait @ wait)

    samples = measure.interleave({"a": call("a"), "b": call("b")}, 3)
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}
    turns = [name for name, previous in zip(calls, [None, *calls], strict=False) if name != previous]
    assert turns == ["a", "b", "a", "b", "a", "b"][: len(turns)]
    assert measure.ratio([2.0, 4.0, 6.0], [1.0, 1.0, 1.0]) == (4.0, 3.0, 5.0)


def test_operations_are_those_of_the_formula() -> None:
    width, pixels = 16, 20 * 20
    dense = 2 * pixels * width * width
    strips = 2 * pixels * width * (25 + 2 * (7 + 11 + 21))
    gate = 2 * 2 * 2 * width * (width // 4)  # two poolings through two layers
    forward, both = floor.flops("CPCA", (1, width, 20, 20))
    assert forward == 3 * dense + strips + gate
    assert both == 3 * forward


def test_the_floor_is_the_larger_of_moving_and_computing() -> None:
    shape, size = (2, 64, 20, 20), 4 * 2 * 64 * 20 * 20
    slow = {"bandwidth": 1e3, "matmul fp32": 1e30}
    assert floor.floor("SE", shape, "fp32", slow) == pytest.approx((3 * size / 1e3, 7 * size / 1e3))
    assert floor.floor("MHSA", shape, "fp32", slow) == pytest.approx((2 * size / 1e3, 5 * size / 1e3))
    for gate in ("ECA", "EMA", "SimAM", "Triplet", "Shuffle", "MLCA", "SK"):
        assert floor.floor(gate, shape, "fp32", slow) == floor.floor("SE", shape, "fp32", slow), gate
    weak = {"bandwidth": 1e30, "matmul fp32": 1e3}
    assert floor.floor("MHSA", shape, "fp32", weak) == pytest.approx([f / 1e3 for f in floor.flops("MHSA", shape)])
