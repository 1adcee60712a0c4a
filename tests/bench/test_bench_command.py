"""``yolo-attn bench``: what is asked for, what is written, and what is said when something is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn import cli, registry
from yolo_attn.bench import command, cost, exported, picture, summary
from yolo_attn.errors import DataError, HostError, RowError, UnknownLayerError, YoloAttnError

pytest.importorskip("ultralytics")

SMALL = ["imgsz=64", "rounds=2", "device=cpu"]


def run(folder: Path, *words: str, **more: Any) -> list[str]:
    said: list[str] = []
    command.bench([*SMALL, *words], str(folder), say=said.append, **more)
    return said


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is built, none is exported and no plot is drawn."""

    def ready(config: dict[str, Any], *_: Any) -> cost.Ready:
        row = {"parameters": 1, "gflops": 1.0, "training_memory": 1, "inference_memory": 1}
        return row, {"pytorch": lambda _: None}

    monkeypatch.setattr(cost, "in_pytorch", ready)
    monkeypatch.setattr(picture, "plot", lambda *_: None)
    monkeypatch.setattr(exported, "missing_packages", lambda form: [f"{form}-package"])


def table(folder: Path) -> dict[str, dict[str, str]]:
    rows = csv.DictReader((folder / "bench.csv").read_text(encoding="utf-8").splitlines())
    return {row["model"]: row for row in rows}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """A bench of two layers at two places in whatever runtimes are installed."""
    folder = tmp_path_factory.mktemp("bench") / "new" / "folder"
    progress: list[str] = []
    said = run(folder, "layers=cbam,SEAttention", "at=backbone,neck-p3", progress=progress.append)
    return folder, said, progress


def test_csv_has_every_model_with_cost_and_machine(measured: tuple[Path, list[str], list[str]]) -> None:
    rows = table(measured[0])
    assert list(rows) == [
        "yolov8n", "yolov8n-cbam-backbone", "yolov8n-cbam-neck-p3", "yolov8n-se-backbone", "yolov8n-se-neck-p3",
    ]  # fmt: skip
    plain, cbam = rows["yolov8n"], rows["yolov8n-cbam-neck-p3"]
    assert (plain["layer"], plain["place"], plain["parameters"]) == ("none", "", "3157200")
    assert (cbam["layer"], cbam["place"], cbam["pytorch.rounds"]) == ("CBAM", "neck-p3", "2")
    assert int(cbam["parameters"]) > 3157200 and float(cbam["gflops"]) > float(plain["gflops"]) > 0
    assert int(cbam["training_memory"]) > int(plain["training_memory"]) > int(plain["inference_memory"]) > 12 * 2**20
    for name in ("latency.median", "latency.q1", "latency.q3", "latency_ratio.median"):
        assert float(cbam[f"pytorch.{name}"]) > 0
    assert float(plain["pytorch.latency_ratio.q3"]) == 1
    machine = {"imgsz": "64", "batch": "1", "training_batch": "2", "device": "cpu", "clock": "wall"}
    assert machine.items() <= cbam.items()
    assert all(cbam[name] for name in ("processor", "threads", "torch", "ultralytics", "yolo-attn", "python"))


@pytest.mark.parametrize("form", exported.FORMATS)
def test_exported_models_are_timed_against_the_exported_plain_one(
    measured: tuple[Path, list[str], list[str]], form: str
) -> None:
    if exported.missing_packages(form):
        pytest.skip(f"{form} is not installed")
    rows = table(measured[0])
    assert {row[f"{form}.state"] for row in rows.values()} == {"measured"}
    assert all(float(row[f"{form}.latency.median"]) > 0 for row in rows.values())
    assert float(rows["yolov8n"][f"{form}.latency_ratio.median"]) == 1
    assert float(rows["yolov8n-se-neck-p3"][f"{form}.latency_ratio.median"]) > 0


def test_the_other_files_say_the_same(measured: tuple[Path, list[str], list[str]]) -> None:
    folder, said, progress = measured
    content = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    assert content["schema"] == 1 and len(content["rows"]) == 5 and content["about"]["seconds"] > 0
    assert "| CBAM | neck-p3 |" in (folder / "bench.md").read_text(encoding="utf-8")
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "bench.pdf").read_bytes().startswith(b"%PDF")
    assert said[0].split()[:3] == ["layer", "place", "parameters"] and said[1].startswith("none")
    assert max(map(len, said[:-1])) <= 80
    if not exported.missing_packages("openvino"):
        assert content["about"]["openvino_precision"]
    assert progress[0].startswith("pytorch: 1 of 2 groups of models") and progress[-1] == ""


@pytest.mark.usefixtures("quick")
def test_a_runtime_that_is_not_installed_is_named(tmp_path: Path) -> None:
    said = run(tmp_path / "b", "layers=se", "at=backbone", "formats=onnx")
    rows = table(tmp_path / "b")
    assert {row["onnx.state"] for row in rows.values()} == {"not installed: pip install onnx-package"}
    assert "OpenVINO: not installed: pip install openvino-package." in said


