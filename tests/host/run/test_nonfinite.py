"""NaN and inf are found by the name of the layer, and looking for them changes nothing."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import yolo_attn
from yolo_attn.host.run import nonfinite

tasks = pytest.importorskip("ultralytics.nn.tasks")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    yolo_attn.install()
    torch.manual_seed(0)
    config = tasks.yaml_model_load("yolov8n-cbam.yaml")
    config["backbone"][-1][3] = [{"gate": True}]
    return tasks.DetectionModel(config, verbose=False).train()


def overflow(module: nn.Module) -> None:
    """Let a convolution give inf from weights that are finite."""
    with torch.no_grad():
        module.weight.fill_(1e38)


class Ruin(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


def test_a_sound_model_has_nothing_to_report(model: nn.Module) -> None:
    assert nonfinite.not_finite(nonfinite.magnitudes(model)) == []
    assert nonfinite.first_output(model, IMAGES) is None
    text = nonfinite.diagnose(model, IMAGES, Path("absent"), nullcontext)
    assert text == "no layer's output is non-finite: look at the loss and at the boxes of the batch (weights finite)"


def test_the_first_module_is_named_with_its_row(model: nn.Module) -> None:
    overflow(model.model[10].layer.spatial_attention.conv)
    overflow(model.model[22].cv1.conv)
    text = nonfinite.diagnose(model, IMAGES, Path("absent"), nullcontext)
    assert text == "first non-finite value: output of model.10 CBAM.spatial_attention.conv (weights finite)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_and_buffers_are_named(model: nn.Module, value: float, tmp_path: Path) -> None:
    model.model[4].cv1.bn.running_var[3] = value
    with torch.no_grad():
        model.model[10].layer.channel_attention.se_block[0].weight.view(-1)[0] = value
    names = ["model.4.cv1.bn.running_var", "model.10.layer.channel_attention.se_block.0.weight"]
    assert nonfinite.not_finite(nonfinite.magnitudes(model)) == names
    text = nonfinite.diagnose(model, IMAGES, tmp_path / "last.pt", nullcontext)
    total = len(model.state_dict())
    assert text == f"2 of {total} tensors of the weights are non-finite, first model.4 C2f.cv1.bn.running_var"
    assert nonfinite.readable(model, names[1]) == "model.10 CBAM.channel_attention.se_block.0.weight"


def test_ruined_weights_are_replaced_by_those_of_the_last_checkpoint(model: nn.Module, tmp_path: Path) -> None:
    overflow(model.model[10].layer.spatial_attention.conv)
    torch.save({"ema": model, "epoch": 4}, tmp_path / "last.pt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    text = nonfinite.diagnose(model, IMAGES, tmp_path / "last.pt", nullcontext)
    assert text.startswith(
        "first non-finite value: output of model.10 CBAM.spatial_attention.conv, with the weights of last.pt (epoch 5)"
    )
    assert all(parameter.isnan().all() for parameter in model.parameters())


def test_a_batch_that_is_not_finite_is_named(model: nn.Module) -> None:
    images = IMAGES.clone()
    images[1, 0, 0, 0] = float("nan")
    assert "the images of the batch" in nonfinite.diagnose(model, images, Path("absent"), nullcontext)


@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_nothing(model: nn.Module, training: bool) -> None:
    model.train(training)
    model.model[3].bn.eval()
    model.model[5].act = nn.Dropout()
    model.model[22].cv1.act = Ruin()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    assert nonfinite.first_output(model, IMAGES) == ("model.22.cv1.act", True)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_magnitudes_are_the_largest_of_each_tensor() -> None:
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-70000.0, 3.0]]))
        module.bias.fill_(-2)
    assert nonfinite.magnitudes(module) == {"weight": 70000.0, "bias": 2.0}
