"""Every tensor of a base arrives, and an inserted layer starts as the identity: outputs equal bit for bit."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import yolo_attn
from experiments.transfer_table import randomise
from yolo_attn import registry
from yolo_attn.errors import RowError
from yolo_attn.graft import graft_all
from yolo_attn.host.model import transfer
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")
LOGGER = pytest.importorskip("ultralytics.utils").LOGGER

# One model per family; families that an older host has not are left out.
FAMILIES = [
    "yolov8n", "yolo11n", "yolo26n", "yolov5n", "yolo12n", "yolov10n", "yolov9t", "yolov6n", "yolov3-tiny",
    "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "rtdetr-l",
]  # fmt: skip
PLACES = ["backbone", "stages", "neck"]
QUICK = {("yolov8n", "stages"), ("yolo11n", "neck"), ("yolo26n", "backbone"), ("yolov8n-seg", "neck")}
PAIRS = [
    pytest.param(family, place, marks=() if (family, place) in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for place in PLACES
]


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


def model_of(name: str, **changes):
    """Return the model of a YAML name as the host's task class builds it."""
    config = tasks.yaml_model_load(f"{name}.yaml") | changes
    head = config["head"][-1][2]
    classes = {
        "Classify": tasks.ClassificationModel, "Segment": tasks.SegmentationModel, "Pose": tasks.PoseModel,
        "OBB": tasks.OBBModel, "RTDETRDecoder": tasks.RTDETRDetectionModel,
    }  # fmt: skip
    return classes.get(re.sub(r"\d+$", "", head), tasks.DetectionModel)(config, verbose=False).eval()


def outputs(model: nn.Module, size: tuple[int, int] = (128, 160)) -> list[torch.Tensor]:
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = model.eval()(x)
    flat: list[torch.Tensor] = []

    def collect(value: object) -> None:
        if isinstance(value, torch.Tensor):
            flat.append(value)
        elif isinstance(value, dict):
            collect(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)

    collect(y)
    return flat


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def grafted(name: str, *grafts) -> nn.Module:
    config = tasks.yaml_model_load(f"{name}.yaml")
    return model_of(name, **graft_all(config, grafts))


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return randomise(model_of("yolov8n"))


@pytest.mark.parametrize(("family", "place"), PAIRS)
def test_every_tensor_arrives_and_outputs_are_those_of_the_base(family: str, place: str) -> None:
    try:
        source = randomise(model_of(family))
    except FileNotFoundError:
        pytest.skip(f"this Ultralytics has no {family}")
    target = grafted(family, ("CBAM", place, []))
    target.load(source)
    pairs = transfer.align(list(source.model), list(target.model))
    report = transfer._compare(source, target, pairs, [])
    assert report.arrived == report.total == len(source.model.state_dict())
    size = (160, 160) if family.startswith("rtdetr") else (128, 160)
    assert same(outputs(target, size), outputs(source, size))


@pytest.mark.parametrize("place", ["backbone", "neck"])
@pytest.mark.parametrize("layer", registry.TABLE, ids=lambda layer: layer.name)
def test_every_layer_starts_as_the_identity(base: nn.Module, layer: registry.Layer, place: str) -> None:
    target = grafted("yolov8n", (layer.name, place, []))
    assert not same(outputs(target), outputs(base))
    target.load(base)
    assert same(outputs(target), outputs(base))
    assert len(target.state_dict()) > len(base.state_dict())


def test_what_the_structure_says_is_what_it_is_everywhere(base: nn.Module, tmp_path: Path) -> None:
    target = grafted("yolov8n", ("CBAM", "neck", [{"kernel_size": 5}]))
    target.load(base)
    assert [row[3] for row in target.yaml["head"] if row[2] == "CBAM"] == [[{"kernel_size": 5, "gate": True}]] * 3
    rebuilt = tasks.DetectionModel(copy.deepcopy(target.yaml), verbose=False)
    assert rebuilt.state_dict().keys() == target.state_dict().keys()
    rebuilt.load(target)
    assert same(outputs(rebuilt), outputs(base))
    torch.save({"model": target}, tmp_path / "model.pt")
    assert same(outputs(torch.load(tmp_path / "model.pt", weights_only=False)["model"]), outputs(base))
    layer = rebuilt.model[16]
    assert isinstance(layer, Gated) and layer.layer.kernel_size == 5
    assert (layer.i, layer.f, layer.type) == (16, -1, "yolo_attn.layers.gated.Gated")
    assert layer.np == sum(p.numel() for p in layer.parameters())


