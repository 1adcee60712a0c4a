"""Rows as people write them in public repositories: pasted widths, another class's order, words, huge numbers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import yolo_attn
from yolo_attn.errors import RowError, UnknownLayerError
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")

TEXT = """
nc: 4
scales:
  n: [0.33, 0.25, 1024]
  s: [0.33, 0.50, 1024]
  m: [0.67, 0.75, 768]
  l: [1.00, 1.00, 512]
  x: [1.00, 1.25, 512]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 1, SPPF, [1024, 5]]
  - ROW
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 1], 1, Concat, [1]]
  - [[6], 1, Detect, [nc]]
"""
WIDTHS = {"n": 256, "s": 512, "m": 576, "l": 512, "x": 640}


@pytest.fixture(autouse=True, scope="module")
def _patched(installed) -> None:
    pass


def parse(row: str, scale: str = "n", text: str = TEXT) -> Any:
    """Return row 4 of the model, written as in a file."""
    model = yaml.safe_load(text.replace("ROW", row)) | {"scale": scale, "yaml_file": "my.yaml"}
    return tasks.parse_model(model, 3, verbose=False)[0][4]


@pytest.mark.parametrize("scale", WIDTHS)
@pytest.mark.parametrize(
    ("args", "reduction", "kernel_size"),
    [
        ("[7]", 16, 7),
        ("[3]", 16, 3),
        ("['3']", 16, 3),
        ("[1024, 7]", 16, 7),
        ("[1024, 3]", 16, 3),
        ("[1024, 1024, 3]", 16, 3),
        ("[3, {reduction: 8}]", 8, 3),
        ("[1024, 16, 7]", 16, 7),
        ("[1024, 1024, 16, 3]", 16, 3),
        ("[16]", 16, 7),
        ("[5]", 5, 7),  # not a kernel of Ultralytics' CBAM
        ("[16, 3]", 16, 3),
        ("[7, 3]", 7, 3),
        ("{reduction: 7}", 7, 7),
        ("[7, {kernel_size: 3}]", 7, 3),
        ("[1024, 1024]", 16, 7),
        ("{reduction: 512}", 512, 7),
        ("{dim: 1024, reduction: 8}", 8, 7),
        ("[{inp: 1024, oup: 1024}]", 16, 7),
    ],
)
def test_a_cbam_row_means_the_same_at_every_scale(args: str, reduction: int, kernel_size: int, scale: str) -> None:
    layer = parse(f"[-1, 1, CBAM, {args}]", scale)
    assert (layer.channels, layer.reduction, layer.kernel_size) == (WIDTHS[scale], reduction, kernel_size)


def test_what_was_read_is_said_once_in_one_line(said: list[str]) -> None:
    for _ in range(2):
        parse("[-1, 1, CBAM, [1024, 1024, 3]]")
    assert said == [
        "my.yaml, row 4: CBAM takes its width (256) from the row it reads; 1024, 1024 ignored; 3 is read as "
        "kernel_size, as in Ultralytics' own CBAM(c1, kernel_size=7); write {reduction: 3} for the other"
    ]


def test_a_gate_goes_with_a_kernel() -> None:
    layer = parse("[-1, 1, CBAM, [1024, 3, {gate: true}]]")
    assert isinstance(layer, Gated) and layer.layer.kernel_size == 3


@pytest.mark.parametrize("name", ["CoordAtt", "CrissCrossAttention", "SEAttention", "DoubleAttention", "MHSA", "CPCA"])
def test_two_equal_widths_are_dropped_with_one_line(name: str, said: list[str]) -> None:
    layer, plain = parse(f"[-1, 1, {name}, [1024, 1024]]"), parse(f"[-1, 1, {name}, []]")
    assert layer.extra_repr() == plain.extra_repr()
    assert said == [f"my.yaml, row 4: {name} takes its width (256) from the row it reads; 1024, 1024 ignored"]


@pytest.mark.parametrize("scale", WIDTHS)
@pytest.mark.parametrize(
    ("name", "args", "advice"),
    [
        ("CBAM", "[512]", r"write \[\], or {reduction: 512} if"),
        ("CBAM", "[512, 16, 7]", r"write \[16, 7\]$"),
        ("CBAM", "[1024, 512]", r"write \[\], or {reduction: 512} if"),
        ("SE", "[512, true]", r"write \[true\], or {reduction: 512, bias: true} if"),
        ("DoubleAttention", "[512]", r"write \[\], or {c_m: 512} if"),
        ("CoordAtt", "[512, 512]", r"write \[\], or {reduction: 512} if"),
        ("DoubleAttention", "[512, 512]", r"write \[\], or {c_m: 512, c_n: 512} if"),
        ("CrissCross", "[512]", r"write \[\]$"),
        ("CAA", "[512, 11, 11]", r"write \[11, 11\]$"),
        ("MHSA", "[512]", r"write \[\]"),
    ],
)
def test_a_number_that_is_no_width_is_refused_at_every_scale(name: str, args: str, advice: str, scale: str) -> None:
    with pytest.raises(RowError, match=rf"my\.yaml, row 4: {name}: 512 is .*\(written 1024\).*{advice}") as caught:
        parse(f"[-1, 1, {name}, {args}]", scale)
    assert str(WIDTHS[scale]) in str(caught.value) and repr(scale) in str(caught.value)


@pytest.mark.parametrize(
    ("args", "scale"),
    [("[256]", "n"), ("[576]", "m"), ("[640]", "x"), ("[1024]", "s"), ("{dim: 256}", "n"), ("{channel: 512}", "l")],
)
def test_the_width_as_built_is_a_width_where_nothing_else_can_be_meant(args: str, scale: str) -> None:
    if args == "{channel: 512}":
        text = TEXT.replace("[512, 3, 2]", "[128, 3, 2]")
        assert parse(f"[-1, 1, SE, {args}]", scale, text).reduction == 16
    else:
        assert parse(f"[-1, 1, SE, {args}]", scale).reduction == 16


def test_a_file_of_one_scale_is_built_at_that_scale() -> None:
    single = TEXT[: TEXT.index("scales")] + "width_multiple: 0.5\n" + TEXT[TEXT.index("backbone") :]
    assert parse("[-1, 1, SE, [512]]", "", single).channels == 512
    assert parse("[-1, 1, SE, [1024]]", "", single).reduction == 16
    with pytest.raises(RowError, match=r"SE: 256 is not the width of the row it reads, 512 \(written 1024\)"):
        parse("[-1, 1, SE, [256]]", "", single)


@pytest.mark.parametrize(
    ("source", "row", "width"),
    [
        ("[[-1, 1], 1, Concat, [1]]", "[-1, 1, SE, [1536]]", 384),
        ("[-1, 1, C3k2, [512, False, 0.25]]", "[-1, 1, SE, [512]]", 128),
        ("[-1, 1, CBAM, [1024]]", "[-1, 1, SE, [1024]]", 256),
        ("[-1, 1, nn.BatchNorm2d, []]", "[-1, 1, SE, [1024]]", 256),
        ("[-1, 1, AIFI, [1024, 8]]", "[-1, 1, SE, [1024]]", 256),
        ("[-1, 1, AIFI, [512, 8]]", "[-1, 1, SE, [1024]]", 256),
        ("[-1, 1, HGBlock, [96, 320, 3]]", "[-1, 1, SE, [320]]", 320),
        ("[-1, 1, DoubleAttention, [24, 16, false]]", "[-1, 1, SE, []]", 24),
        ("[-1, 1, DoubleAttention, {c_m: 96, reconstruct: false}]", "[-1, 1, SE, [96]]", 96),
    ],
)
def test_the_written_width_of_what_a_row_reads(source: str, row: str, width: int) -> None:
    text = TEXT.replace("  - ROW", f"  - {source}\n  - {row}")
    model = yaml.safe_load(text) | {"scale": "n", "yaml_file": "my.yaml"}
    model["head"] = [[[5], 1, "Detect", ["nc"]]]
    layer = tasks.parse_model(model, 3, verbose=False)[0][5]
    assert (layer.channels, layer.reduction) == (width, 16)


@pytest.mark.parametrize("read", [96, 1024])
def test_another_number_of_a_row_is_not_its_width(read: int) -> None:
    text = TEXT.replace("  - ROW", f"  - [-1, 1, HGBlock, [96, 320, 3]]\n  - [-1, 1, SE, [{read}]]")
    model = yaml.safe_load(text) | {"scale": "n", "yaml_file": "my.yaml", "head": [[[5], 1, "Detect", ["nc"]]]}
    with pytest.raises(RowError, match=f"row 5: SE: {read} is not the width"):
        tasks.parse_model(model, 3, verbose=False)


@pytest.mark.parametrize("args", ["[14, 14, 4]", "[20, 20, 4]", "[1024, 14, 14, 4]", "[80, 80, 4]", "[16, 16, 4]"])
def test_botnets_order_is_named(args: str) -> None:
    said = r"MHSA takes num_heads first and needs no width and height; \[\d+, \d+, 4\] looks like BoTNet.*: write \[4\]"
    with pytest.raises(RowError, match=said):
        parse(f"[-1, 1, MHSA, {args}]")


def test_botnets_order_without_heads_is_named_and_a_flag_is_none() -> None:
    with pytest.raises(RowError, match=r"\[14, 14\] looks like BoTNet.*: write \[num_heads\]"):
        parse("[-1, 1, MHSA, [14, 14]]")
    with pytest.raises(RowError, match=r"needs no width and height and pos_emb; \[14, 14, 4, True\].*: write \[4\]"):
        parse("[-1, 1, MHSA, [1024, 14, 14, 4, true]]")
    assert parse("[-1, 1, MHSA, [4, 1]]").qkv_bias is True
    assert parse("[-1, 1, MHSA, [4, true]]").num_heads == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[-1, 1, CBAM, ['7x7']]", "CBAM: reduction='7x7' must be an integer"),
        ("[-1, 1, CBAM, ['']]", "CBAM: reduction='' must be"),
        ("[-1, 1, CBAM, ['class']]", "CBAM: reduction='class' must be"),
        ("[-1, 1, CBAM, ['(']]", r"CBAM: reduction='\(' must be"),
        ("[-1, 1, CBAM, {kernel_size: '7x7'}]", "CBAM: kernel_size='7x7' must be"),
        ("[-1, 1, CBAM, ['{[]: 1}']]", r"CBAM: reduction='{\[\]: 1}' must be"),
        ("[-1, two, CBAM, []]", "CBAM is repeated 'two' times"),
        ("[-1, 1000000, CBAM, []]", "CBAM is repeated 330000 times; 100 are allowed"),
        ("[-1, .nan, CBAM, []]", "CBAM is repeated nan times"),
        ("[-1, 1, CBAM, [1000000]]", "CBAM: 1000000 is not the width"),
        ("[-1, 1, CBAM, {reduction: 1000000}]", "CBAM: reduction=1000000 is more than 65536"),
        ("[-1, 1, CBAM, {kernel_size: 1000001}]", "CBAM: kernel_size=1000001 is more than"),
        ("[-1, 1, CrissCross, {recurrence: 512}]", "CrissCross: recurrence=512 is more than 64"),
        ("[-1, 1, BAM, {num_layers: 1000000}]", "BAM: num_layers=1000000 is more than"),
        ("[-1, 1, BiFormer, [1000000]]", "BiFormer: 1000000 is not the width"),
        ("[-1, 1, BiFormer, {n_win: 1000000}]", "BiFormer: n_win=1000000 is more than"),
        ("[-1, 1, CloAttention, {kernel_sizes: [1000001]}]", "CloAttention: kernel_sizes=1000001 is more than"),
        ("[-1, 1, DAttention, {q_size: [9, 1000000]}]", "DAttention: q_size=1000000 is more than"),
        (
            "[-1, 1, DAttention, {q_size: 160, dwc_pe: false, fixed_pe: true}]",
            r"DAttention\(256, .*has 5,243,144,064 parameters; 536,870,912 are allowed",
        ),
        ("[-1, 1, CBAM, [kernel_size=7]]", r"CBAM: write {kernel_size: 7} for 'kernel_size=7'"),
        ("[-1, 1, SE, ['reduction = 16', bias=False]]", r"SE: write {reduction: 16} for 'reduction = 16'"),
        ("[-1, 1, CBAM, [16, gate=true]]", r"CBAM: write {gate: true} for 'gate=true'"),
        ("[-1, 1, CBAM, {dim: 512}]", "CBAM: dim=512 is not the width it gets, 256 or 1024; leave it out"),
        ("[-1, 1, CBAM, {gate: 2}]", "CBAM: gate=2 must be true or false"),
        ("[-1, 1, SE, {bias: 2}]", "SE: bias=2 must be True or False"),
    ],
)
def test_what_cannot_be_meant_names_row_and_value(row: str, message: str) -> None:
    with pytest.raises(RowError, match=rf"my\.yaml, row 4: {message}"):
        parse(row)


@pytest.mark.parametrize("name", ["FCA", "EPSA", "NAM", "MHCA", "PConv", "S2Attention", "CPAM", "PAM", "SimCLR"])
def test_a_layer_that_sounds_alike_is_not_suggested(name: str) -> None:
    with pytest.raises(UnknownLayerError, match=rf"unknown module '{name}'\. Layers .*register\('{name}', {name}\)"):
        parse(f"[-1, 1, {name}, [1024]]")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CBAMM", "CBAM"), ("cbam", "CBAM"), ("Cbam_Block", "CBAM"), ("SE_Layer", "SE"),
        ("Coord_Attention", "CoordAtt"), ("BiFromer", "BiFormer"), ("Criss_Cross", "CrissCross"),
        ("Cnov", "Conv"), ("C2F", "C2f"), ("nn.CBAM", "CBAM"),
    ],
)  # fmt: skip
def test_a_slip_is(name: str, meant: str) -> None:
    with pytest.raises(UnknownLayerError, match=rf"unknown module '{name}'; did you mean '{meant}'\?"):
        parse(f"[-1, 1, {name}, []]")


def test_names_from_elsewhere_are_explained() -> None:
    with pytest.raises(UnknownLayerError, match=r"listed elsewhere as Attention is MHSA here .*Ultralytics has an"):
        parse("[-1, 1, Attention, []]")
    assert type(parse("[-1, 1, CA, [1024, 1024]]")).__name__ == "CoordAtt"


def test_a_large_first_argument_of_a_layer_of_ones_own_that_needs_it() -> None:
    from torch import nn

    class Needy(nn.Module):
        def __init__(self, width: int, hidden: int) -> None:
            super().__init__()
            self.sizes = width, hidden

    yolo_attn.register("Needy", Needy)
    try:
        assert parse("[-1, 1, Needy, [512]]").sizes == (256, 512)
        assert parse("[-1, 1, Needy, [1024, 512]]").sizes == (256, 512)
    finally:
        yolo_attn.unregister("Needy")
