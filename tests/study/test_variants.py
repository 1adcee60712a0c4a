"""The variants of a study: what they are called, what stands in them, and what the controls are matched to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from yolo_attn.errors import RowError, StudyError
from yolo_attn.graft import split_arguments
from yolo_attn.study import settings, variants

DATA = {"names": ["a", "b", "c"], "channels": 3}


def make(*words: str, said: list[str] | None = None) -> dict[str, dict[str, Any]]:
    request = settings.read(["data=shapes.yaml", "imgsz=64", "name=not-there", *words])
    made = variants.make(request.settings, DATA, (said if said is not None else []).append)
    return {one["name"]: one for one in made}


def rows(variant: dict[str, Any]) -> list[list[Any]]:
    content = yaml.safe_load(variant["text"])
    return [*content["backbone"], *content["head"]]


def test_every_layer_stands_at_every_place_beside_the_controls() -> None:
    made = make("model=yolov8n", "layers=se,cbam", "at=backbone,neck")
    assert {name: one["kind"] for name, one in made.items()} == {
        "yolov8n": "plain", "yolov8n-pointwise-backbone": "pointwise", "yolov8n-pointwise-neck": "pointwise",
        "yolov8s": "larger", "yolov8n-se-backbone": "attention", "yolov8n-cbam-backbone": "attention",
        "yolov8n-se-neck": "attention", "yolov8n-cbam-neck": "attention",
    }  # fmt: skip
    assert made["yolov8s"]["parameters"] > 3 * made["yolov8n"]["parameters"] and made["yolov8s"]["scale"] == "s"
    text = yaml.safe_load(made["yolov8n-cbam-neck"]["text"])
    assert text["nc"] == 3 and list(text["scales"]) == ["n"]
    assert sum(row[2] == "CBAM" for row in rows(made["yolov8n-cbam-neck"])) == 3


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("yolov8n", "neck"),
        ("yolov8s", "backbone"),
        ("yolo11n", "blocks"),
        pytest.param("yolov8m", "blocks", marks=pytest.mark.slow),
        pytest.param("yolov8l", "neck", marks=pytest.mark.slow),
        pytest.param("yolov8x", "stages", marks=pytest.mark.slow),
    ],
)
def test_the_control_has_as_many_parameters_as_the_most_expensive_layer(model: str, place: str) -> None:
    made = make(f"model={model}", "layers=se,caa", f"at={place}", "controls=pointwise")
    control, most = made[f"{model}-pointwise-{place}"], made[f"{model}-caa-{place}"]
    assert control["matched"] == most["name"]
    assert most["parameters"] > made[f"{model}-se-{place}"]["parameters"]
    more = [one["parameters"] - made[model]["parameters"] for one in (control, most)]
    assert abs(more[0] - more[1]) < 0.02 * more[1]
    for row, parameters in most["rows"].items():  # in each row half a hidden unit is the most that it can be off
        assert abs(control["rows"][row] - parameters) <= 0.1 * parameters


def test_each_layer_can_have_its_own_control() -> None:
    made = make("model=yolov8n", "layers=se,caa", "at=neck", "controls=pointwise", "pointwise=each")
    assert made["yolov8n-pointwise-se-neck"]["matched"] == "yolov8n-se-neck"
    assert made["yolov8n-pointwise-caa-neck"]["parameters"] > made["yolov8n-pointwise-se-neck"]["parameters"]


def test_a_control_is_at_least_one_unit_wide() -> None:
    made = make("model=yolov8n", "layers=simam", "at=neck", "controls=pointwise")
    assert [row[3] for row in rows(made["yolov8n-pointwise-neck"]) if row[2] == "Pointwise"] == [
        [{"hidden": 1, "gate": False}]
    ] * 3


def test_from_scratch_layers_start_as_in_their_paper_and_in_pretrained_weights_as_the_identity(tmp_path: Path) -> None:
    scratch = make("model=yolov8n", "layers=se", "at=neck")
    (tmp_path / "base.pt").touch()
    tuned = make("model=yolov8n", "layers=se", "at=neck", f"pretrained={tmp_path}/base.pt", "controls=pointwise")
    for name, layer in (("yolov8n-se-neck", "SE"), ("yolov8n-pointwise-neck", "Pointwise")):
        gates = [split_arguments(row[3])[1].get("gate") for row in rows(scratch[name]) if row[2] == layer]
        assert gates == [False] * 3
        gates = [split_arguments(row[3])[1].get("gate") for row in rows(tuned[name]) if row[2] == layer]
        assert gates == [None] * 3


def test_in_pretrained_weights_gates_can_be_left_out_of_layers_and_control(tmp_path: Path) -> None:
    (tmp_path / "base.pt").touch()
    made = make("model=yolov8n", "layers=se", f"pretrained={tmp_path}/base.pt", "controls=pointwise", "gate=false")
    found = [row for one in made.values() for row in rows(one) if row[2] in ("SE", "Pointwise")]
    assert [split_arguments(row[3])[1].get("gate") for row in found] == [False] * 2 * (1 + 3)


def test_own_models_keep_what_their_rows_say(tmp_path: Path) -> None:
    from yolo_attn.graft import graft, to_yaml
    from yolo_attn.host.study.models import load

    model = graft(graft(load("yolov8n"), "SE", "neck-p3", [{"gate": True}]), "SE", "backbone")
    own = tmp_path / "yolov8n-own.yaml"
    own.write_text(to_yaml({k: v for k, v in model.items() if k not in ("scale", "yaml_file")}, "own"))
    made = make("model=yolov8n", f"models={own}", "controls=none")["yolov8n-own"]
    assert made["kind"] == "own"
    assert [row[3][-1]["gate"] for row in rows(made) if row[2] == "SE"] == [False, True]


def test_without_a_larger_scale_or_its_weights_the_plan_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    assert "larger" not in {one["kind"] for one in make("model=yolov9t", "layers=se", "at=neck", said=said).values()}
    assert said == ["no control of the next larger scale: yolov9t has none"]
    (tmp_path / "yolov8n.pt").touch()
    words = ["model=yolov8n", "layers=se", "at=neck", f"pretrained={tmp_path}/yolov8n.pt"]
    assert "yolov8s" not in make(*words, said=said) and "give larger_pretrained=" in said[-1]
    (tmp_path / "yolov8s.pt").touch()
    assert make(*words)["yolov8s"]["pretrained"] == f"{tmp_path}/yolov8s.pt"


@pytest.mark.parametrize("place", ["nowhere", "neck-p9", "99"])
def test_a_place_that_is_not_there_is_an_error(place: str) -> None:
    with pytest.raises(RowError, match="at="):
        make("model=yolov8n", "layers=se", f"at={place}")


def test_a_layer_that_cannot_be_built_is_an_error() -> None:
    with pytest.raises(RowError, match="no argument 'nonsense'"):
        make("model=yolov8n", "layers=[{SE: {nonsense: 3}}]", "at=neck")


def test_two_variants_of_one_name_are_refused(tmp_path: Path) -> None:
    from yolo_attn.graft import to_yaml
    from yolo_attn.host.study.models import load

    own = tmp_path / "yolov8n.yaml"
    own.write_text(to_yaml({k: v for k, v in load("yolov8n").items() if k not in ("scale", "yaml_file")}, "own"))
    with pytest.raises(StudyError, match="two variants are called yolov8n"):
        make("model=yolov8n", f"models={own}", "controls=none")


def test_an_own_model_of_another_scale_is_no_pair() -> None:
    with pytest.raises(StudyError, match=r"models=yolov8s-se\.yaml has scale s, and yolov8n has n"):
        make("model=yolov8n", "models=yolov8s-se.yaml", "controls=none")