def test_from_scratch_a_layer_is_the_papers_own() -> None:
    assert not any(isinstance(m, Gated) for m in model_of("yolov8n-cbam").modules())


def test_gate_false_keeps_the_papers_start(base: nn.Module) -> None:
    target = grafted("yolov8n", ("SE", "backbone", [{"gate": False}]))
    target.load(base)
    assert not any(isinstance(m, Gated) for m in target.modules())
    assert not same(outputs(target), outputs(base))
    assert torch.equal(target.model[9].cv1.conv.weight, base.model[9].cv1.conv.weight)


@pytest.mark.parametrize("gate", ["yes", 1, 0.5, None])
def test_a_wrong_gate_is_named(gate: object) -> None:
    with pytest.raises(RowError, match=rf"row 10: SE: gate={gate!r} must be true or false"):
        grafted("yolov8n", ("SE", "backbone", [{"gate": gate}]))


def test_layers_that_are_no_gate_can_be_are_left_as_they_are(base: nn.Module) -> None:
    with pytest.raises(RowError, match="cannot have a gate"):
        grafted("yolov8n", ("DoubleAttention", "backbone", [24, 16, False, {"gate": True}]))
    with pytest.raises(RowError, match="CrissCross starts as the identity itself"):
        grafted("yolov8n", ("CrissCross", "backbone", [{"gate": True}]))
    target = grafted("yolov8n", ("CrissCross", "backbone", []))
    target.load(base)
    assert type(target.model[10]).__name__ == "CrissCross" and same(outputs(target), outputs(base))


def test_gradients_reach_the_gate_at_once_and_the_layer_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    module = Gated("CBAM", 64).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x, w = torch.randn(2, 64, 8, 8), torch.randn(2, 64, 8, 8)
    for step in range(2):
        optimizer.zero_grad()
        (module(x) * w).sum().backward()
        assert module.gate.grad.abs() > 0
        moved = [bool(p.grad.abs().max() > 0) for p in module.layer.parameters()]
        assert not any(moved) if step == 0 else all(moved)
        optimizer.step()


def test_between_grafted_models_and_back_to_plain(base: nn.Module) -> None:
    first = grafted("yolov8n", ("CBAM", "backbone", []), ("SE", "neck", []))
    first.load(base)
    with torch.no_grad():
        for module in first.modules():
            if isinstance(module, Gated):
                module.gate.fill_(0.7)
    randomise(first)
    twin = grafted("yolov8n", ("CBAM", "backbone", []), ("SE", "neck", []))
    twin.load(first)
    assert same(outputs(twin), outputs(first))
    wider = grafted("yolov8n", ("CBAM", "backbone", []), ("SE", "neck", []), ("CoordAtt", "stages", []))
    wider.load(first)
    assert same(outputs(wider), outputs(first))
    plain = model_of("yolov8n")
    plain.load(first)
    theirs = dict(zip(range(23), [m for m in first.model if not transfer.is_attention(m)], strict=True))
    for i, layer in enumerate(plain.model):
        for key, value in layer.state_dict().items():
            assert torch.equal(value, theirs[i].state_dict()[key])


def test_a_layer_with_the_papers_start_stays_itself_on_the_way(base: nn.Module) -> None:
    scratch = randomise(grafted("yolov8n", ("CBAM", "neck", [])))
    again = grafted("yolov8n", ("CBAM", "neck", []))
    again.load(scratch)
    assert same(outputs(again), outputs(scratch)) and not any(isinstance(m, Gated) for m in again.modules())
    gated = grafted("yolov8n", ("CBAM", "neck", [{"gate": True}]))
    gated.load(scratch)
    assert [m.openness() for m in gated.modules() if isinstance(m, Gated)] == [1.0, 1.0, 1.0]


