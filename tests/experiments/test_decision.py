"""What ``docs/which-layer.md`` says is counted, tried or recorded, and records come from folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_study
import numpy as np
import pytest
import torch
from torch import nn

from experiments import decision, folders, study_table
from yolo_attn import registry
from yolo_attn.contract.checks import features, open_gates
from yolo_attn.errors import DataError
from yolo_attn.graft import graft
from yolo_attn.host.model.ours import is_attention, repeats
from yolo_attn.host.study import models

NAMES = [layer.name for layer in registry.TABLE]


def line(table: str, name: str) -> list[str]:
    (found,) = [row for row in table.splitlines() if row.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_every_layer_has_known_words() -> None:
    assert [*decision.ACTS] == NAMES
    assert {word for words in decision.ACTS.values() for word in words.split()} == set(decision.WORDS)


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_act_on_channels_alone_treat_all_pixels_alike(name: str) -> None:
    torch.manual_seed(0)
    layer = open_gates(registry.create(name, 32)).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = features(1, 32, 9, 11)
    with torch.no_grad():
        y = layer(x)
    alike = [bool(found.std((2, 3)).max() < 1e-4) for found in (y / x, y - x)]
    assert any(alike) == (decision.ACTS[name] == "channels")


@pytest.mark.parametrize("place", decision.PLACES)
def test_places_are_where_the_model_gets_layers(place: str) -> None:
    base = models.of_one_scale(models.load(decision.MODEL), 80, 3)
    built = models.build(graft(base, "SimAM", place)).eval()
    maps: list[tuple[int, int]] = []
    for module in built.modules():
        if type(module).__name__ == "SimAM":
            module.register_forward_hook(lambda _, args, y: maps.append((y.shape[1], y.shape[2])))
    with torch.no_grad():
        built(torch.zeros(1, 3, 160, 160))
    assert [(width, side * 4) for width, side in maps] == [*decision.PLACES[place]]
    rows = sum(len(repeats(row)) for row in built.model if is_attention(row))
    assert rows == (0 if place == "blocks" else len(maps))


def test_parameters_are_those_that_the_model_gets() -> None:
    base = models.of_one_scale(models.load(decision.MODEL), 80, 3)
    for place in ("neck", "blocks"):
        grafted = models.cost(graft(base, "CBAM", place, [{"gate": False}]), 64)
        assert decision.cost("CBAM", decision.PLACES[place])[0] == sum(grafted[2].values())


def test_operations_are_counted_as_the_formula_has_them() -> None:
    _, gflops = decision.cost("ECA", ((64, 80),))
    assert gflops == pytest.approx(2 * 64 * 3 / 1e9)
    pixels, width = 6400, 64  # MHSA: four linear maps, then queries with keys and weights with values
    assert decision.cost("MHSA", ((64, 80),))[1] * 1e9 == pytest.approx(8 * pixels * width**2 + 4 * pixels**2 * width)


def test_the_plain_model_is_counted_as_the_host_counts_it() -> None:
    base = models.of_one_scale(models.load(decision.MODEL), 80, 3)
    parameters, gflops, _ = models.cost(base, decision.IMGSZ)
    ours = decision.model_cost()
    assert ours[0] == parameters and ours[1] == pytest.approx(gflops, rel=0.03)


def test_without_records_the_table_says_so(tmp_path: Path) -> None:
    table = decision.decision_table(tmp_path, False)
    heads = table.splitlines()[0]
    assert "latency" not in heads and "Cost is by GFLOPs" in table
    assert line(table, "SE")[1] == "low" and line(table, "CAA")[1] == "medium" and line(table, "SK")[1] == "high"
    assert line(table, "SE")[4] == line(table, "SE")[6] == "not measured"
    costs = [float(row.split("|")[4]) for row in table.splitlines()[2:33]]
    assert costs == sorted(costs) and len(costs) == len(NAMES)
    assert line(decision.decision_table(tmp_path, True), "SE")[1] == "低"


def test_the_clock_of_a_gpu_is_not_asked_for(tmp_path: Path) -> None:
    about = {**ABOUT, "device": "a GPU", "clock": "events"}
    (tmp_path / "bench.json").write_text(json.dumps({"schema": 1, "about": about, "rows": [*bench_rows()]}))
    content = json.loads(folders.write_record(tmp_path, tmp_path / "out").read_text())
    assert content["command"] == "yolo-attn bench model=yolov8n layers=SE,CBAM at=backbone,neck threads=2"
    assert content["settings"]["clock"] == "events"


def test_a_bench_and_a_study_are_recorded_and_shown(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    (bench / "bench.json").write_text(json.dumps({"schema": 1, "about": ABOUT, "rows": [*bench_rows()]}))
    path = folders.write_record(bench, tmp_path / "out")
    assert path.name == "9.9.9--cpu--bench.json"
    content = json.loads(path.read_text())
    assert content["command"] == "yolo-attn bench model=yolov8n layers=SE,CBAM at=backbone,neck threads=2 clock=cpu"
    assert content["machine"] == {"device": "cpu", "processor": "a processor"} and content["versions"]["torch"] == "2"
    path = folders.write_record(
        made_study.make(tmp_path / "neu", gains={"yolov8n-coordatt-neck": 0.05}), tmp_path / "out"
    )
    assert path.name == "0.4.0--cpu--study-neu.json" and json.loads(path.read_text())["settings"]["epochs"] == 30
    assert json.loads(path.read_text())["command"].startswith("yolo-attn study data=neu.yaml model=yolov8n")
    assert str(tmp_path) not in path.read_text()
    table = decision.decision_table(tmp_path / "out", False)
    assert line(table, "SE")[1:6] == ["low", "10,752", "0.000", "1.01", "1.02"]
    assert line(table, "CBAM")[1] == "high" and "a processor, 2 threads, 640 px" in table
    assert line(table, "CAA")[4:6] == ["not measured", "not measured"]
    found = line(table, "CoordAtt")[-1]
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    best = rows["yolov8n-coordatt-neck"]
    ends = f"▲ {best['mean']:+.1f} [{best['low']:+.1f}, {best['high']:+.1f}]"
    assert best["verdict"] == "better" and found.startswith("neu: backbone ") and found.endswith(f", neck {ends}")
    assert line(table, "CAA")[-1] == "not measured"
    trials = [json.loads(f.read_text()) for f in tmp_path.glob(f"neu/trials/{best['name']}/seed*/trial.json")]
    assert len(trials) == 3 and len(best["curve"]) == 30
    assert best["curve"][-1] == round(100 * np.mean([trial["epochs"][-1]["map"] for trial in trials]), 2)
    content = json.loads(path.read_text())
    shown = study_table.found_table(content)
    assert shown.startswith("3 seeds, 30 epochs, ") and "(yolo-attn 0.4.0, " in shown
    content["settings"]["pretrained"] = "base.pt"
    assert study_table.found_table(content).startswith("3 seeds, 30 epochs from `base.pt`, ")
    cells = next(row for row in shown.splitlines() if row.startswith("| `yolov8n-coordatt-neck` |")).split(" | ")
    assert cells[4:6] == [f"{best['score']:.1f}", ends]
    for cell, other in zip(cells[6:], ("vs pointwise", "vs larger"), strict=True):
        pair = best[other]
        assert f" {pair['mean']:+.1f} [{pair['low']:+.1f}, {pair['high']:+.1f}]" in cell


def test_the_script_records_a_folder(tmp_path: Path) -> None:
    study, out = made_study.make(tmp_path / "neu"), tmp_path / "out"
    script = Path(decision.__file__).parents[1] / "record.py"
    done = subprocess.run(
        [sys.executable, script, study, "--out", out], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (path,) = out.iterdir()
    assert done.stdout.split() == [str(path)] and path.name == "0.4.0--cpu--study-neu.json"


def test_the_machine_of_a_study_may_have_a_path_to_its_data(tmp_path: Path) -> None:
    study = made_study.make(tmp_path / "neu")
    here = str(tmp_path / "neu.yaml")
    content = json.loads((study / "study.json").read_text())
    content["command"][2], content["settings"]["model"] = f"data={here}", here
    (study / "study.json").write_text(json.dumps(content))
    assert str(tmp_path) not in folders.write_record(study, tmp_path / "out").read_text()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a bench\.json nor a study\.json"):
        folders.write_record(tmp_path, tmp_path)


ABOUT = {
    "imgsz": 640, "batch": 1, "training_batch": 2, "threads": 2, "clock": "cpu", "device": "cpu",
    "processor": "a processor", "yolo-attn": "9.9.9", "ultralytics": "8", "torch": "2", "python": "3", "seconds": 1.0,
}  # fmt: skip


def bench_rows() -> list[dict[str, Any]]:
    rows = [{"model": "yolov8n", "layer": "none", "place": "", "pytorch": {"latency_ratio": {"median": 1.0}}}]
    for layer, ratios in {"SE": (1.01, 1.02), "CBAM": (1.1, 1.3)}.items():
        for place, ratio in zip(("backbone", "neck"), ratios, strict=True):
            row = {"model": f"yolov8n-{layer.lower()}-{place}", "layer": layer, "place": place}
            rows.append({**row, "pytorch": {"latency_ratio": {"median": ratio}}})
    return rows
