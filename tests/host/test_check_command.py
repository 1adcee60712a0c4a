"""``yolo-attn check`` and the warnings of the ``yolo`` command, in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from yolo_attn.errors import RowError
from yolo_attn.host.model import check, model_names, yamls

SAID = "row 22, CBAM, is read by no row and learns nothing; Detect reads [15, 18, 21]: 22 instead of 21?"
TRAIN = ("data=shapes.yaml", "epochs=1", "imgsz=64", "batch=16", "fraction=0.2", "workers=0", "plots=False")


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """A YOLOv8 whose CBAM was put before Detect, which reads what it read."""
    model = yamls.base_model("yolov8.yaml")
    model["head"].insert(-1, [-1, 1, "CBAM", [1024]])
    file = tmp_path / "yolov8n-dead.yaml"
    file.write_text(yaml.safe_dump(model), encoding="utf-8")
    return file


def test_the_graph_is_printed_and_what_is_wrong_with_it(run, dead: Path) -> None:
    lines = run("yolo-attn", "check", dead.name).stdout.splitlines()
    assert [line.split() for line in lines if line.split()[:1] in (["row"], ["0"], ["11"], ["22"], ["23"])] == [
        ["row", "module", "reads", "read", "by", "width", "stride", "level"],
        ["0", "Conv", "input", "1", "16", "2", "P1"],
        ["11", "Concat", "10,", "6", "12", "384", "16", "P4"],
        ["22", "CBAM", "21", "-", "256", "32", "P5"],
        ["23", "Detect", "15,", "18,", "21", "output", "-", "-", "-"],
    ]
    assert f"warning: {dead.name}, {SAID}" in lines
    (head,) = [number for number, line in enumerate(lines) if line.startswith("row")]
    assert {line.index(" P") + 1 for line in lines[head + 1 : head + 24]} == {lines[head].index("level")}


def test_the_command_ends_with_1_if_it_is_strict(run, dead: Path) -> None:
    assert SAID in run("yolo-attn", "check", dead.name, "--strict", ok=False).stdout
    assert SAID in run("python", "-m", "yolo_attn", "check", str(dead), ok=False, YOLO_ATTN_STRICT="1").stdout
    good = run("yolo-attn", "check", "yolov8s-cbam-neck.yaml", "--strict").stdout
    assert "yolov8s-cbam-neck.yaml: nothing is wrong with its wiring" in good and " 512 " in good


def test_the_yolo_command_warns_and_records_it(run, dead: Path, tmp_path: Path) -> None:
    done = run("yolo", "train", f"model={dead.name}", *TRAIN, f"project={tmp_path}", "name=run")
    assert (done.stdout + done.stderr).count(f"{dead.name}, {SAID}") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["warnings"] == [SAID]
    assert [layer["place"] for layer in record["model"]["layers"]] == [None]
    assert "! CBAM@22" in run("yolo-attn", "runs", str(tmp_path)).stdout
    strict = run("yolo", "train", f"model={dead.name}", *TRAIN, ok=False, YOLO_ATTN_STRICT="1")
    assert strict.stderr.strip().splitlines()[-1] == f"error: {dead.name}, {SAID}"


def test_plain_models_are_checked_too(capsys) -> None:
    assert check.check_model("yolo11n.yaml", strict=True) == 0
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "row", "width"),
    [("yolov8n-worldv2.yaml", 21, 256), ("yoloe-11s.yaml", 22, 512), ("rtdetr-l.yaml", 27, 256),
     ("yolo26n-cls.yaml", 8, 256), ("yolov9t.yaml", 21, 128), ("yolo11n-seg.yaml", 22, 256)],
)  # fmt: skip
def test_widths_and_strides_are_those_of_the_built_model(name: str, row: int, width: int) -> None:
    said: list[str] = []
    assert check.check_model(name, strict=True, say=said.append) == 0
    (line,) = [line for line in said if line.split()[0] == str(row)]
    assert line.split()[-3:] == [str(width), "32", "P5"]
    assert said[-1] == f"{name}: nothing is wrong with its wiring"


@pytest.mark.usefixtures("installed")
def test_every_model_of_the_host_is_printed_and_nothing_is_wrong() -> None:
    families = ("yolo11", "yolo26", "yolov3", "yolov10n")
    # The host downloads weights for a TorchVision backbone.
    found = [name for name in model_names.host_models() if name.startswith(families) and "resnet" not in name]
    names = [f"{name}.yaml" for name in found]
    assert names
    for name in names:
        said: list[str] = []
        assert check.check_model(name, strict=True, say=said.append) == 0, said


@pytest.mark.usefixtures("installed")
def test_a_file_that_cannot_be_built_is_printed_as_far_as_it_goes(tmp_path: Path) -> None:
    model = yamls.base_model("yolov8.yaml")
    file = tmp_path / "yolov8n-mine.yaml"
    model["head"][4][0] = [-1, 6]
    file.write_text(yaml.safe_dump(model))
    said: list[str] = []
    assert check.check_model(str(file), say=said.append) == 1
    assert said[15].split() == ["14", "Concat", "13,", "6", "15", "-", "-", "-"]
    assert any(line.startswith(f"error: {file}, row 14, Concat, joins maps of two sizes") for line in said)
    model["neck"], model["head"] = model["head"][:-1], model["head"][-1:]
    file.write_text(yaml.safe_dump(model))
    said.clear()
    assert check.check_model(str(file), say=said.append) == 1
    assert said == [
        f"error: {file}: 'neck' is not read by Ultralytics; move its rows to the start of 'head' and renumber"
    ]


@pytest.mark.usefixtures("installed")
def test_what_else_the_host_cannot_build_is_told(tmp_path: Path) -> None:
    model = yamls.base_model("yolov8.yaml")
    file = tmp_path / "yolov8n-mine.yaml"
    model["backbone"][9][3] = ["wide", 5]
    file.write_text(yaml.safe_dump(model))
    said: list[str] = []
    assert check.check_model(str(file), say=said.append) == 1
    assert said[-1].startswith(f"error: {file}: it cannot be built: ") and len(said) == 25
    model["backbone"][9] = [-1, 1, "SE", [{"ratio": 4}]]
    file.write_text(yaml.safe_dump(model))
    with pytest.raises(RowError, match=r"row 9: SE.* has no argument 'ratio'"):
        check.check_model(str(file), say=said.append)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("best.pt", None, "best.pt is no model YAML"),
        ("a.yaml", "- 1\n", "a.yaml is no mapping with keys"),
        ("b.yaml", "nc: [\n", "b.yaml is no mapping with keys"),
    ],
)
def test_what_is_no_model_is_said(name: str, text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RowError, match=said):
        check.check_model(str(tmp_path / name))


def test_a_model_that_is_not_there_is_one_line(run) -> None:
    done = run("yolo-attn", "check", "yolov8n-cbamm.yaml", ok=False)
    assert "did you mean 'cbam'?" in done.stderr and "Traceback" not in done.stderr
