"""Models with rows of ours are checked when they are built: a warning once, an error where nothing can be built."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from yolo_attn.errors import RowError
from yolo_attn.graft import graft
from yolo_attn.host.model import check
from yolo_attn.host.model.ours import describe_layers
from yolo_attn.wiring import Graph

tasks = pytest.importorskip("ultralytics.nn.tasks")
LOGGER = pytest.importorskip("ultralytics.utils").LOGGER
pytestmark = pytest.mark.usefixtures("installed")
SAID = "row 22, CBAM, is read by no row and learns nothing; Detect reads [15, 18, 21]: 22 instead of 21?"


def with_dead_row(base: str = "yolov8n.yaml") -> dict[str, Any]:
    model = tasks.yaml_model_load(base)
    model["head"].insert(-1, [-1, 1, "CBAM", [1024]])
    return {key: value for key, value in model.items() if key not in ("scale", "yaml_file")}


def write(file: Path, model: dict[str, Any], more: str = "") -> str:
    file.write_text(yaml.safe_dump(model) + more, encoding="utf-8")
    return str(file)


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    """What the host's logger warns of, in a process that has said nothing yet."""
    said: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", lambda text, *args: said.append(str(text)))
    monkeypatch.setattr(check, "_told", set())
    monkeypatch.delenv(check.STRICT, raising=False)
    return said


def test_a_warning_comes_once_for_each_file(tmp_path: Path, warned: list[str]) -> None:
    files = [write(tmp_path / f"yolov8n-{name}.yaml", with_dead_row()) for name in "ab"]
    for file in (*files, *files):
        tasks.DetectionModel(file, verbose=False)
    assert warned == [f"{file}, {SAID}" for file in files]


def test_a_dictionary_is_checked_as_a_file_is(warned: list[str]) -> None:
    model = with_dead_row() | {"scale": "n"}
    tasks.DetectionModel(copy.deepcopy(model), verbose=False)
    assert warned == [f"model, {SAID}"]
    with pytest.raises(RowError, match="model: scale 'q' is asked for, but 'scales' has n, s"):
        tasks.DetectionModel(model | {"scale": "q"}, verbose=False)


def test_strict_makes_it_an_error(tmp_path: Path, warned: list[str], monkeypatch) -> None:
    file = write(tmp_path / "yolov8n-mine.yaml", with_dead_row())
    for off in ("0", "no", "false", ""):
        monkeypatch.setenv(check.STRICT, off)
        tasks.DetectionModel(file, verbose=False)
    monkeypatch.setenv(check.STRICT, "1")
    with pytest.raises(RowError, match=re.escape(f"{file}, {SAID}")):
        tasks.DetectionModel(file, verbose=False)
    tasks.DetectionModel("yolov8n-cbam.yaml", verbose=False)
    assert len(warned) == 1


def test_plain_models_are_left_alone(tmp_path: Path, warned: list[str], monkeypatch) -> None:
    monkeypatch.setenv(check.STRICT, "1")
    model = with_dead_row()
    model["head"][-2][2:] = ["nn.Identity", []]
    tasks.DetectionModel(write(tmp_path / "yolov8n-mine.yaml", model), verbose=False)
    model["scales"].pop("n")
    with pytest.raises(KeyError):
        tasks.DetectionModel(write(tmp_path / "yolov8n-mine.yaml", model), verbose=False)
    assert warned == []


