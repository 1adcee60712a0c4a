"""The notebook of docs/: its form, its commands, and, where there is time, a run from the first cell to the last."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from commands_shown import ELSEWHERE, FAST, SLOW
from shown_commands import ROOT, commands

from yolo_attn import cli, verb
from yolo_attn.graft import split_name
from yolo_attn.host.run import train_val
from yolo_attn.study import settings

nbformat = pytest.importorskip("nbformat")

FILE = ROOT / "docs/yolo-attn.ipynb"
SMALL = 'SOURCE = ""\nEPOCHS = 1\nSTUDY_EPOCHS = 1\nIMGSZ = 32'
VALUES = {"EPOCHS": "1", "STUDY_EPOCHS": "1", "IMGSZ": "32", "RUNS": "runs", "PICTURE": "image.png"}


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(FILE, as_version=4)


def test_it_is_valid_and_holds_no_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert re.findall(r"^(\w+) =", parameters.source, re.M) == re.findall(r"^(\w+) =", SMALL, re.M)


def test_each_heading_has_a_line_in_chinese(notebook: Any) -> None:
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(texts) > 5
    for text in texts:
        heading, _, chinese, *_ = text.split("\n")
        assert re.match("#+ ", heading) and re.search("[\u4e00-\u9fff]", chinese), heading


def test_commands_of_its_texts_have_tests(notebook: Any) -> None:
    shown = set().union(*(commands(cell.source) for cell in notebook.cells if cell.cell_type == "markdown"))
    known = {*FAST, *SLOW, *ELSEWHERE}
    assert any(command.endswith("--dry-run") for command in shown)
    assert all(any(f"{longer} ".startswith(f"{command} ") for longer in known) for command in shown)


def test_its_commands_have_words_that_are_known(
    notebook: Any, monkeypatch: pytest.MonkeyPatch, installed: None
) -> None:
    called: list[str] = []

    def check_demo(arguments: Any) -> int:
        words = train_val.parse(arguments.overrides, "train")
        assert split_name(Path(words["model"]).stem)
        called.append("demo")
        return 0

    def check_study(arguments: Any) -> int:
        asked = settings.read(arguments.words).settings
        assert len(asked["layers"]) * len(asked["at"]) * len(asked["seeds"]) == 1 and asked["controls"] == []
        called.append("study")
        return 0

    monkeypatch.setattr(verb, "demo", check_demo)
    monkeypatch.setattr(verb, "study", check_study)
    monkeypatch.setattr(verb, "look", lambda _: called.append("look") or 0)
    for cell in notebook.cells:
        for line in re.findall(r"^!yolo-attn (.*)", cell.source.replace("\\\n", " "), re.M):
            assert cli.main(shlex.split(line.format(**VALUES))) == 0
    assert called == ["demo", "look", "study"]


@pytest.mark.slow
def test_it_runs(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_settings: dict[str, str]) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in [name for name in os.environ if name.startswith(("YOLO_", "ULTRALYTICS_", "PYTEST_"))]:
        monkeypatch.delenv(name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in {**host_settings, "PATH": path, "IPYTHONDIR": str(tmp_path / "ipython")}.items():
        monkeypatch.setenv(name, value)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = SMALL
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [kind for output in shown for kind in output.get("data", {})]
    assert data.count("image/jpeg") + data.count("image/png") == 2
    assert "text/html" in data and "srcdoc=" in str(shown[-1])
    assert (tmp_path / "runs/study/demo/trials/yolov8n-cbam-neck/seed0/trial.json").is_file()