def test_stacked_rows_start_as_the_identity_too(base: nn.Module) -> None:
    config = copy.deepcopy(tasks.yaml_model_load("yolov8n-se.yaml")) | {"scales": {"n": [1.0, 0.25, 1024]}}
    config["backbone"][10][1] = 3
    for row in config["backbone"] + config["head"]:
        row[1] = {3: 1, 6: 2}.get(row[1], row[1]) if row[2] != "SE" else 3
    target = tasks.DetectionModel(config, verbose=False)
    target.load(base)
    assert [type(m).__name__ for m in target.model[10]] == ["Gated"] * 3
    assert same(outputs(target), outputs(base))
    rebuilt = tasks.DetectionModel(copy.deepcopy(target.yaml), verbose=False)
    assert rebuilt.state_dict().keys() == target.state_dict().keys()


def test_a_hand_written_model_with_many_rows_gets_every_tensor(base: nn.Module) -> None:
    target = grafted(
        "yolov8n", *((layer.name, place, []) for place, layer in zip(range(0, 22, 2), registry.TABLE[:11], strict=True))
    )
    target.load(base)
    assert same(outputs(target), outputs(base))


def test_the_log_says_what_arrived_what_is_new_and_what_did_not_fit(base: nn.Module, monkeypatch) -> None:
    said: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(LOGGER, level, said.append)
    grafted("yolov8n", ("CBAM", "backbone", [])).load(base)
    assert "Transferred 355/355 tensors of the base; new: 10 CBAM (starts as the identity)" in said
    said.clear()
    other = tasks.DetectionModel(tasks.yaml_model_load("yolov8n-cbam.yaml"), nc=3, verbose=False)
    other.load(base)
    text = "\n".join(said)
    # Newer hosts keep the hidden layers of the class branch, whose width older ones take from the number of classes.
    assert re.search(r"Transferred (349|319)/355 tensors of the base", text)
    assert re.search(r"Detect cv3\.\S+ \(80, \d+, \d, \d\) -> \((3|64), \d+, \d, \d\)", text)
    assert "The base has 80 classes, this model 3" in text
    said.clear()
    model_of("yolov8n-cbam").load(model_of("yolov8s"))
    assert "The base has scale 's', this model 'n': yolov8n.pt would fit" in "\n".join(said)


def test_plain_models_are_loaded_by_the_host_alone(base: nn.Module, monkeypatch) -> None:
    monkeypatch.setattr(transfer, "align", lambda *_: pytest.fail("plain models are none of our business"))
    model_of("yolov8n").load(base)


def test_class_names_and_first_convolution_of_the_host_keep_working(base: nn.Module) -> None:
    source = copy.deepcopy(base)
    source.names = {i: f"thing {i}" for i in range(80)}
    target = grafted("yolov8n", ("SE", "neck", []))
    target.load(source)
    assert target.names == source.names
    if hasattr(tasks.BaseModel, "_remap_cls_by_names"):
        fewer = tasks.DetectionModel(tasks.yaml_model_load("yolov8n-se-neck.yaml"), nc=2, verbose=False)
        fewer.names = {0: "thing 7", 1: "thing 3"}
        fewer.load(source)
        for mine, theirs in zip(fewer.model[-1].cv3, source.model[-1].cv3, strict=True):
            if mine[-1].weight.shape[1:] == theirs[-1].weight.shape[1:]:
                assert torch.equal(mine[-1].weight, theirs[-1].weight[[7, 3]])


class Plain(nn.Module):
    """A layer without parameters, as users register them."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid()


class Wide(Plain):
    """A layer that could change the width and does not keep its arguments."""

    @staticmethod
    def out_channels(width: int, *args: int) -> int:
        return width


@pytest.mark.parametrize(("cls", "gated"), [(Plain, True), (Wide, False)])
def test_registered_layers_are_transferred_too(base: nn.Module, cls: type[nn.Module], gated: bool) -> None:
    yolo_attn.register("Mine", cls)
    try:
        target = grafted("yolov8n", ("Mine", "backbone", []))
        target.load(base)
        assert isinstance(target.model[10], Gated) == gated
        assert same(outputs(target), outputs(base)) == gated
    finally:
        yolo_attn.unregister("Mine")


def test_a_gate_that_a_row_forbids_is_named(base: nn.Module, monkeypatch) -> None:
    first = grafted("yolov8n", ("SE", "backbone", []))
    first.load(base)
    said: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(LOGGER, level, said.append)
    grafted("yolov8n", ("SE", "backbone", [{"gate": False}])).load(first)
    assert any("10 SE gate (its row says 'gate: false', so the layer is fully open)" in line for line in said)
