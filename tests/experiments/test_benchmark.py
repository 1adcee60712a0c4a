"""The benchmark: a small run gives a whole record, table and plot; what cannot be compared is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments import benchmark, evidence, grid, reference, report
from yolo_attn import registry
from yolo_attn.errors import ArgumentError, DataError, UnknownLayerError

# A squeeze-and-excitation layer under one of its names, as another implementation might have it.
THEIRS = """
import torch
from torch import nn

class SEAttention(nn.Module):
    def __init__(self, channel, reduction=16):
        super().__init__()
        k = channel // reduction
        self.fc = nn.Sequential(nn.Linear(channel, k, bias=False), nn.ReLU(), nn.Linear(k, channel, bias=False))

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.flatten(2).mean(-1)))[..., None, None]

class CPCA(nn.Module):
    def __init__(self, channels):
        super().__init__()
        raise RuntimeError("no such thing")
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "gates.py").write_text(THEIRS)
    (folder / "broken.py").write_text("import a_package_that_is_nowhere\n")
    return folder


@pytest.fixture
def content(theirs: Path, tmp_path: Path) -> dict[str, Any]:
    """Return the record of a small benchmark."""
    out = tmp_path / "out"
    benchmark.benchmark(theirs, ["SE"], ["P5"], rounds=2, device="cpu", out=out)
    found = evidence.load(out, benchmark.TASK)
    assert found is not None
    return found


def test_a_small_run_gives_record_table_and_plot(content: dict[str, Any], theirs: Path, tmp_path: Path) -> None:
    evidence.check(content)
    (row,) = content["rows"]
    assert (row["layer"], row["level"], row["batch"], row["precision"]) == ("SE", "P5", 1, "fp32")
    assert row["note"] == ""
    assert row["difference"] < 1e-6
    for kind in ("forward", "training"):
        median, low, high = row[f"{kind} ratio"]
        assert 0 < low <= median <= high
        assert row[f"{kind} floor"] > 0
        assert row[f"ours {kind}"][1] <= row[f"ours {kind}"][0] <= row[f"ours {kind}"][2]
    assert row["ours training"][0] > row["ours forward"][0]
    assert list(content["settings"]["failures"]) == ["broken.py"]
    assert str(tmp_path) not in json.dumps(content)
    table = report.benchmark_table(content).splitlines()
    assert table[0] == "**YOLOv8n, batch 1, fp32**"
    assert [line.count("|") for line in table if line.startswith("|")] == [6] * 4
    assert table[4].startswith("| SE | ")
    for suffix in ("svg", "png"):
        (picture,) = (tmp_path / "out").glob(f"*--benchmark.{suffix}")
        assert picture.stat().st_size > 1000


