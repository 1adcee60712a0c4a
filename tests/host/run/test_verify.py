"""``yolo-attn verify``: real exports of a small model, and what is said when something is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import yolo_attn
from yolo_attn.cli import main
from yolo_attn.errors import DataError, HostError
from yolo_attn.host.run import export_check, runtimes, verify
from yolo_attn.host.run.export_check import Case, Row, check, check_apart
from yolo_attn.layers.cbam import CBAM

pytest.importorskip("ultralytics")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of yolov8n-cbam, and two images beside it."""
    yolo_attn.install()
    from ultralytics import YOLO

    path = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    model = YOLO("yolov8n-cbam.yaml")
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of one batch, so that a map's changes reach the outputs
    with torch.no_grad():
        model.model.train()(torch.rand(4, 3, 64, 64))
    for scale in model.model.model[-1].cv3:
        torch.nn.init.constant_(scale[-1].bias, -4.0)  # nothing to detect: near ties would make a lottery of it
    model.save(path / "mine.pt")
    (path / "images").mkdir()
    for name, color in (("a", (200, 30, 90)), ("b", (20, 230, 120))):
        picture = Image.new("RGB", (64, 48), color)
        picture.paste((0, 0, 0), (8, 8, 30, 40))
        picture.save(path / "images" / f"{name}.png")
    return path


@pytest.fixture
def case(folder: Path) -> Case:
    images = [str(path) for path in sorted((folder / "images").iterdir())]
    return Case(str(folder / "mine.pt"), "detect", "torchscript", [[64, 64]], images)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_good_exports_are_the_same_and_the_users_folder_is_left_alone(folder, capfd, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.chdir(folder)
    before = contents(folder)
    words = [
        "verify",
        "mine.pt",
        "--formats",
        "torchscript,onnx",
        "--imgsz",
        "64",
        "--source",
        "images",
        "--export",
        "opset=17",
    ]
    assert main(words) == 0
    lines = capfd.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("torchscript", "onnx "))]
    assert next((row[0], row[1], row[-1]) for row in rows if "same" in row) == ("torchscript", "64x64", "same")
    assert sum("same" in row for row in rows) == 2
    assert contents(folder) == before


def test_a_planted_difference_is_found_and_its_layer_named(case: Case, tmp_path: Path, monkeypatch) -> None:
    forward = CBAM.forward

    def wrong(self: CBAM, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) + (3.0 if torch.jit.is_tracing() else 0.0)

    monkeypatch.setattr(CBAM, "forward", wrong)
    row = check(case, tmp_path)
    assert (row.state, row.layer) == ("differs", "row 10, CBAM")
    assert row.difference is not None and row.difference > row.allowed > row.rounding
    assert "differs, first at row 10, CBAM" in verify.line(case, row)


def test_one_export_for_all_sizes_is_run_at_two(folder: Path, monkeypatch) -> None:
    said: list[str] = []
    cases: list[Case] = []

    def apart(case: Case) -> Row:
        cases.append(case)
        return Row("same", 1e-7, 1e-3)

    monkeypatch.setattr(verify, "check_apart", apart)
    words = {"sizes": [[64, 96]], "source": folder / "images", "say": said.append}
    assert verify.verify(folder / "mine.pt", ["torchscript"], dynamic=True, **words) == 0
    assert (cases[0].sizes, cases[0].arguments) == ([[64, 96], [32, 96]], {"dynamic": True})
    assert "64x96, 32x96" in said[2]


def test_a_dynamic_trace_is_the_same_at_both(case: Case, tmp_path: Path) -> None:
    case.sizes, case.arguments = [[64, 64], [32, 96]], {"dynamic": True}
    row = check(case, tmp_path)
    assert row.state == "same" and row.difference is not None and row.difference < 1e-5


def test_a_missing_package_is_said_and_no_failure_unless_asked_for(folder: Path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("ncnn", "pnnx") else find(name))
    monkeypatch.setattr(verify, "FORMATS", ("ncnn",))
    said: list[str] = []
    words = {"source": folder / "images", "say": said.append}
    assert verify.verify(folder / "mine.pt", **words) == 0
    assert verify.verify(folder / "mine.pt", ["ncnn"], **words) == 1
    assert sum(line.split() == ["ncnn", "not", "installed:", "pip", "install", "ncnn", "pnnx"] for line in said) == 2


