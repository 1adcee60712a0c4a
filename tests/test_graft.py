"""Surgery on model dictionaries: the graph after an insertion, worked out by an independent reading of the rows."""

from __future__ import annotations

import copy

import pytest
import yaml

from yolo_attn.errors import RowError, UnknownLayerError
from yolo_attn.graft import find_rows, graft, graft_all, remove, split_name, strides, to_yaml, without_gates

MODEL = {
    "nc": 2,
    "scales": {"n": [0.33, 0.25, 1024]},
    "backbone": [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 1, "SPPF", [128, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 0], 1, "Concat", [1]],
        [-1, 1, "C2f", [64]],
        [-2, 1, "C2f", [64]],
        [[5, 2, -1], 1, "Detect", ["nc"]],
    ],
}


def sources(model: dict) -> list[tuple[str, list[str]]]:
    """Return for each row its module and the modules (with position among equals) that it reads."""
    rows = model["backbone"] + model["head"]
    label = [f"{row[2]}#{sum(r[2] == row[2] for r in rows[:i])}" for i, row in enumerate(rows)]
    graph = []
    for i, row in enumerate(rows):
        reads = [row[0]] if isinstance(row[0], int) else row[0]
        graph.append((label[i], ["input" if (k := s if s >= 0 else i + s) < 0 else label[k] for s in reads]))
    return graph


@pytest.mark.parametrize("after", range(7))
def test_readers_of_the_row_before_read_the_attention_and_nothing_else_changes(after: int) -> None:
    plain = sources(MODEL)
    grafted = dict(sources(graft(MODEL, "SE", after)))
    assert grafted.pop("SE#0") == [plain[after][0]]
    for label, reads in plain:
        assert grafted[label] == ["SE#0" if r == plain[after][0] else r for r in reads]


def test_several_places_at_once() -> None:
    result = graft(MODEL, "SEAttention", ["backbone", 0, "neck"])
    rows = result["backbone"] + result["head"]
    assert [i for i, row in enumerate(rows) if row[2] == "SE"] == [1, 4, 8, 10]
    assert rows[-1][0] == [8, 4, -1]


def test_the_input_is_not_changed_and_arguments_are_kept() -> None:
    before = copy.deepcopy(MODEL)
    result = graft(MODEL, "CBAM", "backbone", [8, {"kernel_size": 3}])
    assert before == MODEL
    assert result["backbone"][-1] == [-1, 1, "CBAM", [8, {"kernel_size": 3}]]


def test_yaml_text_reads_back_as_the_same_model() -> None:
    result = graft(MODEL, "CBAM", "neck", [{"kernel_size": 3}])
    text = to_yaml(result, "Title")
    assert yaml.safe_load(text) == result
    assert "# 0-P1/2" in text and text.startswith("# Title\n")


def test_places_that_do_not_exist_are_named() -> None:
    for place in ("nek", 7, -1):
        with pytest.raises(RowError, match=f"at={place!r}"):
            find_rows(MODEL, place)
    with pytest.raises(UnknownLayerError, match="CBAMM"):
        graft(MODEL, "CBAMM", "neck")


@pytest.mark.parametrize("places", [["backbone"], ["neck"], ["stages"], [0, 1, 4], ["stages", "neck", 3]], ids=str)
def test_remove_undoes_a_graft(places: list) -> None:
    assert sources(remove(graft(MODEL, "SE", places), {"SE"})) == sources(MODEL)
    twice = graft_all(MODEL, [("SE", places, []), ("CBAM", places, [])])
    assert sources(remove(twice, {"SE", "CBAM"})) == sources(MODEL)
    assert sources(remove(twice, {"CBAM"})) == sources(graft(MODEL, "SE", places))


def test_two_layers_at_one_place_stand_one_behind_the_other() -> None:
    graph = dict(sources(graft_all(MODEL, [("SE", "backbone", []), ("CBAM", ["backbone", 0], [])])))
    assert graph["SE#0"] == ["SPPF#0"] and graph["CBAM#1"] == ["SE#0"]
    assert graph["nn.Upsample#0"] == ["CBAM#1"] and graph["Conv#1"] == ["CBAM#0"]


def test_strides_and_levels() -> None:
    assert strides(MODEL) == [2, 4, 4, 2, 2, 2, 2, 0]
    assert find_rows(MODEL, "stages") == [2] == find_rows(MODEL, "backbone-p2")
    with pytest.raises(RowError, match="at='neck-p5': this model has neck-p1, neck-p2"):
        find_rows(MODEL, "neck-p5")
    with pytest.raises(RowError, match="say which: 'backbone-p2' or 'neck-p2'"):
        find_rows(MODEL, "p2")


def test_rows_that_give_no_single_map_are_refused() -> None:
    model = copy.deepcopy(MODEL)
    model["backbone"].insert(1, [-1, 1, "CBLinear", [[64]]])
    with pytest.raises(RowError, match="row 1, CBLinear, gives several maps"):
        graft(model, "SE", 1)


@pytest.mark.parametrize(
    ("name", "readings"),
    [
        ("yolov8n-cbam", [("yolov8n", "CBAM", "backbone")]),
        ("yolo26n-seg-biformer-neck", [("yolo26n-seg", "BiFormer", "neck")]),
        ("yolov8n-cls-mhsa-lepe-stages", [("yolov8n-cls", "MHSALePE", "stages")]),
        ("rtdetr-l-se-backbone-p4", [("rtdetr-l", "SE", "backbone-p4")]),
        ("yolov8n-se-cbam", [("yolov8n-se", "CBAM", "backbone")]),
        ("yolov8n-seg", []),
        ("yolov8n-cbam-nek", []),
    ],
)
def test_names_of_grafted_models(name: str, readings: list) -> None:
    assert split_name(name) == readings


def test_without_gates_says_so_in_every_row_of_ours() -> None:
    model = graft_all(MODEL, [("SE", 0, []), ("CBAM", 1, [8, {"kernel_size": 3}])])
    rows = without_gates(model)["backbone"]
    assert rows[1][3] == [{"gate": False}] and rows[3][3] == [8, {"kernel_size": 3, "gate": False}]
    assert rows[0] == MODEL["backbone"][0] and model["backbone"][1][3] == []