def test_a_run_resumes_where_the_settings_are_the_same(content: dict[str, Any], theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    benchmark.benchmark(theirs, ["SE"], ["P4", "P5"], rounds=2, device="cpu", out=out, resume=True)
    new = evidence.load(out, benchmark.TASK)
    assert [row["level"] for row in new["rows"]] == ["P5", "P4"]
    assert new["rows"][0] == content["rows"][0]
    benchmark.benchmark(theirs, ["SE"], ["P5"], rounds=1, device="cpu", out=out, resume=True)
    assert [row["level"] for row in evidence.load(out, benchmark.TASK)["rows"]] == ["P5"], "other rounds, other record"


def test_no_case_begins_after_the_time(capsys: pytest.CaptureFixture) -> None:
    todo = grid.cases(["SE", "CBAM"], ["n"], ["P5"], [1], ["fp32"], False)
    assert list(grid.measure_all(todo, "cpu", "wall", 1, {}, {}, -1.0)) == []
    assert "time is up: 2 of 2 cases are left" in capsys.readouterr().out


def test_a_case_that_fails_does_not_end_the_run(capsys: pytest.CaptureFixture) -> None:
    todo = grid.cases(["CBAM", "SE"], ["n"], ["P5"], [1], ["fp32"], False)
    registry_create = registry.create

    def create(name: str, *args: Any) -> nn.Module:
        if name == "CBAM":
            raise MemoryError("out of memory")
        return registry_create(name, *args)

    ceilings = {"bandwidth": 1.0, "matmul fp32": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "create", create)
        rows = list(grid.measure_all(todo, "cpu", "wall", 1, {}, ceilings, 60.0))
    assert [row["layer"] for row in rows] == ["SE"]
    assert "failed: MemoryError: out of memory" in capsys.readouterr().out


def test_what_cannot_be_compared_is_said(theirs: Path) -> None:
    classes, failures = reference.load_classes(theirs)
    assert set(classes) == {"SEAttention", "CPCA"}
    assert "a_package_that_is_nowhere" in failures["broken.py"]
    cpca = registry.create("CPCA", 16)
    assert reference.build("CPCA", cpca, 16, (4, 4), classes)[1].startswith("CPCA(16) cannot be built: RuntimeError")
    cbam = registry.create("CBAM", 16)
    assert reference.build("CBAM", cbam, 16, (4, 4), classes) == (None, "no class CBAM or CBAMBlock")
    biased = registry.create("SE", 16, bias=True)
    assert reference.build("SE", biased, 16, (4, 4), classes)[1] == "2 tensors differ in name or shape"


def test_the_other_implementation_gets_our_weights(theirs: Path) -> None:
    ours = registry.create("SE", 32)
    other, note = reference.build("SE", ours, 32, (4, 4), reference.load_classes(theirs)[0])
    assert other is not None
    assert note == ""
    x = torch.randn(2, 32, 4, 4)
    assert reference.difference(ours, other, x) < 1e-6
    with torch.no_grad():
        other.fc[0].weight.mul_(3)
    assert reference.difference(ours, other, x) > 1e-4
    with pytest.raises(ValueError, match="its output is"):
        reference.difference(ours, nn.Flatten(), x)


def test_names_under_which_layers_circulate_are_those_of_layers() -> None:
    assert set(reference.CLASSES) <= {layer.name for layer in registry.TABLE}


def test_an_unknown_layer_and_impossible_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownLayerError, match="unknown layer 'CBAN'; did you mean 'CBAM'"):
        benchmark.benchmark(None, ["CBAN"], out=tmp_path, device="cpu")
    with pytest.raises(ArgumentError, match="fp16 needs a GPU"):
        benchmark.benchmark(None, ["SE"], precision=["fp16"], device="cpu", out=tmp_path)
    with pytest.raises(ArgumentError, match="nothing to measure"):
        benchmark.benchmark(None, ["SE"], no_layers=True, device="cpu", out=tmp_path)
    with pytest.raises(DataError, match="no Python file"):
        benchmark.benchmark(tmp_path, ["SE"], device="cpu", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_whole_model_and_start_have_their_tables() -> None:
    whole = {"layer": "SE", "place": "neck", "training ratio": [1.1, 1.0, 1.2], "inference ratio": [1.05, 1.0, 1.1]}
    start = {"program": "yolo version", "pairs": 3, "ratio": [1.01, 1, 1.02], "with": [2, 2, 2], "without": [1.9, 1, 2]}
    lines = report.benchmark_table({"rows": [{**whole, "memory ratio": 1.03}, start]}).splitlines()
    assert "| SE | neck | 1.100 (1.000-1.200) | 1.050 (1.000-1.100) | 1.030 |" in lines
    assert "| `yolo version` | 3 | 1.900 | 2.000 | 1.010 (1.000-1.020) |" in lines


@pytest.mark.gpu
def test_on_a_gpu_no_layer_waits_or_holds_a_map_of_all_pairs(tmp_path: Path) -> None:
    benchmark.benchmark(
        None, [layer.name for layer in registry.TABLE], ["P3"], ["n"], [1], ["fp32", "fp16"], rounds=2, out=tmp_path
    )
    for row in evidence.load(tmp_path, benchmark.TASK)["rows"]:
        assert row["synchronisations"] == {}, row["layer"]
        assert row.get("peak in pixel-by-pixel maps", 0) < 1, row["layer"]