def test_nothing_is_installed(monkeypatch) -> None:
    from ultralytics.utils import checks

    monkeypatch.setattr(checks, "AUTOINSTALL", True)
    with runtimes.nothing_installed():
        assert not checks.AUTOINSTALL
        assert not checks.check_requirements("a-package-that-nobody-has")
    assert checks.AUTOINSTALL


def test_what_the_converter_refuses_is_a_row_with_its_own_words(case: Case) -> None:
    case.form, case.arguments = "torchscript", {"opset": 17}
    row = check_apart(case)
    assert row.state == "failed" and "opset" in row.note and "Traceback" in row.log


def test_a_crash_and_a_hang_are_rows_too(case: Case, tmp_path: Path) -> None:
    crash, hang = tmp_path / "crash", tmp_path / "hang"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    hang.write_text("#!/bin/sh\nexec sleep 60\n")
    for file in (crash, hang):
        file.chmod(0o755)
    assert check_apart(case, python=str(crash)).note == "the process ended with SIGSEGV"
    assert check_apart(case, timeout=1, python=str(hang)).note == "not finished after 1 s"


def test_half_precision_has_its_own_tolerance(case: Case) -> None:
    assert not case.is_half
    for arguments in ({"half": True}, {"quantize": 16}):
        assert Case(**{**vars(case), "arguments": arguments}).is_half


def test_ties_are_forgiven_where_raw_outputs_agree_and_not_elsewhere(case: Case, monkeypatch) -> None:
    model = type("Model", (), {"names": {0: "a"}})()

    seen = runtimes.Seen(torch.zeros(1, 3, 32, 32), [torch.ones(1, 5, 20)], torch.zeros(0, 6))
    monkeypatch.setattr(export_check, "_rounding", lambda *_: 0.0)
    for difference, matched, state in ((0.0, 19, "same"), (0.0, 10, "differs"), (1e-2, 20, "differs")):
        monkeypatch.setattr(export_check, "match_detections", lambda *_, matched=matched: (matched, 20))
        monkeypatch.setattr(export_check, "raw_difference", lambda *_, difference=difference: difference)
        row = Row("same")
        export_check._compare(case, row, model, [seen], [seen])
        assert row.state == state


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.pt", "--formats", "onxx"], "has no format 'onxx'; did you mean 'onnx'?"),
        (["mine.pt", "--imgsz", "big"], "--imgsz 'big': give pixels such as 640"),
        (["mine.pt", "--formats", "torchscript", "--export", "opsett=3"], "none of torchscript takes 'opsett'"),
        (["mine.pt", "--export", "opset"], "'opset' is not key=value"),
        (["mine.pt", "--export", "opset=["], "--export 'opset=[': '[' is no YAML"),
        (["mine.pt", "--source", "nowhere"], "--source nowhere: no image there"),
        (["none.pt"], "none.pt: no such file"),
        (["images/a.png"], "images/a.png is no checkpoint"),
    ],
)
def test_what_cannot_be_used_is_quoted(folder: Path, monkeypatch, capsys, words: list[str], message: str) -> None:
    monkeypatch.chdir(folder)
    assert main(["verify", *words]) == 1
    assert message in capsys.readouterr().err


def test_images_come_from_the_data_of_the_training_if_they_are_still_there(demo: Path, tmp_path: Path) -> None:
    yolo_attn.install()
    images = verify.find_images(None, demo)
    assert len(images) == verify.IMAGES and {path.parent for path in images} == {tmp_path / "data/images/val"}
    plain = tmp_path / "plain.yaml"
    plain.write_text(f"path: {tmp_path}/data\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    assert verify.find_images(None, plain) == images
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in images[:2]))
    plain.write_text(f"train: {listed}\nval: {listed}\nnames: [a, b, c]\n")
    assert verify.find_images(None, plain) == images[:2]


@pytest.mark.parametrize("data", [None, "gone.yaml", "https://example.com/data.yaml", "data.zip"])
def test_else_from_the_host(tmp_path: Path, monkeypatch, data: str | None) -> None:
    from ultralytics.utils import ASSETS

    monkeypatch.chdir(tmp_path)
    found = verify.find_images(None, data)
    assert found and all(path.is_file() and str(path).startswith(os.path.realpath(ASSETS)) for path in found)


def test_errors_are_ours(folder: Path) -> None:
    with pytest.raises(HostError):
        verify.verify(folder / "mine.pt", ["nothing"], source=folder / "images")
    with pytest.raises(DataError):
        verify.find_images(folder / "nowhere")
