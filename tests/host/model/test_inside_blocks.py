"""Attention inside the host's blocks: where it stands, what it computes, and that it loses nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import yolo_attn
from experiments.transfer_table import build, randomise
from yolo_attn import blocks as rows
from yolo_attn import registry
from yolo_attn.errors import RowError, UnknownLayerError
from yolo_attn.graft import find_rows, graft
from yolo_attn.host.model import blocks, check, fold, ours, surgery, transfer
from yolo_attn.layers import CBAM, ECA, SE
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")
LOGGER = pytest.importorskip("ultralytics.utils").LOGGER
ROOT = Path(tasks.__file__).parents[1] / "cfg" / "models"
YAMLS = sorted(path for path in ROOT.rglob("*.yaml") if "resnet18" not in path.name)  # that one downloads weights
FAMILIES = [
    "yolov8n", "yolo11n", "yolo26n", "yolov5n", "yolo12n", "yolov10n", "yolov10s", "yolov9t", "yolov8n-ghost",
    "yolov8n-seg", "yolov8n-cls", "rtdetr-resnet50",
]  # fmt: skip
QUICK = ("yolov8n", "yolo11n", "yolov10s", "yolov9t", "yolov8n-ghost")


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


def load(name: str) -> dict[str, Any]:
    try:
        return tasks.yaml_model_load(f"{name}.yaml")
    except FileNotFoundError:
        pytest.skip(f"this Ultralytics has no {name}")


def with_layer(name: str, layer: str = "CBAM", place: str = "blocks", args: Any = ()) -> nn.Module:
    return build(graft(load(name), layer, place, args))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(surgery.outputs(one), surgery.outputs(other), strict=True))


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return randomise(build(load("yolov8n")))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_the_blocks_that_we_say_hold_bottlenecks_are_those_that_do(path: Path) -> None:
    model = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "scales" in model:
        model["scale"] = next(iter(model["scales"]))
    layers, _ = tasks.parse_model(copy.deepcopy(model), 3, verbose=False)
    both = zip([*model["backbone"], *model["head"]], layers, strict=True)
    told = [(row[2], rows.is_holder(row), bool(blocks.find_branches(layer))) for row, layer in both]
    assert [entry for entry in told if entry[1] != entry[2]] == []


@pytest.mark.parametrize("name", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAMILIES])
def test_it_stands_before_the_residual_and_starts_as_the_identity(name: str) -> None:
    source = randomise(build(load(name)))
    target = with_layer(name)
    inside = {m: p for row in target.model for p, m in blocks.find_attention(row).items()}
    assert len(inside) == sum(len(blocks.find_branches(row)) for row in source.model) > 0
    target.load(source, verbose=False)
    report = transfer.reports[target]
    assert report.complete and report.total == len(source.model.state_dict())
    assert same(source, target)
    with torch.no_grad():
        for module in target.modules():
            if isinstance(module, Gated):
                module.gate.fill_(0.1)
    assert not same(source, target)
    for block in {module for row in target.model for module in _parents(row)}:
        given = torch.rand(2, _width_in(block), 16, 16)
        bare = copy.deepcopy(block).eval()
        (path, (parent, part)) = next(iter(blocks.find_branches(bare).items()))
        layer = getattr(parent, part)[1]
        setattr(parent, part, getattr(parent, part)[0])
        branch = []
        getattr(parent, part).register_forward_hook(lambda _, __, y, branch=branch: branch.append(y))
        with torch.no_grad():
            plain, attended, change = bare(given), block.eval()(given), layer(branch[0]) - branch[0]
            is_resnet = type(block).__name__ == "ResNetBlock"  # it has an activation after the sum
            before = branch[0] + bare.shortcut(given) if is_resnet else plain
        expected = (before + change).relu() if is_resnet else before + change
        assert path and not torch.equal(attended, plain)
        torch.testing.assert_close(attended, expected, rtol=1e-4, atol=1e-4)


def _parents(row: nn.Module) -> list[nn.Module]:
    return [parent for parent, _ in list(blocks.find_branches(row).values())[:1]]


def _width_in(block: nn.Module) -> int:
    return next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels


@pytest.mark.parametrize("layer", registry.TABLE, ids=lambda layer: layer.name)
def test_every_layer_stands_inside_and_loses_nothing(base: nn.Module, layer: registry.Layer) -> None:
    target = with_layer("yolov8n", layer.name)
    assert sum(type(m) is layer.load() for m in target.modules()) == 10
    assert all(torch.isfinite(y).all() for y in surgery.outputs(target))
    target.load(base, verbose=False)
    assert transfer.reports[target].complete and same(target, base)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sum(y.square().mean() for y in surgery._flat(target.train()(x))).backward()
    assert all(torch.isfinite(p.grad).all() for p in target.parameters() if p.grad is not None)


def test_what_the_structure_says_is_what_it_is(base: nn.Module, tmp_path: Path) -> None:
    target = with_layer("yolov8n", "CBAM", "neck-blocks", [{"kernel_size": 5}])
    target.load(base, verbose=False)
    assert transfer.reports[target].new == ["CBAM inside 12 C2f, 15 C2f, 18 C2f, 21 C2f (starts as the identity)"]
    assert target.yaml["head"][2][3] == [512, {"attention": ["CBAM", {"kernel_size": 5, "gate": True}]}]
    assert target.model[12].np == sum(p.numel() for p in target.model[12].parameters())
    torch.save({"model": target, "train_args": {}}, tmp_path / "model.pt")
    opened = tasks.torch_safe_load(str(tmp_path / "model.pt"))[0]["model"]
    assert same(opened, base)
    rebuilt = build(copy.deepcopy(opened.yaml))
    assert rebuilt.state_dict().keys() == target.state_dict().keys()
    with torch.no_grad():
        for module in opened.modules():
            if isinstance(module, Gated):
                module.gate.fill_(0.05)
    rebuilt.load(opened, verbose=False)
    assert transfer.reports[rebuilt].complete and not transfer.reports[rebuilt].new and same(rebuilt, opened)


def test_a_trained_one_goes_into_models_with_less_with_more_and_with_another(base: nn.Module) -> None:
    trained = randomise(with_layer("yolov8n", "CBAM", "backbone-blocks"))
    assert not any(isinstance(m, Gated) for m in trained.modules())
    again = with_layer("yolov8n", "CBAM", "backbone-blocks")
    again.load(trained, verbose=False)
    assert transfer.reports[again].complete and not transfer.reports[again].new and same(again, trained)

    more = with_layer("yolov8n", "CBAM", "blocks")
    more.load(trained, verbose=False)
    assert same(more, trained) and len(transfer.reports[more].new) == 1
    gated = {index for index, row in enumerate(more.model) if any(isinstance(m, Gated) for m in row.modules())}
    assert gated == set(find_rows(load("yolov8n"), "neck-blocks"))

    rowed = build(graft(graft(load("yolov8n"), "CBAM", "backbone-blocks"), "SE", "neck"))
    rowed.load(trained, verbose=False)
    assert transfer.reports[rowed].complete and same(rowed, trained)

    plain = build(load("yolov8n"))
    plain.load(trained, verbose=False)
    lost = len(trained.state_dict()) - len(plain.state_dict())
    assert transfer.reports[plain].total - transfer.reports[plain].arrived == lost
    assert torch.equal(plain.model[2].m[0].cv2.conv.weight, trained.model[2].m[0].cv2[0].conv.weight)

    other = with_layer("yolov8n", "ECA", "backbone-blocks")
    other.load(trained, verbose=False)
    report = transfer.reports[other]
    assert report.total - report.arrived == lost and "CBAM" in " ".join(report.misfits)
    assert all(isinstance(layer, Gated) for layer in blocks.find_attention(other.model[2]).values())
    assert torch.equal(other.model[2].m[0].cv2[0].conv.weight, trained.model[2].m[0].cv2[0].conv.weight)


def test_gates_go_with_their_layer_and_false_keeps_them_out(base: nn.Module) -> None:
    trained = with_layer("yolov8n", "SE")
    trained.load(base, verbose=False)
    with torch.no_grad():
        for module in trained.modules():
            if isinstance(module, Gated):
                module.gate.fill_(0.03)
    fresh = with_layer("yolov8n", "SE")
    fresh.load(trained, verbose=False)
    assert transfer.reports[fresh].complete and same(fresh, trained)
    without = with_layer("yolov8n", "SE", args=[{"gate": False}])
    without.load(trained, verbose=False)
    assert not any(isinstance(m, Gated) for m in without.modules())
    assert sum("gate" in text for text in transfer.reports[without].misfits) == 10
    other = with_layer("yolov8n", "CBAM")
    other.load(trained, verbose=False)
    lost = transfer.reports[other].total - transfer.reports[other].arrived
    assert lost == 10 * len(blocks.find_attention(trained.model[2])["m.0.cv2"].state_dict())
    papers = with_layer("yolov8n", "SE", args=[{"gate": False}])
    papers.load(base, verbose=False)
    assert not any(isinstance(m, Gated) for m in papers.modules()) and not same(papers, base)


def test_strip_gives_back_the_plain_model(base: nn.Module, tmp_path: Path) -> None:
    model = with_layer("yolov8n", "SimAM")
    model.load(base, verbose=False)
    model.names = {number: f"c{number}" for number in range(80)}
    torch.save({"model": model, "epoch": -1, "train_args": {}}, tmp_path / "closed.pt")
    said: list[str] = []
    assert surgery.strip(tmp_path / "closed.pt", tmp_path / "plain.pt", say=said.append) == 0
    assert said[0] == "10 attention layers, 10 with a gate, largest gate 0"
    plain = torch.load(tmp_path / "plain.pt", weights_only=False)["model"]
    assert plain.state_dict().keys() == base.state_dict().keys() and same(plain, base)
    assert plain.names == model.names and "attention" not in str(plain.yaml)


def test_fuse_reaches_inside_and_changes_no_output(base: nn.Module) -> None:
    closed = with_layer("yolov8n", "CBAM")
    closed.load(base, verbose=False)
    fold.fold(closed)
    assert not any(isinstance(m, CBAM) for m in closed.modules())
    model = randomise(with_layer("yolov8n", "CoordAtt"))
    before = surgery.outputs(model)
    model.fuse(verbose=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for one, other in zip(before, surgery.outputs(model), strict=True):
        assert (one - other).abs().max() <= 1e-4 * one.abs().max()


def test_the_hosts_table_our_table_and_the_record_show_it(monkeypatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(LOGGER, "info", lambda text="", *_: lines.append(str(text)))
    config = graft(load("yolov8n"), "CBAM", "backbone-blocks", [8])
    model = tasks.DetectionModel(copy.deepcopy(config), verbose=True)
    (row,) = [line for line in lines if line.split()[:1] == ["2"]]
    assert "C2f" in row and "{'attention': ['CBAM', 8]}" in row and f"{model.model[2].np:.0f}" in row
    assert any("C2f + CBAM" in line for line in check.table(config, {}))
    assert ours.describe_layers(model)[0] == {
        "index": 2, "name": "CBAM", "arguments": [8], "place": "backbone-blocks", "gated": False, "inside": "C2f",
        "number": 1,
    }  # fmt: skip
    assert [layer["index"] for layer in ours.describe_layers(model)] == [2, 4, 6, 8]


def test_rows_of_a_checkpoint_keep_their_meaning(tmp_path: Path) -> None:
    model = with_layer("yolov8n", "CBAM", "neck-blocks", [{"reduction": 7}])
    model.yaml["head"][2][3][-1] = {"attention": ["CBAM", 7]}  # as an older version may have read it
    torch.save({"model": model, "train_args": {}}, tmp_path / "old.pt")
    opened = tasks.torch_safe_load(str(tmp_path / "old.pt"))[0]["model"]
    assert opened.yaml["head"][2][3] == [512, {"attention": ["CBAM", {"reduction": 7}]}]


def small(*row: Any) -> dict[str, Any]:
    return {
        "nc": 2, "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, *row]], "head": [[[1], 1, "Detect", ["nc"]]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            (1, "SPPF", [64, 5, {"attention": "CBAM"}]),
            "row 1: SPPF has no bottleneck inside .*Blocks that have .*: .*C2f",
        ),
        ((1, "C2f", [64, {"attention": "CBAN"}]), "row 1: unknown layer 'CBAN'; did you mean 'CBAM'"),
        ((1, "C2f", [64, {"atention": "CBAM"}]), "row 1: C2f has no keyword 'atention'; did you mean 'attention'"),
        (
            (1, "C2f", [64, {"attention": ["CBAM", {"ratio": 8}]}]),
            "row 1: C2f with CBAM inside, 32 .* no argument 'ratio'",
        ),
        ((1, "C2f", [64, {"attention": ["SE", 0]}]), "row 1: C2f with SE inside, 32 channels wide: reduction=0"),
        ((1, "C2f", [64, {"attention": ["MHSA", 5]}]), "row 1: C2f with MHSA inside, 32 channels wide: .*5"),
        ((1, "C2f", [64, {"attention": ["SE", {"gate": 1}]}]), "row 1: .*gate=1 must be true or false"),
        ((1, "C2f", [64, {"attention": ["DoubleAttention", 24, 16, False]}]), "row 1: .*32 channels into"),
    ],
)
def test_errors_name_the_row(row: tuple, message: str) -> None:
    with pytest.raises((RowError, UnknownLayerError), match=message):
        tasks.DetectionModel(small(*row), verbose=False)


@pytest.mark.parametrize("name", ["C2f_CBAM", "C2fCBAM", "CBAM_C2f", "c2f_cbam", "C2F_CBAM", "C2f_CBAM_Block"])
def test_compound_names_are_never_guessed(name: str) -> None:
    with pytest.raises(UnknownLayerError) as error:
        tasks.DetectionModel(small(3, name, [64, True]), verbose=False)
    text = str(error.value)
    assert f"row 1: {name} is no module" in text and "different things in different forks" in text
    assert (
        "(1) CBAM inside each bottleneck, before the residual is added: [-1, 3, C2f, [64, true, {attention: CBAM}]]"
        in text
    )
    assert (
        "(2) CBAM after the concatenation" in text
        and "[-1, 1, CBAM, []] as row 2" in text
        and "(3) CBAM instead" in text
    )
    first = yaml.safe_load("[-1, 3, C2f, [64, true, {attention: CBAM}]]")
    assert any(isinstance(m, CBAM) for m in tasks.DetectionModel(small(*first[1:]), verbose=False).modules())


@pytest.mark.parametrize(("name", "readings"), [("SPPF_LSKA", 2), ("Detect_SE", 2), ("C3k2_EMA", 3), ("A2C2f_ECA", 3)])
def test_only_readings_that_can_be_written_are_offered(name: str, readings: int) -> None:
    args = [64, False] if name.startswith("A2") else [64]
    with pytest.raises(UnknownLayerError) as error:
        tasks.DetectionModel(small(1, name, args), verbose=False)
    assert f"({readings})" in str(error.value) and f"({readings + 1})" not in str(error.value)


def test_a_block_alone_is_a_row_too() -> None:
    model = tasks.DetectionModel(small(3, "Bottleneck", [64, {"attention": ["ECA", {"gate": True}]}]), verbose=False)
    assert sorted(blocks.find_attention(model.model[1])) == ["0.cv2", "1.cv2", "2.cv2"]
    assert sum(isinstance(m, Gated) for m in model.modules()) == sum(isinstance(m, ECA) for m in model.modules()) == 3


def test_freeze_of_rows_lets_the_attention_in_them_learn() -> None:
    from yolo_attn.host.run import freeze

    model = with_layer("yolov8n", "SE", "backbone-blocks")
    parts = freeze._parts_of([0, 2], model.model)
    assert parts == [0, "2.cv1", "2.cv2", "2.m.0.cv1", "2.m.0.cv2.0"]
    frozen = [n for n, _ in model.named_parameters() if any(f"model.{part}." in n for part in parts)]
    learns = [n for n, _ in model.named_parameters() if n.startswith("model.2.") and n not in frozen]
    assert learns and all(n.startswith("model.2.m.0.cv2.1.") for n in learns)
    assert len(learns) == len([*SE(16).parameters()])
    assert "SE inside 2 is not" in freeze._describe([0, 2], model.model)
