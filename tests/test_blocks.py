"""Attention inside a block, as rows write it, and where ``graft`` and names put it."""

from __future__ import annotations

import copy

import pytest
import yaml

from yolo_attn import blocks
from yolo_attn.errors import RowError
from yolo_attn.graft import find_rows, graft, graft_all, remove, split_name, split_names, to_yaml, without_gates

MODEL = {
    "nc": 2,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 3, "C2f", [16, True]],
        [-1, 1, "SPPF", [16, 5]],
    ],
    "head": [[-1, 1, "C3k2", [16, False]], [-1, 2, "A2C2f", [16, True]], [[3], 1, "Detect", ["nc"]]],
}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("CBAM", ("CBAM", [])),
        (["CBAM"], ("CBAM", [])),
        (["CBAM", 8, {"kernel_size": 3}], ("CBAM", [8, {"kernel_size": 3}])),
        (("SE", {"gate": False}), ("SE", [{"gate": False}])),
    ],
)
def test_the_forms_of_a_row(written: object, read: tuple) -> None:
    row = [-1, 3, "C2f", [128, True, {"attention": written}]]
    before = copy.deepcopy(row)
    assert blocks.attention_of(row) == read
    assert blocks.without_attention(row) == [-1, 3, "C2f", [128, True]]
    assert blocks.layers_of(row) == ["C2f", read[0]]
    assert blocks.attention_of(blocks.with_attention(row, "ECA")) == ("ECA", [])
    assert blocks.with_attention(row, "ECA", [3])[3] == [128, True, {"attention": ["ECA", 3]}]
    assert row == before


@pytest.mark.parametrize("args", [[128, True], [], [128, {"other": 1}]])
def test_rows_without_it_stay_as_they_are(args: list) -> None:
    row = [-1, 3, "C2f", args]
    assert blocks.attention_of(row) is None and blocks.find_slip(row) == ""
    assert blocks.without_attention(row) == row and blocks.layers_of(row) == ["C2f"]


@pytest.mark.parametrize("value", [None, "None", 3, [], [3], [["CBAM"]], {"CBAM": 8}, True])
def test_what_names_no_layer_is_quoted(value: object) -> None:
    with pytest.raises(RowError, match=r"names no layer; write \{attention: CBAM\}") as error:
        blocks.attention_of([-1, 1, "C3", [128, {"attention": value}]])
    assert repr(value) in str(error.value)


def test_arguments_beside_the_layer_go_into_its_list() -> None:
    row = [-1, 1, "C3", [128, {"attention": "CBAM", "reduction": 8}]]
    with pytest.raises(RowError, match=r"not 'reduction'; .* {attention: \[CBAM, {reduction: 8}\]}"):
        blocks.attention_of(row)


@pytest.mark.parametrize("key", ["atention", "Attention", "attn", "att"])
def test_a_mistyped_key_is_named(key: str) -> None:
    assert f"no keyword {key!r}; did you mean 'attention'?" in blocks.find_slip([-1, 1, "C3", [128, {key: "SE"}]])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"attention": "SE"}, "its own arguments first, in a list; write [128, {attention: SE}]"),
        ([{"attention": "SE"}, 128], "{attention: SE} must be the last"),
        ([128, {"attention": "SE"}, True], "{attention: SE} must be the last"),
        ([128, "attention: SE"], "'attention: SE' is text"),
        ([128, "{attention: SE}"], "is text; write {attention: CBAM}"),
        ([128, True, "SE"], "no argument 'SE'; write {attention: SE}"),
        ([128, {"SE": True}], "no keyword 'SE'; write {attention: SE}"),
    ],
)
def test_attention_written_in_another_place_is_told_where_it_goes(args: object, said: str) -> None:
    assert said in blocks.find_slip([-1, 1, "C3", args], {"SE"})


@pytest.mark.parametrize("row", [None, [], [-1, 1], "C2f", [-1, 1, 3, []], [-1, 1, "C2f", None]])
def test_what_is_no_row_names_nothing_or_its_module(row: object) -> None:
    assert blocks.layers_of(row) == (["C2f"] if isinstance(row, list) and "C2f" in row else [])


def test_graft_puts_a_layer_into_every_block_of_a_part() -> None:
    before = copy.deepcopy(MODEL)
    inside = {"attention": ["SE", {"reduction": 8}]}
    everywhere = graft(MODEL, "SE", "blocks", [{"reduction": 8}])
    assert everywhere["backbone"][1] == [-1, 3, "C2f", [16, True, inside]]
    assert everywhere["head"][0] == [-1, 1, "C3k2", [16, False, inside]]
    assert everywhere["head"][1:] == MODEL["head"][1:]  # with area attention it has no bottleneck
    assert graft(MODEL, "SEAttention", "backbone-blocks")["backbone"][1][3] == [16, True, {"attention": "SE"}]
    assert graft(MODEL, "SE", "backbone-blocks")["head"] == MODEL["head"]
    assert graft(MODEL, "SE", "neck-blocks")["backbone"] == MODEL["backbone"]
    assert [find_rows(MODEL, place) for place in ("blocks", "backbone-blocks", "neck-blocks")] == [[1, 3], [1], [3]]
    assert before == MODEL


def test_graft_combines_rows_and_blocks() -> None:
    both = graft_all(MODEL, [("SE", "blocks", []), ("CBAM", "backbone", []), ("ECA", ["neck-blocks", "neck"], [])][:2])
    assert [row[2] for row in both["backbone"]] == ["Conv", "C2f", "SPPF", "CBAM"]
    assert both["head"][0][3][-1] == {"attention": "SE"} and both["head"][-1][0] == [4]
    mixed = graft(MODEL, "ECA", ["neck-blocks", "neck"])
    assert mixed["head"][0][3][-1] == {"attention": "ECA"} and mixed["head"][1] == [-1, 1, "ECA", []]


def test_one_layer_fits_inside() -> None:
    with pytest.raises(RowError, match="at='neck-blocks': row 3, C3k2, has SE inside"):
        graft_all(MODEL, [("SE", "blocks", []), ("CBAM", "neck-blocks", [])])


def test_a_part_without_bottlenecks_is_an_error_that_lists_blocks_with_some() -> None:
    bare = {**MODEL, "backbone": MODEL["backbone"][:1]}
    with pytest.raises(RowError, match=r"at='backbone-blocks': no block there has bottlenecks.*C2f.*C3k2"):
        graft(bare, "SE", "backbone-blocks")


def test_remove_and_without_gates_reach_inside() -> None:
    model = graft(MODEL, "SE", "blocks")
    assert remove(model, {"SE"}) == MODEL
    assert remove(model, {"CBAM"}) == model
    assert without_gates(model)["head"][0][3] == [16, False, {"attention": ["SE", {"gate": False}]}]


def test_written_models_read_back() -> None:
    model = graft(MODEL, "CBAM", "blocks", [8, {"kernel_size": 3}])
    text = to_yaml(model, "x")
    assert "[-1, 3, C2f, [16, true, {attention: [CBAM, 8, {kernel_size: 3}]}]]" in text
    assert yaml.safe_load(text) == model


@pytest.mark.parametrize("place", ["blocks", "backbone-blocks", "neck-blocks"])
def test_names_know_the_places(place: str) -> None:
    assert split_name(f"yolo11n-cbam-{place}") == [("yolo11n", "CBAM", place)]
    assert split_names(f"yolo11n-eca-neck-cbam-{place}")[-1] == ("yolo11n", [("ECA", "neck"), ("CBAM", place)])