def test_a_package_is_missing_when_python_does_not_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    assert (exported.missing_packages("onnx"), exported.missing_packages("openvino")) == ([], ["openvino"])


def test_runtimes_take_the_threads_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    taken: list[Any] = []

    def session(file: str, options: Any, providers: list[str]) -> None:
        taken.append(options.intra_op_num_threads)
        raise OSError(file)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(OSError, match=r"a\.onnx"):
        exported.load("onnx", Path("a.onnx"), np.zeros(1), 3)
    assert taken == [3]


@pytest.mark.usefixtures("quick")
def test_formats_that_take_too_long_are_left_out_with_what_they_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "missing_packages", lambda form: [])
    monkeypatch.setattr(cost, "which_fit", lambda *_: ([], 600.0))
    said = run(tmp_path / "b", "layers=se", "at=backbone")
    more = "not measured: formats=onnx,openvino takes about 10 min more"
    assert table(tmp_path / "b")["yolov8n"]["openvino.state"] == more
    assert f"ONNX: {more}." in said
    run(tmp_path / "c", "layers=se", "at=backbone", "formats=none")
    assert table(tmp_path / "c")["yolov8n"]["openvino.state"] == "not measured"


@pytest.mark.usefixtures("quick")
def test_an_export_that_fails_is_a_finding_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "missing_packages", lambda form: [])

    def as_exported(config: dict[str, Any], forms: list[str], *_: Any) -> cost.Ready:
        if any("SE" in map(str, row) for row in config["backbone"]):
            raise TypeError("this operator\nand more")
        return {"openvino": {"error": "RuntimeError: no such op"}}, {"onnx": lambda _: None}

    monkeypatch.setattr(cost, "as_exported", as_exported)
    said = run(tmp_path / "b", "layers=se,eca", "at=backbone", "formats=onnx,openvino")
    rows = table(tmp_path / "b")
    assert rows["yolov8n-se-backbone"]["onnx.state"] == "failed: TypeError: this operator"
    assert rows["yolov8n-eca-backbone"]["onnx.state"] == "measured"
    assert rows["yolov8n-eca-backbone"]["openvino.state"] == "failed: RuntimeError: no such op"
    assert rows["yolov8n-se-backbone"]["pytorch.rounds"] == "2"
    assert "SE at backbone, ONNX: failed: TypeError: this operator" in said


