"""The numbers as text and CSV: every class is there, and the reasons given are those that apply."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from yolo_attn.coco.evaluation import MEASURES, NUMBERS, PER_CLASS, Evaluation
from yolo_attn.coco.reasons import Reason
from yolo_attn.coco.report import compare_line, per_class_table, render, write_csv


def made(kind: str = "bbox", classes: int = 2, name: str = "class {}") -> Evaluation:
    """Return an evaluation in which every value differs."""
    numbers = {measure.name: 0.5 + 0.01 * i for i, measure in enumerate(MEASURES[kind])}
    names = [n for n in PER_CLASS if n in numbers]
    rows = [
        {"id": 10 * c, "name": name.format(c), "images": c, "instances": 2 * c}
        | {n: 0.1 + 0.01 * c + 0.001 * i for i, n in enumerate(names)}
        for c in range(classes)
    ]
    return Evaluation(kind, numbers, rows, images=7, instances=9)


@pytest.mark.parametrize("kind", MEASURES)
def test_every_official_number_has_its_line(kind: str) -> None:
    lines = render(made(kind)).splitlines()
    assert [line.split()[0] for line in lines] == [measure.name for measure in MEASURES[kind]]
    assert [float(line.split()[1]) for line in lines] == pytest.approx([0.5 + 0.01 * i for i in range(len(lines))])
    assert len(lines) == {"keypoints": 10}.get(kind, 12)


def test_nothing_to_measure_is_minus_one_as_coco_has_it() -> None:
    assert "AP     -1.0000" in render(replace(made(), numbers=dict.fromkeys(NUMBERS, -1.0)))


@pytest.mark.parametrize("classes", [0, 1, 2, 80])
def test_table_has_a_line_per_class_and_fits_a_terminal(classes: int) -> None:
    lines = per_class_table(made(classes=classes)).splitlines()
    labels = [f"class {c}" for c in range(classes)] + (["all"] if classes != 1 else [])
    assert [line[: line.index("  ")].strip() for line in lines[1:]] == labels
    assert {len(line) for line in lines} == {len(lines[0])} and len(lines[0]) <= 80
    if classes == 80:
        assert lines[3].split() == [
            "class",
            "2",
            "2",
            "4",
            "0.120",
            "0.121",
            "0.122",
            "0.123",
            "0.124",
            "0.125",
            "0.126",
        ]
        assert lines[-1].split() == ["all", "7", "9", "0.500", "0.510", "0.520", "0.530", "0.540", "0.550", "0.580"]


def test_table_shortens_long_names_and_shows_what_cannot_be_measured() -> None:
    evaluation = made("keypoints", 1, "a very long name of a category {} indeed")
    evaluation.per_class[0]["AP75"] = -1.0
    header, line = per_class_table(evaluation).splitlines()
    assert header.split() == ["class", "images", "instances", "AP", "AP50", "AP75", "APm", "APl", "AR"]
    assert line.startswith("a very long name o...") and len(line) == len(header) <= 80
    assert line.split()[-6:] == ["0.100", "0.101", "-", "0.103", "0.104", "0.105"]


def test_csv_of_one_kind(tmp_path: Path) -> None:
    evaluation = made(classes=2, name="Tür, {}")
    evaluation.per_class[1]["APs"] = -1.0
    write_csv(evaluation, tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert text == [
        "kind,id,name,images,instances,AP,AP50,AP75,APs,APm,APl,AR100",
        "bbox,,all,7,9,0.5,0.51,0.52,0.53,0.54,0.55,0.58",
        'bbox,0,"Tür, 0",0,0,0.1,0.101,0.102,0.103,0.104,0.105,0.106',
        'bbox,10,"Tür, 1",1,2,0.11,0.111,0.112,-1.0,0.114,0.115,0.116',
    ]


def test_csv_of_several_kinds_leaves_empty_what_a_kind_has_not(tmp_path: Path) -> None:
    write_csv([made("bbox"), made("keypoints")], tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["name"]) for row in rows] == [
        (kind, name) for kind in ("bbox", "keypoints") for name in ("all", "class 0", "class 1")
    ]
    boxes, points = rows[1], rows[4]
    assert (boxes["AR100"], boxes["AR"]) == ("0.106", "")
    assert (points["APs"], points["AR100"], points["AR"]) == ("", "", "0.105")


OWN = {kind: {"mAP50": 0.25, "mAP50-95": 0.125} for kind in MEASURES}


def test_both_maps_stand_side_by_side_for_each_kind() -> None:
    lines = compare_line([made("bbox"), made("segm")], OWN, REASONS).splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["mAP50", "mAP50-95"],
        ["Ultralytics,", "boxes", "0.2500", "0.1250"],
        ["COCO,", "boxes", "0.5100", "0.5000"],
        ["Ultralytics,", "masks", "0.2500", "0.1250"],
        ["COCO,", "masks", "0.5100", "0.5000"],
    ]
    assert len(lines) == 6


def test_no_reason_where_nothing_differs_and_no_number_where_nothing_was_measured() -> None:
    same = made("bbox")
    own = {"bbox": {"mAP50": same.numbers["AP50"], "mAP50-95": same.numbers["AP"] + 1e-5}}
    assert "They differ" not in compare_line(same, own, REASONS)
    empty = replace(same, numbers=dict.fromkeys(same.numbers, -1.0))
    lines = compare_line(empty, OWN, REASONS).splitlines()
    assert lines[-1].split() == ["COCO,", "boxes", "-", "-"] and len(lines) == 3


REASONS = {
    "bbox": [
        Reason("reads in steps", (0.0002, -0.0104)),
        Reason("cuts", (0.003, 0.001)),
        Reason("nothing", (4e-5, 0.0)),
    ],
    "segm": [Reason("compares masks", (0.01, 0.02), is_about=True), Reason("was not measured")],
}


def test_reasons_stand_in_their_order_with_the_larger_of_their_sizes() -> None:
    line = compare_line(made("bbox"), OWN, REASONS).splitlines()[-1]
    assert line == "They differ because COCO reads in steps [-0.0104 mAP50-95] and cuts [+0.0030 mAP50]."


def test_each_kind_has_its_own_reasons() -> None:
    line = compare_line([made("bbox"), made("segm")], OWN, REASONS).splitlines()[-1]
    assert line.startswith("They differ because COCO, for boxes, reads in steps [")
    assert line.endswith("; for masks, compares masks [about +0.0200 mAP50-95].")


def test_without_reasons_only_the_numbers_are_said() -> None:
    assert "They differ" not in compare_line(made("bbox"), OWN)
