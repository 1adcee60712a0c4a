"""The export matrix: cells that crash or hang are rows, what is measured is kept, and each gap is explained."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("ultralytics")

from experiments import evidence, export_matrix, export_models, export_table
from experiments.export_matrix import COLUMNS, Column
from yolo_attn import registry
from yolo_attn.host.run.export_check import Row

RESULTS = Path(__file__).parents[2] / "results"


def row(layer: str, place: str, column: str, state: str, **more: object) -> dict:
    slug = {layer.name: layer.slug for layer in registry.TABLE}.get(layer, "")
    model = f"yolov8n-{slug}{export_models.PLACES[place]}" if slug else "yolov8n"
    return {"model": model, "layer": layer, "place": place, "column": column, "state": state, **more}


def test_a_cell_that_crashes_or_hangs_is_a_row() -> None:
    def crash(file: str, sizes: list[list[int]]) -> Row:
        faulthandler.disable()  # its dump would look like a crash of the tests
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError

    def hang(file: str, sizes: list[list[int]]) -> Row:
        time.sleep(60)
        raise AssertionError

    def refuse(file: str, sizes: list[list[int]]) -> Row:
        raise ValueError("no such operator\nand more")

    notes = [export_matrix.measure(Path("model.pt"), Column("x", run=run), [], 3).note for run in (crash, hang, refuse)]
    assert notes == ["the process ended with SIGSEGV", "not finished after 3 s", "ValueError: no such operator"]


def test_what_has_a_row_is_not_measured_again() -> None:
    rows = [row("SE", "neck", "TorchScript", "same")]
    left = export_matrix.cells(rows, ["yolov8n", "yolov8n-se-neck"], ["TorchScript", "torch.export"])
    assert [(model, column.name) for model, column in left] == [
        ("yolov8n", "TorchScript"), ("yolov8n", "torch.export"), ("yolov8n-se-neck", "torch.export"),
    ]  # fmt: skip


def test_a_row_says_what_was_found_without_this_machines_folders() -> None:
    found = Row("differs", 0.5, 1e-3, 1e-6, layer="row 10, SE", note="not found: /tmp/x/y/model.py", log="long")
    entry = export_matrix._entry("yolov8n-mhsa-lepe-neck", COLUMNS[0], found)
    assert (entry["layer"], entry["place"], entry["first"]) == ("MHSALePE", "neck", "row 10, SE")
    assert entry["note"] == "not found: model.py" and "log" not in entry
    inside = export_matrix._entry("yolov8n-polarized-seq-blocks", COLUMNS[0], found)
    assert (inside["layer"], inside["place"]) == ("PolarizedSeq", "blocks")
    plain = export_matrix._entry("yolov8n", COLUMNS[0], Row("same", 0.0))
    assert (plain["layer"], plain["place"], plain["column"]) == ("none", "", COLUMNS[0].name)


def test_the_table_marks_each_place_and_says_whose_limit_it_is() -> None:
    rows = [row("none", "", "ncnn", "same", difference=1e-7)]
    rows += [row("SE", place, "ncnn", "same", difference=3e-6) for place in export_table.PLACES]
    rows += [row("BiFormer", place, "ncnn", "failed", note="IndexError: x") for place in export_table.PLACES]
    rows += [row("CBAM", "backbone", "ncnn", "same"), row("CBAM", "neck", "ncnn", "differs", difference=0.9)]
    rows += [row("CAA", "neck", "ncnn", "same"), row("SE", "blocks", "ONNX", "same", difference=1e-7)]
    lines = export_table.export_table({"rows": rows}).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.strip(" |").split(" | ")[1:] for line in lines if line[:1] == "|"}
    assert (
        cells["YOLOv8n"] == ["✓"]
        and cells["SE"] == ["✓", "✓ blocks"]
        and cells["largest difference"] == ["3e-06", "1e-07"]
    )
    assert [cells[name] for name in ("BiFormer", "CBAM", "CAA")] == [["[1]"], ["backbone ✓, neck [2]"], ["✓ neck"]]
    assert "7 of 11 exports are the same as their PyTorch model." in lines
    rest = lines
    assert rest[-2].startswith("1. ncnn, BiFormer: ncnn holds at most four dimensions")
    assert rest[-1].startswith("2. ncnn, CBAM: Not looked into.")


def test_a_layer_that_would_hide_a_fault_is_refused(tmp_path: Path, monkeypatch) -> None:
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").save(tmp_path / "base.pt")
    images = torch.rand(1, 3, 64, 64)
    monkeypatch.setattr(export_models, "EFFECT", -1.0)  # nothing matters much in a base that is not trained
    built = export_models.build_all(["yolov8n-se"], tmp_path / "models", tmp_path / "base.pt", images)
    gates = [p for name, p in YOLO(str(built["yolov8n-se"])).model.named_parameters() if name.endswith(".gate")]
    assert gates and all(8 * gate.item() == export_models.GATE for gate in gates)
    monkeypatch.undo()
    monkeypatch.setattr(export_models, "_open_gates", lambda *_: None)
    with pytest.raises(ValueError, match="yolov8n-cbam: taken out, its layers change scores by 0 only"):
        export_models.build_all(["yolov8n-cbam"], tmp_path / "models", tmp_path / "base.pt", images)


def test_the_matrix_is_measured_and_resumed(tmp_path: Path, monkeypatch, capsys) -> None:
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").save(tmp_path / "best.pt")
    monkeypatch.setattr(export_models, "EFFECT", -1.0)
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    words = f"--base {tmp_path}/best.pt --work {tmp_path}/DIR --models yolov8n-se --columns TorchScript -o {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["export_matrix.py", *words.split()])
    for said in (1, 0):
        export_matrix.main()
        assert capsys.readouterr().out.count("TorchScript") == said
    content = evidence.load(tmp_path, export_matrix.TASK)
    assert content is not None and [r["state"] for r in content["rows"]] == ["same"]


def test_every_gap_of_the_record_is_explained() -> None:
    content = evidence.load(RESULTS, export_matrix.TASK)
    assert content is not None
    gaps = [r for r in content["rows"] if r["state"] != "same"]
    assert [(r["column"], r["model"]) for r in gaps if not export_table.explain(r)] == []
    measured = {(r["column"], r["layer"]) for r in content["rows"]}
    stale = [
        entry[3]
        for entry in export_table.LIMITS
        if entry[:2] in measured and not any(export_table.explain(r) == entry[3] for r in gaps)
    ]
    assert stale == [], "limits that no row shows any more"


def test_no_number_is_wrong_where_we_promise_it() -> None:
    promised = r"ONNX|TorchScript|OpenVINO|torch|MNN|LiteRT|TF"
    content = evidence.load(RESULTS, export_matrix.TASK)
    assert content is not None
    wrong = [
        r for r in content["rows"] if r["column"].startswith(tuple(promised.split("|"))) and r["state"] == "differs"
    ]
    assert wrong == []