def _under_neck(model: dict[str, Any]) -> None:
    model["neck"], model["head"] = model["head"][:-1], model["head"][-1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["scales"].pop("n"), "scale 'n' is asked for, but 'scales' has l, m, s, x"),
        (_under_neck, "'neck' is not read by Ultralytics; move its rows to the start of 'head' and renumber"),
        (lambda m: m.pop("head"), "'head' is missing"),
        (lambda m: m.update(Backbone=m.pop("backbone")), "its rows stand under 'Backbone'"),
        (lambda m: m.update(head=None), "'head' is empty"),
        (lambda m: m.pop("nc"), "'nc' is missing"),
        (
            lambda m: m["head"][-1].__setitem__(0, [15, 18, 24]),
            "row 23: Detect reads from 24; give -1 or an index from 0 to 22",
        ),
        (lambda m: m["head"][4].__setitem__(0, [-1, 6]), "row 14, Concat, joins maps of two sizes"),
        (
            lambda m: m["head"][1].__setitem__(0, [-1, 30]),
            "row 11: Concat reads from 30; give -1 or an index from 0 to 10",
        ),
        (lambda m: m["head"].append([-1, 1, "SE", []]), "row 24, SE, reads row 23, Detect, which gives the output"),
    ],
)
def test_what_cannot_be_built_names_file_and_mend(change: Any, said: str, tmp_path: Path, warned: list[str]) -> None:
    from ultralytics import YOLO

    model = with_dead_row()
    model["backbone"][9] = [-1, 1, "SE", []]
    change(model)
    file = write(tmp_path / "yolov8n-mine.yaml", model)
    with pytest.raises(RowError, match=re.escape(file) + "[:,] .*" + re.escape(said)):
        YOLO(file)


def test_keys_that_a_file_repeats(tmp_path: Path, warned: list[str], monkeypatch) -> None:
    text = yaml.safe_dump({key: value for key, value in with_dead_row().items() if key != "nc"})
    text = "nc: 3\n" + text.replace("- CBAM", "- nn.Identity").replace("- SPPF", "- SE") + "nc: 4\n"
    for name, asked in (("yolov8n-mine.yaml",) * 2, ("yolov8-other.yaml", "yolov8n-other.yaml")):
        warned.clear()
        (tmp_path / name).write_text(text)
        monkeypatch.chdir(tmp_path)
        tasks.DetectionModel(asked, verbose=False)
        assert len([said for said in warned if f"{asked}: 'nc' is given 2 times" in said]) == 1
    model = tasks.yaml_model_load("yolov8n-mine.yaml")
    (tmp_path / "yolov8n-mine.yaml").write_text(text.replace("SE", "CBAM"))  # it is not what was read
    assert not any(finding.kind == "key" for finding in check.examine(model))


def test_a_dead_row_has_no_place() -> None:
    with check._unnoticed():
        model = tasks.DetectionModel({**with_dead_row(), "scale": "n"}, verbose=False)
    (layer,) = describe_layers(model)
    assert (layer["index"], layer["place"]) == (22, None)


@pytest.mark.parametrize("at", [3, 6, 9, 12, 17, 21])
def test_dead_rows_are_those_without_a_gradient(at: int) -> None:
    base = tasks.yaml_model_load("yolov8n.yaml")
    for config in (graft(base, "CBAM", at), _with_row(base, at + 1)):
        with check._unnoticed():
            model = tasks.DetectionModel(copy.deepcopy(config), verbose=False).train()
        maps = model(torch.rand(2, 3, 64, 64))
        tensors = maps if isinstance(maps, list) else [value for value in maps.values() if torch.is_tensor(value)]
        sum(tensor.sum() for tensor in tensors).backward()
        graph = Graph.of(config)
        frozen = ("dfl",)  # the host's own, without a gradient by design
        without = {
            index
            for index, layer in enumerate(model.model)
            for name, parameter in layer.named_parameters()
            if parameter.grad is None and not name.startswith(frozen)
        }
        with_parameters = {index for index, layer in enumerate(model.model) if any(True for _ in layer.parameters())}
        assert without == with_parameters - graph.live()


def _with_row(model: dict[str, Any], index: int) -> dict[str, Any]:
    result, backbone = copy.deepcopy(model), len(model["backbone"])
    part, position = ("backbone", index) if index <= backbone else ("head", index - backbone)
    result[part].insert(position, [-1, 1, "CBAM", []])
    return result
