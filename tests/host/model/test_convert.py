"""``yolo-attn convert``: pasted classes of an old checkpoint become ours, and give what they gave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import yolo_attn
from yolo_attn.cli import main
from yolo_attn.errors import CheckpointError, HostError, UnknownLayerError

yolo_attn.install()
convert = pytest.importorskip("yolo_attn.host.model.convert").convert
pasted = pytest.importorskip("yolo_attn.host.model.pasted")
shells = pytest.importorskip("yolo_attn.host.shells")
tasks = pytest.importorskip("ultralytics.nn.tasks")

FULL, HALF = 1e-5, 3e-3  # of the largest entry of a row's map: rounding in float32, of weights stored in half


@pytest.fixture
def rescued(old_files: Path, tmp_path: Path) -> Callable[..., tuple[Any, list[str]]]:
    """Return a function that converts a file and returns what the new one holds and what was said."""

    def rescued(name: str, **given: Any) -> tuple[Any, list[str]]:
        said: list[str] = []
        convert(old_files / f"{name}.pt", tmp_path / "new.pt", say=said.append, **given)
        return torch.load(tmp_path / "new.pt", weights_only=False), said

    return rescued


def differences(model: Any, file: Path) -> dict[int, float]:
    """Return how far the maps of a model's rows are from the pasted ones', each given what the pasted one was given."""
    worst, maps = {}, torch.load(file)
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for i, expected in maps.items():
        with torch.no_grad():
            y = model.model[i](maps.get(i - 1, x))
        worst[i] = float((y - expected).abs().max() / expected.abs().max())
    return worst


def state(content: Any) -> dict[str, torch.Tensor]:
    return content["model"].state_dict()


@pytest.mark.parametrize(("kind", "allowed"), [("many", FULL), ("many-half", HALF)])
def test_every_pasted_layer_gives_what_it_gave(rescued, old_files, kind, allowed) -> None:
    content, said = rescued(kind)
    model = content["model"]
    assert next(model.parameters()).dtype is (torch.float16 if kind.endswith("half") else torch.float32)
    found = differences(model.float(), old_files / "many.maps")
    assert len(found) == 16 and max(found.values()) < allowed, found
    rows = [line.split()[1:3] for line in said[2:15]]
    assert rows == [
        ["ultralytics.nn.modules.conv.SEAttention", "SE(reduction=8)"],
        ["ultralytics.nn.modules.conv.CBAMBlock", "CBAM(reduction=4,"],
        ["pasted_attention.CoordAtt", "CoordAtt(reduction=4)"],
        ["ultralytics.nn.modules.conv.EfficientChannelAttention", "ECA(kernel_size=5)"],
        ["pasted_attention.TripletAttention", "Triplet()"],
        ["ultralytics.nn.modules.conv.ELA", "ELA(groups=1,"],
        ["pasted_attention.Attention", "MHSA(num_heads=4,"],
        ["ultralytics.nn.modules.conv.BiLevelRoutingAttention", "BiFormer(num_heads=4,"],
        ["pasted_attention.SimAM", "SimAM(e_lambda=0.01)"],
        ["ultralytics.nn.modules.conv.GlobalContext", "GC(fusion_types=['channel_mul'],"],
        ["pasted_attention.GAM", "GAM()"],
        ["pasted_attention.BAMBlock", "BAM(reduction=8,"],
        ["pasted_attention.DAttention", "DAttention(n_heads=4,"],
    ]
    told = [" ".join(line.split("  ")[-1].split()) for line in said[2:15]]
    assert told == ["name, keys, shapes"] * 8 + ["name, no tensors"] + ["name, keys, shapes"] * 4
    assert model.model[11].channel_mul_conv[1].eps == 1e-6
    total = len(state(content))
    text = "\n".join(said)
    assert f"{total} of {total} tensors carried" in text and "the state of the optimizer" in text
    assert "shows it: GAM: channel_sigmoid=True" in text and "shows it: SimAM" not in text
    assert "model.11.channel_mul_conv.1: eps=1e-06, where yolo-attn's has 1e-05" in text
    assert "Not proven" in said[-1] and "metrics/mAP50-95(B)=0.412" in said[-1]


def test_what_stood_beside_the_model_is_kept(rescued) -> None:
    content, _ = rescued("se-half")
    assert content["model"].names == {0: "cat", 1: "dog", 2: "owl"} and content["model"].yaml["nc"] == 3
    assert content["train_args"] == {"task": "detect", "imgsz": 64, "data": "mine.yaml", "model": "old.yaml"}
    assert (content["date"], content["version"], content["epoch"]) == ("2024-05-01", "8.2.0", -1)
    assert content["train_metrics"] == {"metrics/mAP50-95(B)": 0.412}
    assert content["optimizer"] is None and content["ema"] is None
    assert not any(p.requires_grad for p in content["model"].parameters())
    assert content["model"].yaml["backbone"][2] == [-1, 1, "SE", [{"reduction": 8}]]


def test_a_new_model_is_built_from_its_rows_and_takes_all(rescued) -> None:
    content, _ = rescued("many")
    model = tasks.DetectionModel(content["model"].yaml, verbose=False)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state(content).items()}


def test_a_stack_keeps_its_number(rescued, old_files) -> None:
    content, _ = rescued("twice")
    assert max(differences(content["model"], old_files / "twice.maps").values()) < FULL
    assert content["model"].yaml["backbone"][2] == [-1, 2, "SE", [{"reduction": 8}]]


def test_what_a_world_model_looks_for_is_kept(rescued, old_files) -> None:
    model = rescued("world")[0]["model"]
    assert type(model) is tasks.WorldModel
    assert torch.equal(model.txt_feats, torch.load(old_files / "world.text"))


def test_a_model_of_several_gpus_or_alone_in_its_file_is_found(rescued, old_files) -> None:
    for kind in ("wrapped", "alone"):
        content, _ = rescued(kind, force=True)
        assert max(differences(content["model"], old_files / "se.maps").values()) < FULL
        assert content["train_args"]["task"] == "detect"


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("unclear", ["row 2: pasted_attention.Focus2", "fits Polarized, PolarizedSeq", "--as Focus2=PolarizedSeq"]),
        ("nothing", ["row 2: ultralytics.nn.modules.conv.Nothing (no tensors)", "--as Nothing=SimAM"]),
        ("own", ["row 2, 3: pasted_attention.Own", "alpha (3,)", "set YOLO_ATTN_LAYERS=layers.py:Own here"]),
        ("block", ["ultralytics.nn.modules.conv.C2f_SE", "a block with attention inside", "--model"]),
        ("inner", ["ultralytics.nn.modules.block.Bottleneck holds ultralytics.nn.modules.conv.SEAttention", "--model"]),
        ("hosts", ["ultralytics.nn.modules.conv.CBAM is Ultralytics' own class", "runs it as it is"]),
        ("unknown", ["unknown.pt: its model cannot be built by Ultralytics", "TypeError"]),
        ("plain", ["plain.pt has no pasted class", "nothing to convert"]),
    ],
)
def test_what_cannot_be_told_is_asked(old_files, tmp_path, capsys, kind, parts) -> None:
    assert main(["convert", str(old_files / f"{kind}.pt"), "-o", str(tmp_path / "new.pt")]) == 1
    error = capsys.readouterr().err
    for part in parts:
        assert part in error
    assert not any(tmp_path.iterdir())


def test_as_says_what_a_class_is(rescued, old_files, tmp_path, capsys) -> None:
    file, new = str(old_files / "unclear.pt"), str(tmp_path / "new.pt")
    assert main(["convert", file, "-o", new, "--as", "Focus2=PolarizedSeq"]) == 0
    assert "PolarizedSeq()  12       --as, keys, shapes" in capsys.readouterr().out
    from yolo_attn.host.model.old_checkpoint import read_old
    from yolo_attn.registry import find

    assert read_old(file).row(2).class_name == "Focus2"
    with pytest.raises(CheckpointError, match="has not the tensors of SE"):
        rescued("unclear", named={"Focus2": "SE"}, force=True)
    with pytest.raises(CheckpointError, match=r"--as Focus3=\.\.\.: .* it has: Focus2"):
        rescued("unclear", named={"Focus3": find("SE").name}, force=True)
    with pytest.raises(UnknownLayerError, match="PolarisedSeq"):
        rescued("unclear", named={"Focus2": "PolarisedSeq"}, force=True)
    assert main(["convert", file, "-o", new, "--as", "Focus2", "--force"]) == 1
    assert "such as SEAttention=SE" in capsys.readouterr().err


def test_a_layer_without_tensors_may_be_named(rescued) -> None:
    content, _ = rescued("nothing", named={"Nothing": "SimAM"})
    assert [row[2] for row in content["model"].yaml["backbone"][2:4]] == ["SimAM", "SE"]


def test_a_file_that_is_there_stays(old_files, tmp_path, rescued) -> None:
    new = tmp_path / "new.pt"
    new.write_bytes(b"mine")
    with pytest.raises(HostError, match=r"new\.pt exists; .* --force"):
        rescued("se")
    assert new.read_bytes() == b"mine"
    rescued("se", force=True)
    before = new.read_bytes()
    with pytest.raises(CheckpointError):
        rescued("unclear", force=True)
    assert new.read_bytes() == before and [*tmp_path.iterdir()] == [new]
    own = tmp_path / "own.pt"
    shutil.copy(old_files / "se.pt", own)
    for output, match in (
        (own, "the old checkpoint itself"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "new.pt", "is no folder"),
        (tmp_path / "new.pth", r"ends in \.pt"),
        (tmp_path / f"{'n' * 250}.pt", "cannot be written"),
    ):
        with pytest.raises(HostError, match=match):
            convert(own, output, force=True)


def test_a_class_with_a_name_of_ours_and_other_tensors_is_told_how_to_keep_them() -> None:
    shell = type("Shell", (shells.Shell,), {"path": "pasted.SE"})()
    vars(shell)["_parameters"] = {"odd": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"YOLO_ATTN_LAYERS=layers\.py:MySE here .* convert with --as SE=MySE"):
        pasted.match(pasted.Pasted.of(shell, "SE", [64], 64))


def test_tensors_that_are_left_over_stop_it(old_files, tmp_path, rescued) -> None:
    model = tmp_path / "my.yaml"
    config = {**old_config(old_files, "se"), "backbone": edited(old_config(old_files, "se"), ["SE", [{"bias": True}]])}
    model.write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError) as error:
        rescued("se", model=str(model))
    for part in ("4 tensors have no", "model.2.fc.0.bias (4,): not in the checkpoint", "model.2.fc.0.weight: (8, 64)"):
        assert part in str(error.value)
    assert not (tmp_path / "new.pt").exists()


def old_config(folder: Path, kind: str) -> dict[str, Any]:
    from yolo_attn.host.model.old_checkpoint import read_old

    return read_old(folder / f"{kind}.pt").config


def edited(config: dict[str, Any], row: list[Any]) -> list[Any]:
    backbone = config["backbone"]
    return [*backbone[:2], [-1, 1, *row], *backbone[3:]]


def test_attention_inside_the_bottlenecks_of_a_pasted_block_is_carried(old_files, tmp_path, rescued) -> None:
    config = old_config(old_files, "inside")
    row = [64, True, {"attention": ["SE", {"reduction": 4}]}]
    backbone = edited(config, ["C2f", row])
    backbone[2][1] = 2
    model = tmp_path / "my.yaml"
    model.write_text(yaml.safe_dump({**config, "backbone": backbone}))
    content, said = rescued("inside", model=str(model))
    assert max(differences(content["model"], old_files / "inside.maps").values()) < FULL
    assert "conv.C2fInside  C2f with SE(reduction=4) inside" in said[2]
    assert content["model"].yaml["backbone"][2] == [-1, 2, "C2f", row]


def test_a_model_yaml_may_say_what_the_rows_are(old_files, tmp_path, rescued, capsys) -> None:
    config = old_config(old_files, "unclear")
    model = tmp_path / "my.yaml"
    model.write_text(yaml.safe_dump({**config, "nc": 80, "backbone": edited(config, ["Polarized", []])}))
    content, said = rescued("unclear", model=str(model))
    assert content["model"].names[2] == "owl" and "--model, keys, shapes" in said[2]
    arguments = ["convert", str(old_files / "unclear.pt"), "-o", "x.pt", "--as", "Focus2=SE", "--model", str(model)]
    assert main(arguments) == 1 and "leave --as out" in capsys.readouterr().err
