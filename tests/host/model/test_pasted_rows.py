"""Rows as articles and forks write them: pasted class names, widths, keywords and orders of arguments."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from torch import nn

import yolo_attn
from yolo_attn import registry
from yolo_attn.errors import RowError, UnknownLayerError
from yolo_attn.layers._pasted import WIDTHS

tasks = pytest.importorskip("ultralytics.nn.tasks")

TEXT = """
nc: 4
scales:
  n: [0.33, 0.25, 1024]
  l: [1.00, 1.00, 512]
backbone:
  - [-1, 1, Conv, [64, 3, 32]]
  - [-1, 1, Conv, [1024, 1, 1]]
  - ROW
head:
  - [[2], 1, Detect, [nc]]
"""

# What forks write behind the name -> what our layer is then. Every name also takes [], [c1] and [c1, c2].
READ = [
    ("SEAttention", "[1024, 8]", {"reduction": 8}),
    ("SEBlock", "[1024, 1024, 8]", {"reduction": 8}),
    ("SELayer", "{channel: 1024, reduction: 8}", {"reduction": 8}),
    ("DoubleAttention", "[1024, 128, 64, True]", {"c_m": 128, "c_n": 64}),
    ("BAMBlock", "[1024, 16, 4]", {"reduction": 16, "dilation": 4}),
    ("BiLevelRoutingAttention", "[1024, 7, 8]", {"n_win": 7, "num_heads": 8}),
    ("BiLevelRoutingAttention", "[1024, 8, 7]", {"n_win": 7, "num_heads": 8}),
    ("BiLevelRoutingAttention", "[8, 7]", {"n_win": 7, "num_heads": 8}),
    ("BiLevelRoutingAttention", "[8, 7, None, None, 2]", {"n_win": 7, "num_heads": 8, "kv_per_win": 2}),
    ("BiLevelRoutingAttention", "{dim: 1024, num_heads: 4, n_win: 8}", {"n_win": 8, "num_heads": 4}),
    ("MHSA", "[1024, 4]", {"num_heads": 4}),
    ("AttentionLePE", "[1024, 4]", {"num_heads": 4}),
    ("CAA", "[1024, 7, 9]", {"h_kernel_size": 7, "v_kernel_size": 9}),
    ("CBAMBlock", "[1024, 16, 49]", {"reduction": 16, "kernel_size": 49}),
    ("CBAM", "[1024, 1024, 16, 3]", {"reduction": 16, "kernel_size": 3}),
    ("EfficientAttention", "[1024, 8, [4, 4], [5], 4]", {"num_heads": 8, "group_split": (4, 4)}),
    ("CoordAtt", "[1024, 1024, 16]", {"reduction": 16}),
    ("CoordAtt", "{inp: 1024, oup: 1024}", {"reduction": 32}),
    ("CoordinateAttention", "[1024, 16]", {"reduction": 16}),
    ("CoTAttention", "[1024, 3]", {"kernel_size": 3}),
    ("CPCA", "[1024, 4]", {"channelAttention_reduce": 4}),
    ("DAttention", "[1024, [20, 20]]", {"q_size": (20, 20), "n_heads": 8}),
    ("DAttention", "[[20, 20], 4, 2]", {"q_size": (20, 20), "n_heads": 4, "n_groups": 2}),
    ("DAttention", "{channel: 1024, q_size: [20, 20]}", {"q_size": (20, 20)}),
    ("ECA", "[1024, 5]", {"kernel_size": 5}),
    ("EfficientChannelAttention", "[1024, 1, 2]", {"kernel_size": 5, "b": 1, "gamma": 2}),
    ("EMA", "[1024, 1024, 16]", {"factor": 16}),
    ("EMA", "[1024, None, 16]", {"factor": 16}),
    ("EMA", "[16]", {"factor": 16}),
    ("SimAM", "[1e-3]", {"e_lambda": 1e-3}),
    ("SimAM", "[1024, 1e-3]", {"e_lambda": 1e-3}),
    ("SimAM", "[1, 1e-3]", {"e_lambda": 1e-3}),
    ("GAM_Attention", "[1024, 1024, True, 4]", {"grouped": True, "channel_sigmoid": False, "rate": 4}),
    ("GAM_Attention", "[1024, 1024, 8]", {"grouped": False, "channel_sigmoid": False, "rate": 8}),
    ("GAM_Attention", "[1024, 8]", {"grouped": False, "channel_sigmoid": True, "rate": 8}),
    ("TripletAttention", "[1024, True]", {"no_spatial": True}),
    ("sa_layer", "[1024, 16]", {"groups": 16}),
    ("MLCA", "[1024, 3]", {"local_size": 3}),
    ("SKAttention", "[1024, [3, 5], 8]", {"kernels": (3, 5), "reduction": 8}),
    ("LSKA", "[1024, 11]", {"kernel_size": 11}),
    ("SCSA", "[1024, 8, 7]", {"head_num": 8, "window_size": 7}),
    ("ELA", "[1024, 5]", {"kernel_size": 5}),
    ("PSA_p", "[1024, 1024, 1, 1]", {}),
    ("ContextBlock", "[1024, 0.25]", {"ratio": 0.25}),
]
REFUSED = [
    ("CBAM", "[1024, 16, [avg, max], False]", r"needs no pool_types and no_spatial; .*the authors' CBAM.*write \[16\]"),
    ("ShuffleAttention", "[1024, 16, 8]", r"needs no reduction; \[16, 8\] looks like the copies'.*write \[8\]"),
    ("TripletAttention", "[1024, 16]", r"needs no reduction; \[16\] looks like the authors' TripletAttention"),
    ("SCSA", "[1024, 1, 7, [3, 5, 7, 9], False, False]", "needs no fuse_bn; .*the authors' SCSA"),
    ("CoordAtt", "[1024, 20, 20, 16]", r"needs no height and width; .*CA_Block.*write \[16\]"),
    ("EfficientAttention", "[1024, 32, 8, 32]", "key_channels, head_count, value_channels.*another layer"),
    ("DAttention", "[[20, 20], [20, 20], 8, 32, 4]", "needs no n_head_channels; .*DAttentionBaseline"),
    ("PSA_p", "[1024, 1024, 3, 1]", "takes at most 0 arguments"),
    ("SEBlock", "{ratio: 8}", r"SE\(.*\) has no argument 'ratio'; did you mean 'reduction'\?"),
    ("CoordAtt", "{inp: 1024, oup: 512}", "oup=512 is not the width it gets"),
    ("SE", "{channels: 512}", "channels=512 is not the width it gets"),
    ("GC", "{reduction: 16}", "it takes the inverse, 'ratio'"),
    ("BiFormer", "{n_win: 8, num_heads: 7}", "not divisible by num_heads=7"),
]
DOUBTED = [
    ("BiLevelRoutingAttention", "[4, 8]", "4, 8 is read as {n_win: 4, num_heads: 8}; in the official BiLevelRouting"),
    ("BiLevelRoutingAttention", "[8]", "8 is read as {n_win: 8}; in the official "),
    ("ShuffleAttention", "[16]", "16 is read as {groups: 16}; in the copies' ShuffleAttention"),
    (
        "EfficientChannelAttention",
        "[5]",
        "5 is read as {kernel_size: 5}; in EfficientChannelAttention(c, b=1, gamma=2)",
    ),
    ("GAM_Attention", "[1024, 1024]", "forks is meant, write {grouped: true, channel_sigmoid: false}"),
]
CLEAR = [
    ("BiLevelRoutingAttention", "[7]"), ("BiLevelRoutingAttention", "[7, 8]"), ("BiLevelRoutingAttention", "[8, 8]"),
    ("BiFormer", "[4, 8]"), ("sa_layer", "[16]"), ("ECA", "[5]"), ("GAM_Attention", "[]"), ("EMA", "[16]"),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _patched(installed) -> None:
    pass


def parse(name: str, args: str, scale: str = "n") -> Any:
    model = yaml.safe_load(TEXT.replace("ROW", f"[-1, 1, {name}, {args}]")) | {"scale": scale, "yaml_file": "my.yaml"}
    return tasks.parse_model(model, 3, verbose=False)[0][2]


@pytest.mark.parametrize("scale", ["n", "l"])
@pytest.mark.parametrize(("name", "args", "expected"), READ)
def test_what_is_meant_is_built(name: str, args: str, expected: dict, scale: str) -> None:
    layer = parse(name, args, scale)
    assert layer.channels == {"n": 256, "l": 512}[scale]
    assert {key: getattr(layer, key) for key in expected} == expected


@pytest.mark.parametrize("name", [name for row in registry.TABLE for name in (row.name, *row.aliases, *row.pasted)])
def test_every_name_takes_no_width_and_one_and_two(name: str) -> None:
    plain = parse(name, "[]")
    assert type(plain) is registry.find(name).load()
    for args in ("[1024]", "[1024, 1024]", "{c1: 1024, c2: 1024}", "{channels: 1024}"):
        assert str(parse(name, args)) == str(plain)


@pytest.mark.parametrize("name", [layer.name for layer in registry.TABLE])
def test_every_word_for_the_width_is_a_keyword_of_a_row(name: str) -> None:
    words = WIDTHS - {*registry.find(name).arguments}
    assert str(parse(name, str(dict.fromkeys(sorted(words), 1024)))) == str(parse(name, "[]"))


@pytest.mark.parametrize(("name", "args", "message"), REFUSED)
def test_the_rest_says_what_to_write(name: str, args: str, message: str) -> None:
    with pytest.raises(RowError, match=rf"my\.yaml, row 2: .*{message}"):
        parse(name, args)


@pytest.mark.parametrize(("name", "args", "message"), DOUBTED)
def test_what_can_mean_two_things_is_said(name: str, args: str, message: str, said: list[str]) -> None:
    parse(name, args)
    assert len(said) == 1 and message in said[0]


@pytest.mark.parametrize(("name", "args"), CLEAR)
def test_what_can_mean_but_one_is_not(name: str, args: str, said: list[str]) -> None:
    parse(name, args)
    assert said == []


def test_another_order_is_said_once(said: list[str]) -> None:
    for _ in range(2):
        parse("BiLevelRoutingAttention", "[1024, 8, 7]")
    assert said == [
        "my.yaml, row 2: BiLevelRoutingAttention takes its width (256) from the row it reads; 1024 ignored; 8, 7 is "
        "read as {num_heads: 8, n_win: 7}, as in the official BiLevelRoutingAttention(dim, num_heads=8, n_win=7, ...)"
    ]


def test_a_gate_goes_with_another_order() -> None:
    assert parse("BiLevelRoutingAttention", "[8, 7, {gate: true}]").layer.num_heads == 8
    assert parse("CoordAtt", "{reduction: 256, gate: true}").layer.reduction == 256


def test_a_width_marked_as_ours_stays_out_of_the_model() -> None:
    import pickle

    for args in ("[]", "[24, 16, False]"):
        model = yaml.safe_load(TEXT.replace("ROW", f"[-1, 1, DoubleAttention, {args}]"))
        built, _ = tasks.parse_model(model | {"scale": "n", "yaml_file": "my.yaml"}, 3, verbose=False)
        assert b"Bound" not in pickle.dumps(built)


@pytest.mark.parametrize(("name", "words"), [("CA_Block", "CoordAtt here"), ("SEModule", "bias: true")])
def test_a_name_of_several_classes_is_explained(name: str, words: str) -> None:
    with pytest.raises(UnknownLayerError, match=f"unknown module '{name}'; .*{words}"):
        parse(name, "[1024]")


def test_a_copy_that_stands_in_the_host_stays_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    class SELayer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width

    yolo_attn.uninstall()
    monkeypatch.setattr(tasks, "SELayer", SELayer, raising=False)
    try:
        yolo_attn.install()
        assert tasks.SELayer is SELayer and "SELayer" not in registry.names() and "SEBlock" in registry.names()
        assert parse("SELayer", "[1024]").width == 1024
        assert parse("SEBlock", "[1024]").channels == 256
        assert yolo_attn.create("SELayer", 64).channels == 64
    finally:
        yolo_attn.uninstall()
        monkeypatch.undo()
        yolo_attn.install()
    assert "SELayer" in registry.names() and parse("SELayer", "[1024]").channels == 256