@pytest.mark.usefixtures("quick")
def test_an_exporter_that_breaks_down_costs_nothing_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "missing_packages", lambda form: [])

    def stop(error: BaseException) -> Any:
        def as_exported(*_: Any) -> cost.Ready:
            raise error

        return as_exported

    monkeypatch.setattr(cost, "as_exported", stop(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", "layers=se", "at=backbone", "formats=onnx")
    assert len(table(tmp_path / "a")) == 2
    monkeypatch.setattr(cost, "as_exported", stop(OSError("disk full")))
    run(tmp_path / "b", "layers=se", "at=backbone", "formats=onnx")
    assert {row["onnx.state"] for row in table(tmp_path / "b").values()} == {
        "failed: yolov8n cannot be measured: OSError: disk full"
    }


@pytest.mark.usefixtures("quick")
def test_a_model_that_cannot_be_built_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "missing_packages", lambda form: [])
    asked: list[list[str]] = []
    monkeypatch.setattr(cost, "measure_exported", lambda _, groups, *__: asked.extend(map(list, groups)) or [])
    ready = cost.in_pytorch

    def broken(config: dict[str, Any], *rest: Any) -> cost.Ready:
        if "SE" in str(config["backbone"]):
            raise ValueError("too wide")
        return ready(config, *rest)

    monkeypatch.setattr(cost, "in_pytorch", broken)
    said = run(tmp_path / "a", "layers=se,eca", "at=backbone", "formats=onnx")
    assert asked == [[], ["yolov8n-eca-backbone"]]
    assert "SE at backbone: failed: ValueError: too wide" in said


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("layers", YoloAttnError, "'layers' is not key=value"),
        ("layer=se", YoloAttnError, "bench has no 'layer'; did you mean 'layers'?"),
        ("layers=,", YoloAttnError, "layers=,: name at least one"),
        ("layers=cbam,Nothing", UnknownLayerError, "unknown layer 'Nothing'"),
        ("at=nek", RowError, "at='nek'.*did you mean 'neck'"),
        ("at=99", RowError, "at=99: give the index"),
        ("model=yolov8nn", YoloAttnError, "no model 'yolov8nn'"),
        ("imgsz=big", YoloAttnError, "imgsz=big: give a whole number"),
        ("imgsz=0", YoloAttnError, "imgsz=0"),
        ("rounds=1.5", YoloAttnError, "rounds=1.5"),
        ("minutes=nan", YoloAttnError, "minutes=nan: give a number"),
        ("formats=onx", YoloAttnError, "'onx' is none of onnx, openvino, none; did you mean 'onnx'"),
        ("clock=sun", YoloAttnError, "clock=sun: give wall or cpu"),
        ("device=tpu", YoloAttnError, "device='tpu'"),
        ("batch=1000000000000", HostError, "yolov8n cannot be measured: RuntimeError: "),
    ],
)  # fmt: skip
def test_a_word_that_is_wrong_is_quoted_and_nothing_is_written(
    tmp_path: Path, word: str, error: type[YoloAttnError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "b", word)
    assert not any((tmp_path / "b").glob("*"))


@pytest.mark.usefixtures("quick")
def test_nothing_is_written_over_without_force(tmp_path: Path) -> None:
    (tmp_path / "bench.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"bench\.md is there already"):
        run(tmp_path, "layers=se")
    assert (tmp_path / "bench.md").read_text() == "mine"
    run(tmp_path, "layers=se", "at=backbone", force=True)
    assert "SE" in (tmp_path / "bench.md").read_text() and (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("quick")
def test_without_a_folder_each_bench_gets_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli.main(["bench", *SMALL, "layers=eca", "at=backbone"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs/bench").iterdir()) == ["yolov8n", "yolov8n2"]
    out, err = capsys.readouterr()
    assert "Written to runs/bench/yolov8n2" in out and "pytorch: 1 of 1" in err
    assert cli.main(["bench", "layers=eca", "at=nowhere"]) == 1
    assert capsys.readouterr().err.startswith("yolo-attn: at='nowhere'")


def test_all_layers_are_those_of_the_table_and_alias_and_timm_are_named_as_in_models() -> None:
    _, groups, places = command._models("yolov8n", "all", "backbone,neck")
    assert len(groups) == len(registry.TABLE) and len(places) == 1 + 2 * len(groups)
    _, groups, places = command._models("yolo11n.yaml", "timm-eca,SELayer", "10")
    assert list(places) == ["yolo11n", "yolo11n-timm-eca-10", "yolo11n-se-10"]
    assert groups[0]["yolo11n-timm-eca-10"]["backbone"][11] == [-1, 1, "TimmAttention", ["eca"]]


ROWS = [
    {"model": "m", "layer": "none", "place": "", "parameters": 100, "training_memory": 2**20},
    *(
        {"model": f"m-{n}-{p}", "layer": n, "place": p, "parameters": 110, "training_memory": 2**21}
        for n in ("A", "B", "C")
        for p in ("neck", "backbone")
    ),
]


def timed(ratio: float) -> dict[str, Any]:
    quartiles = {"median": ratio, "q1": ratio - 0.1, "q3": ratio + 0.1}
    return {"pytorch": {"latency": quartiles, "latency_ratio": quartiles, "rounds": 5}}


def test_rows_come_by_place_from_cheap_to_dear() -> None:
    ratios = {"B": 1.1, "A": 2.0}
    rows = [row | (timed(ratios[row["layer"]]) if row["layer"] in ratios else {}) for row in ROWS]
    rows[0] |= timed(1.0)
    shown = [(row["place"], row["layer"]) for row in summary.ordered(rows)]
    assert shown == [("", "none"), *((p, n) for p in ("neck", "backbone") for n in ("B", "A", "C"))]
    assert picture._sorted_layers(rows[1:]) == ["B", "A", "C"]
    assert picture._ratio(rows[1], rows[0], "training_memory") == (2, 2, 2)
    assert picture._ratio(rows[1], rows[0], "pytorch") == (1.9, 2.0, 2.1)


@pytest.mark.parametrize(("width", "gone"), [(200, set()), (70, {"quartiles", "inf. MiB"}), (30, {"GFLOPs"})])
def test_a_narrow_table_leaves_out_what_matters_least(width: int, gone: set[str]) -> None:
    about = dict.fromkeys(("imgsz", "batch", "threads", "training_batch"), 1)
    about |= {"clock": "cpu", "device": "cpu", "processor": "p", "ultralytics": "8", "torch": "2"}
    lines = summary.text([row | timed(1.2) for row in ROWS], about, width)
    assert not any(head in lines[0] for head in gone)
    assert ("quartiles" in lines[0]) == (width == 200)
    assert all("1.20" in line and "+10" in line for line in lines[2:8])


def test_dollars_in_a_name_are_no_formula(tmp_path: Path) -> None:
    rows = [row | timed(1.5) | {"model": r"m$\foo$"} for row in ROWS]
    about = {"imgsz": 64, "batch": 1, "training_batch": 2, "threads": 1, "clock": "wall"}
    picture.plot(rows, {**about, "device": "cpu", "processor": "AMD"}, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").is_file()
