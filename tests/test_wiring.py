"""The wiring of model YAMLs: what is wrong is found, what the host ships and what graft writes is not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from yolo_attn import registry
from yolo_attn.errors import RowError
from yolo_attn.graft import absolute, find_rows, graft, graft_all, listed, remove
from yolo_attn.wiring import Finding, Graph, findings, repeated_keys

Model = dict[str, Any]
HOST = Path(find_spec("ultralytics").origin).parent / "cfg" / "models"
OURS = Path(__file__).parents[1] / "cfg" / "models"
SHIPPED = {file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(HOST.rglob("*.yaml"))}


def rows_of(model: Model) -> list[list[Any]]:
    return [*model["backbone"], *model["head"]]


def insert_alone(model: Model, index: int) -> Model:
    """Return a copy with SE as row ``index`` and no number changed, as people forget to."""
    result, backbone = copy.deepcopy(model), len(model["backbone"])
    part, position = ("backbone", index) if index <= backbone else ("head", index - backbone)
    result[part].insert(position, [-1, 1, "SE", []])
    return result


def grafts(model: Model) -> Iterator[tuple[int, Model]]:
    """Yield every model that graft makes of one with SE after one row."""
    for index in range(len(rows_of(model)) - 1):
        try:
            find_rows(model, index)
        except RowError:
            continue  # no map to attend to
        yield index, graft(model, "SE", index)


def messages(model: Model) -> list[str]:
    return [finding.message for finding in findings(model)]


def only(model: Model, kind: str) -> Finding:
    (found,) = findings(model)
    assert found.kind == kind
    return found


def yolov8(**changes: Any) -> Model:
    return copy.deepcopy(SHIPPED["yolov8.yaml"]) | changes


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_is_wrong_with_what_the_host_ships_nor_with_any_graft_of_it(name: str) -> None:
    model = SHIPPED[name]
    assert findings(model) == []
    for index, grafted in grafts(model):
        assert findings(grafted) == [], index
        assert findings(remove(grafted, {"SE"})) == [], index


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_is_wrong_with_several_layers_at_several_places(name: str) -> None:
    model = SHIPPED[name]
    for layer, places in (("CBAM", ["backbone"]), ("CoordAtt", ["stages"]), ("BiFormer", ["neck"])):
        both = [(layer, places, [{"gate": True}]), ("SE", ["stages", "backbone"], [])]
        assert findings(graft_all(model, both)) == []
        assert findings(remove(graft_all(model, both), {"SE"})) == []


def test_nothing_is_wrong_with_our_own_files() -> None:
    files = sorted(OURS.glob("*.yaml"))
    texts = {file.name: file.read_text(encoding="utf-8") for file in files}
    assert len(texts) >= 2 * len(registry.TABLE)
    wrong = {name: findings(yaml.safe_load(text)) + repeated_keys(text) for name, text in texts.items()}
    assert not any(wrong.values()), wrong


@pytest.mark.parametrize("name", SHIPPED)
def test_every_row_inserted_without_raising_the_numbers_is_found(name: str) -> None:
    model = SHIPPED[name]
    right = {tuple(map(tuple, Graph.of(grafted).reads)) for _, grafted in grafts(model)}
    for index in range(1, len(rows_of(model))):
        wrong = insert_alone(model, index)
        is_right = tuple(map(tuple, Graph.of(wrong).reads)) in right
        assert bool(findings(wrong)) != is_right, index


def left_behind(model: Model) -> Iterator[Model]:
    """Yield every graft of a model in which one number, or all but those of the head, was not raised."""
    for index, grafted in grafts(model):
        forgotten = rows_of(insert_alone(model, index + 1))
        whole = copy.deepcopy(grafted)
        moved = [
            (number, position, old)
            for number, (row, other) in enumerate(zip(rows_of(grafted), forgotten, strict=True))
            for position, (new, old) in enumerate(zip(listed(row[0]), listed(other[0]), strict=True))
            if old >= 0 and absolute(new, number) != old
        ]
        for number, position, old in moved:
            one = copy.deepcopy(grafted)
            for target in (one, whole) if number < len(forgotten) - 1 else (one,):
                row = rows_of(target)[number]
                if isinstance(row[0], list):
                    row[0][position] = old
                else:
                    row[0] = old
            yield one
        if any(number < len(forgotten) - 1 for number, _, _ in moved):
            yield whole


def test_numbers_left_behind_are_found() -> None:
    # Fusion rows of YOLOv9e join maps of any size and are told apart by their widths alone.
    cases = [case for name, model in SHIPPED.items() if "yolov9e" not in name for case in left_behind(model)]
    missed = [case for case in cases if not findings(case)]
    assert len(cases) > 5000 and not missed


def test_a_row_that_no_row_reads_is_named_with_what_was_meant() -> None:
    model = yolov8()
    model["head"].insert(-1, [-1, 1, "CBAM", [1024]])
    assert messages(model) == [
        "row 22, CBAM, is read by no row and learns nothing; Detect reads [15, 18, 21]: 22 instead of 21?"
    ]
    model["head"].insert(-1, [-1, 1, "SE", []])
    assert messages(model) == [
        "row 23, SE, is read by no row, row 22 only by rows that lead to it, and learns nothing; "
        "Detect reads [15, 18, 21]: 23 instead of 21?"
    ]


def test_a_row_inserted_between_the_two_that_a_concat_reads_from_its_own() -> None:
    model = copy.deepcopy(SHIPPED["rtdetr-l.yaml"])
    right = graft(model, "SE", 14)
    right["head"][16 - len(right["backbone"])][0] = [-2, -1]
    assert messages(right) == [
        "row 13, nn.Upsample, is read by no row and learns nothing; Concat reads [14, 15]: 13 instead of 14?"
    ]


@pytest.mark.parametrize(
    ("reads", "said"),
    [
        ([18, 15, 21], "reads [18, 15, 21] with strides 16, 8, 32; it takes level after level, each of twice the "
         "stride: [15, 18, 21] instead?"),
        ([18, 15, 18], "strides 16, 8, 16"),
        ([15, 21], "strides 8, 32; it takes level after level, each of twice the stride: [15, 18, 21] instead?"),
        ([2, 15, 15, 21], "strides 4, 8, 8, 32; it takes level after level, each of twice the stride: [2, 15, 18, 21]"),
        ([0, 1, 15], "strides 2, 4, 8; it takes level after level, each of twice the stride: [15, 18, 21] instead?"),
    ],
)  # fmt: skip
def test_a_head_that_reads_other_levels_or_another_order(reads: list[int], said: str) -> None:
    model = yolov8()
    model["head"][-1][0] = reads
    (found,) = [finding for finding in findings(model) if finding.kind == "head"]
    assert found.row == 22 and found.message.startswith("row 22, Detect, ") and said in found.message


@pytest.mark.parametrize("reads", [[15, 18], [18, 21], [21], [2, 15, 18, 21]])
def test_a_head_may_have_fewer_or_more_levels(reads: list[int]) -> None:
    model = yolov8()
    model["head"][-1][0] = reads
    assert not any(finding.kind == "head" for finding in findings(model))


def test_a_model_without_a_head_is_told() -> None:
    model = yolov8()
    model["head"][-1] = [[15, 18, 21], 1, "C2f", [64]]
    assert "row 22, C2f, gives the output, but it is no head such as Detect" in messages(model)
    model["head"][-1][2] = "SomebodysHead"
    assert messages(model) == []


def test_maps_of_two_sizes_cannot_be_joined() -> None:
    model = yolov8()
    model["head"][1][0] = [-1, 3]
    found = findings(model)[0]
    assert found.fatal and found.message == (
        "row 11, Concat, joins maps of two sizes: row 10 (stride 16) and row 3 (stride 8); 5 instead of 3?"
    )


def test_what_follows_from_maps_of_two_sizes_is_not_told() -> None:
    model = yolov8()
    model["head"][7][0] = [-1, 9]
    assert messages(model) == [
        "row 17, Concat, joins maps of two sizes: row 16 (stride 16) and row 9 (stride 32); 10 instead of 9?"
    ]


def test_sizes_that_are_not_known_are_not_judged() -> None:
    model = yolov8()
    model["head"][1][0] = [-1, 3]
    model["backbone"][3][2] = "SomebodysLayer"
    assert not any(finding.kind == "size" for finding in findings(model))


def test_a_lateral_that_reads_past_an_attention() -> None:
    model = graft(yolov8(), "CBAM", 6)
    assert model["head"][1][0] == [-1, 7]
    model["head"][1][0] = [-1, 6]
    found = only(model, "bypass")
    assert not found.fatal and found.message == (
        "row 12, Concat, reads row 6, C2f, past row 7, CBAM, which works on it: 7 instead of 6?"
    )


def test_a_map_joined_with_what_it_became_is_meant_so() -> None:
    # A block written as rows: both halves are read again where they meet.
    model = yolov8()
    model["head"][-1][0] = [15, 18, 25]
    model["head"][-1:-1] = [[-1, 1, "SE", []], [-2, 1, "Conv", [64, 1, 1]], [[21, 22, 23], 1, "Concat", [1]],
                            [-1, 1, "Conv", [64, 1, 1]]]  # fmt: skip
    assert messages(model) == []


@pytest.mark.parametrize(
    ("row", "source", "said"),
    [
        (9, 9, "row 9: SPPF reads from 9; give -1 or an index from 0 to 8"),
        (9, 12, "row 9: SPPF reads from 12; give -1 or an index from 0 to 8"),
        (9, -12, "row 9: SPPF reads from -12; give"),
        (9, "8", "row 9: SPPF reads from '8'; give"),
        (9, True, "row 9: SPPF reads from True; give"),
        (0, 0, "row 0: Conv reads from 0; the first row reads the input, -1"),
        (11, [-1, 11], "row 11: Concat reads from 11; give"),
        (11, [], "row 11: Concat reads from []; give"),
        (11, [-1, None], "row 11: Concat reads from None; give"),
    ],
)
def test_rows_that_read_what_is_not_there(row: int, source: Any, said: str) -> None:
    model = yolov8()
    rows_of(model)[row][0] = source
    found = only(model, "from")
    assert found.fatal and found.row == row and found.message.startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: rows_of(m)[18].__setitem__(0, [-1, -1]),
         "row 18, C2f, reads [17, 17]: row 17, Concat, more than once"),
        (lambda m: m["head"].append([-1, 1, "SE", []]),
         "row 23, SE, reads row 22, Detect, which gives the output, not one map"),
    ],
)  # fmt: skip
def test_other_slips(change: Callable[[Model], None], said: str) -> None:
    model = yolov8()
    change(model)
    assert said in messages(model)


def test_fusion_rows_read_what_they_can_fuse() -> None:
    model = copy.deepcopy(SHIPPED["yolov9e.yaml"])
    row = next(row for row in rows_of(model) if row[2] == "CBFuse")
    row[0][0] = 2
    assert any("all it reads but the last must be CBLinear" in message for message in messages(model))
    row[2] = "Concat"
    assert any("which gives several maps, not one map" in message for message in messages(model))


@pytest.mark.parametrize("row", [None, [-1, 1, "SE"], [-1, 1, 3, []], "SE", []])
def test_rows_of_another_form(row: Any) -> None:
    model = yolov8()
    model["backbone"][4] = row
    found = only(model, "form")
    assert found.fatal and found.message == f"row 4: {row!r} is not of the form [from, number, module, args]"


def test_rows_under_another_key() -> None:
    model = yolov8()
    model["neck"] = model["head"][:-1]
    model["head"] = model["head"][-1:]
    found = only(model, "section")
    assert found.fatal and found.message == (
        "'neck' is not read by Ultralytics; move its rows to the start of 'head' and renumber"
    )
    model["pan"], model["neck"] = model["neck"][3:], model["neck"][:3]
    assert only(model, "section").message == (
        "'neck' and 'pan' are not read by Ultralytics; move their rows, in this order, to the start of 'head' and "
        "renumber"
    )
    model = yolov8(neck=[[-1, 1, "SE", []]])  # it is not needed to build, and not read
    assert only(model, "section").fatal is False


@pytest.mark.parametrize(
    ("change", "said", "fatal"),
    [
        ({"scale": "n", "scales": {"s": [1, 1, 8]}}, "scale 'n' is asked for, but 'scales' has s: add it there", True),
        ({"scale": "s", "scales": {"s": [1, 1]}}, "scales: s: [1, 1] is not [depth, width, max_channels]", True),
        ({"scale": "s", "scales": {"s": [1, 1, 8], "n": 3}}, "scales: n: 3 is not [depth, width", False),
        ({"scale": "s", "scales": {"s": [1, "1", 8]}}, "scales: s: [1, '1', 8] is not [depth, width, max", True),
        ({"nc": "four"}, "nc: 'four' is no number of classes", True),
        ({"activaton": "nn.ReLU()"}, "'activaton' is not read by Ultralytics; did you mean 'activation'?", False),
        ({"anything": 1}, "'anything' is not read by Ultralytics", False),
        ({"backbone": None}, "'backbone' is empty; it takes a list of rows", True),
        ({"head": {}}, "'head' is empty; it takes a list of rows", True),
        ({"nc": None}, "'nc' is missing: it gives the number of classes", True),
    ],
)
def test_keys(change: dict[str, Any], said: str, fatal: bool) -> None:
    (found,) = findings(yolov8(**change))
    assert found.message.startswith(said) and found.fatal is fatal


def test_a_part_that_is_missing_is_looked_for_under_other_keys() -> None:
    model = yolov8()
    model["Head"] = model.pop("head")
    assert messages(model)[0] == "'head' is missing; it takes a list of rows; its rows stand under 'Head'"


def test_a_file_without_rows_is_no_model() -> None:
    (found,) = findings({"path": "coco8", "train": "images/train", "tracker": "x", "shear": 0})
    assert found.fatal and found.message == "it has neither 'backbone' nor 'head', so it is no model YAML"


@pytest.mark.parametrize(
    "change", [{"scale": ""}, {"scale": "n"}, {"_rows": [1]}, {"x-note": 2}, {"anchors": [[1, 2]]}]
)
def test_keys_that_are_no_mistake(change: dict[str, Any]) -> None:
    assert findings(yolov8(**change)) == []


def test_repeated_keys_of_a_text() -> None:
    text = "nc: 1\nscales:\n  n: [1, 1, 8]\n  n: [2, 2, 8]\nhead: []\nnc: 2\n"
    assert [finding.message for finding in repeated_keys(text)] == [
        "'nc' is given 2 times, in lines 1, 6: only the last one is read",
        "'scales.n' is given 2 times, in lines 3, 4: only the last one is read",
    ]
    assert repeated_keys("a: [") == repeated_keys("") == repeated_keys("nc: 1\nhead: [nc, nc]") == []


def test_aliases_that_explode_are_cut() -> None:
    text = "a: &a0 [x]\n" + "".join(
        f"k{n}: &a{n} {{{', '.join(f'b{m}: *a{n - 1}' for m in range(9))}}}\n" for n in range(1, 30)
    )
    one_line = "{" + ", ".join(line for line in text.splitlines()) + ", head: 1, head: 2}"
    assert len(repeated_keys(one_line)) == 1
    assert repeated_keys(text + "head: []\nhead: []\n")[0].message.startswith("'head' is given 2 times")
    nested: list[Any] = ["x"]
    for _ in range(30):
        nested = [nested] * 9
    model = yolov8()
    model["backbone"][4] = nested
    assert len(messages(model)[0]) < 4000
    model["backbone"][4] = [nested, 1, "SE", []]
    assert all(len(message) < 4000 for message in messages(model))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-40, 40) | st.text(max_size=4) | st.sampled_from(["Concat", "SE", "Conv"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)  # fmt: skip


@given(st.data())
def test_no_model_breaks_the_check(data: st.DataObject) -> None:
    model = yolov8()
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(["backbone", "head"]))
        place = data.draw(st.integers(0, len(model[part]) - 1))
        if data.draw(st.booleans()):
            model[part][place] = data.draw(VALUES)
        elif isinstance(model[part][place], list) and len(model[part][place]) == 4:
            model[part][place][data.draw(st.integers(0, 3))] = data.draw(VALUES)
    model[data.draw(st.sampled_from(["scales", "scale", "nc", "neck", "head"]))] = data.draw(VALUES)
    assert all(isinstance(finding.message, str) for finding in findings(model))
