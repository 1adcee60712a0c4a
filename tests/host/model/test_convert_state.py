"""``yolo-attn convert`` of bare state dicts: the YAML names the rows, the tensors tell scale and classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import yolo_attn
from yolo_attn.errors import CheckpointError, RowError

yolo_attn.install()
convert = pytest.importorskip("yolo_attn.host.model.convert").convert
tasks = pytest.importorskip("ultralytics.nn.tasks")


@pytest.fixture(scope="module")
def trained() -> Any:
    return tasks.DetectionModel("yolov8s-eca-neck-p3.yaml", nc=3, verbose=False).eval()


def pasted(model: Any, prefix: str = "model.") -> dict[str, torch.Tensor]:
    """Return a state whose ECA calls its filter ``conv1``, as a pasted class does."""
    state = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
    return {prefix + key.replace("16.conv.weight", "16.conv1.weight"): value for key, value in state.items()}


def given_yaml(folder: Path, **changed: Any) -> str:
    config = dict(tasks.yaml_model_load("yolov8n-eca-neck-p3.yaml"))
    for key in ("scale", "yaml_file"):
        config.pop(key, None)
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({**config, **changed}))
    return str(path)


def save(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "state.pt")
    return folder / "state.pt"


@pytest.mark.parametrize("prefix", ["model.", "", "module.model.", "model.model.", "_orig_mod.model."])
def test_the_scale_and_the_classes_are_those_of_the_tensors(trained, tmp_path, prefix) -> None:
    said: list[str] = []
    file = save(tmp_path, {"epoch": 3, "state_dict": pasted(trained, prefix)} if prefix else pasted(trained, prefix))
    convert(file, tmp_path / "new.pt", model=given_yaml(tmp_path), say=said.append)
    model = torch.load(tmp_path / "new.pt", weights_only=False)["model"]
    assert (model.yaml["scale"], model.yaml["nc"], len(model.names)) == ("s", 3, 3)
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())
    assert "my.yaml: scale 's' fits the tensors" in said[0] and "unknown (a state dict)" in said[3]
    assert not any("optimizer" in line for line in said)


def test_a_name_gives_the_scale(trained, tmp_path) -> None:
    file = save(tmp_path, pasted(trained))
    convert(file, tmp_path / "new.pt", model="yolov8s-eca-neck-p3.yaml", say=lambda _: None)
    assert torch.load(tmp_path / "new.pt", weights_only=False)["model"].yaml["scale"] == "s"
    with pytest.raises(CheckpointError, match="no counterpart"):
        convert(file, tmp_path / "other.pt", model="yolov8n-eca-neck-p3.yaml", say=lambda _: None)


def test_it_needs_a_yaml(trained, tmp_path) -> None:
    file = save(tmp_path, pasted(trained))
    with pytest.raises(CheckpointError, match=r"state\.pt is a bare state dict, .* --model my\.yaml"):
        convert(file, tmp_path / "new.pt")
    with pytest.raises(RowError, match="give a model YAML"):
        convert(file, tmp_path / "new.pt", model="yolov8s.pt")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"a.weight": torch.zeros(1), "b.bias": torch.zeros(1)}, "not those of a model of rows: a.weight, b.bias"),
        ({"epoch": 3, "model": None}, "holds no model and no state dict .* it holds epoch, model"),
        ({}, "it holds {}"),
        (torch.zeros(3), "it holds Tensor"),
        ({"model": {"a": 1}}, "it holds model"),
    ],
)
def test_other_files_are_named(tmp_path, content: Mapping[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        convert(save(tmp_path, content), tmp_path / "new.pt", model="yolov8n.yaml")
