"""Peak memory of a model: right where a hand can count, and the same whether simulated or computed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolo_attn.bench import memory


class Wide(nn.Module):
    """``relu(w x)`` where an intermediate map is ten times the input."""

    last = ""  # kind of tensor that came in

    def __init__(self, looks: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10, 1, 1))
        self.looks = looks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Wide.last = type(x).__name__
        y = torch.relu(x * self.weight)
        if self.looks and y.sum().item() < 0:
            return -y
        return y.sum(0)


FLOAT, SIDE = 4, 16
MAP, WEIGHT = FLOAT * SIDE * SIDE, FLOAT * 10


def test_alive_tensors_are_counted_while_they_live_each_storage_once() -> None:
    x = torch.ones(SIDE, SIDE)
    with memory.AliveBytes([x, x]) as alive:
        y = x + 1
        y.view(-1).mul_(2)  # no storage of its own
        z = y + 1
        del y
        kept = z * 2
    assert alive.peak == 3 * MAP
    assert alive.now == 3 * MAP and kept.shape == x.shape


def test_a_prediction_frees_what_it_needs_no_more() -> None:
    layer, x = Wide(), torch.ones(SIDE, SIDE)
    with torch.no_grad():
        found = memory.of_inference(lambda: layer(x), [layer.weight, x])
    assert found == WEIGHT + MAP + 20 * MAP  # product and relu


@pytest.mark.parametrize("looks", [False, True], ids=["simulated", "computed, for it looks at values"])
def test_training_counts_weights_gradients_and_what_backward_needs(looks: bool) -> None:
    layer, x = Wide(looks), torch.ones(SIDE, SIDE)
    found = memory.of_training(layer, x)
    maps = 1 + 10 + 10 + 1  # input, relu's output, its gradient, gradient of the result
    assert 0 <= found - (maps * MAP + 2 * WEIGHT) <= 4 * FLOAT  # and some scalars
    assert layer.weight.grad is None, "the model is left as it was"
    assert Wide.last == ("Tensor" if looks else "FakeTensor")


def test_a_simulated_step_takes_what_a_computed_one_does() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 1))
    x = torch.rand(2, 3, 32, 32)
    assert memory.of_training(model, x) == memory._count(copy.deepcopy(model), x)
