"""Own layers and pretrained weights that change while a study is under way: its trials are not mixed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import plugs
import pytest
import torch
from torch import nn

from yolo_attn import plugins, registry
from yolo_attn.errors import StudyError
from yolo_attn.study import sources, trial

ROWS = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "MyAttention", []]]
MODELS = [{"backbone": ROWS, "head": []}]


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "_complete", {})
    for module in [module for module in sys.modules if module.startswith(f"{plugins.ROOM}.")]:
        monkeypatch.delitem(sys.modules, module)
    file = plugs.write_file(tmp_path / "mine.py", "MyAttention", "Other")
    monkeypatch.setenv(plugins.VARIABLE, f"{file}:MyAttention,Other")
    return file


def test_a_layer_of_the_users_is_known_by_its_file(layer: Path) -> None:
    found = sources.layers_of(MODELS)
    assert list(found) == ["MyAttention"] and found["MyAttention"].startswith("sha256:")
    inside = [-1, 1, "C2f", [8, True, {"attention": ["Other", 5]}]]
    assert sources.layers_of([{"backbone": [inside], "head": ROWS[:1]}]) == {"Other": found["MyAttention"]}
    assert sources.layers_of([{"backbone": [[-1, 1, "CBAM", []]], "head": []}]) == {}


def test_a_layer_that_has_changed_stops_the_study_and_its_trials(layer: Path, tmp_path: Path) -> None:
    record = {"name": "s", "own_layers": sources.layers_of(MODELS)}
    sources.check_layers(record)
    layer.write_text(layer.read_text(encoding="utf-8") + "\n# another gate\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"begun with the layer MyAttention, and its file .*mine\.py has changed"):
        sources.check_layers(record)
    (tmp_path / "study.json").write_text(json.dumps({"schema": 1, "versions": _versions(), **record}))
    found = trial.run_trial(tmp_path, "yolov8n-myattention-neck", 0, "cpu")
    assert found["state"] == "failed" and "has changed since" in found["error"]


def test_a_layer_that_is_gone_is_named(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"name": "s", "own_layers": sources.layers_of(MODELS)}
    monkeypatch.delenv(plugins.VARIABLE)
    with pytest.raises(StudyError, match=f"MyAttention, which is not here. Set {plugins.VARIABLE} as it was"):
        sources.check_layers(record)


def test_a_class_without_a_file_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    written = type("Written", (nn.Module,), {"__module__": "__main__", "__init__": lambda self, channels: None})
    registry.register("Written", written)
    try:
        assert sources.layers_of([{"backbone": [[-1, 1, "Written", []]], "head": []}]) == {}
    finally:
        registry.unregister("Written")


def test_pretrained_weights_that_have_changed_start_no_further_seed(tmp_path: Path) -> None:
    file = tmp_path / "base.pt"
    torch.save({"a": 1}, file)
    for _ in range(2):
        sources.check_weights(tmp_path, "n", str(file))
    torch.save({"a": 2}, file)
    with pytest.raises(StudyError, match=r"base\.pt has changed since the study began"):
        sources.check_weights(tmp_path, "n", str(file))
    sources.check_weights(tmp_path, "s", str(file))
    sources.check_weights(tmp_path, "m", None)
    assert set(json.loads((tmp_path / sources.WEIGHTS).read_text())) == {"n", "s"}


def _versions() -> dict[str, str]:
    from yolo_attn.host.run.record import versions

    return versions()
