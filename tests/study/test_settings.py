"""What words, YAML files and folders of studies ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from yolo_attn.errors import RowError, StudyError, UnknownLayerError
from yolo_attn.study import settings

WORDS = ["data=neu.yaml", "model=yolov8n", "layers=cbam,CoordAtt"]


def layers(value: Any) -> list[tuple[str, str, list[Any]]]:
    return [(one["layer"], one["slug"], one["args"]) for one in settings.layers(value)]


def test_words_become_settings_with_defaults() -> None:
    found = settings.read([*WORDS, "seeds=2", "epochs=50", "lr0=0.01", "device=cpu"])
    assert found.folder == Path("runs/study/neu")
    assert found.settings["seeds"] == [0, 1] and found.settings["epochs"] == 50
    assert found.settings["at"] == ["backbone", "neck"] and found.settings["controls"] == ["pointwise", "larger"]
    assert found.settings["batch"] == 16 and found.settings["imgsz"] == 640 and found.settings["loader_workers"] == 8
    assert found.settings["train"] == {"lr0": 0.01, "plots": False} and found.settings["pretrained"] is None
    assert found.running == {"devices": ["cpu"], "device": "cpu", "workers": 1, "backend": "local"}


def test_a_yaml_is_overridden_by_words(tmp_path: Path) -> None:
    file = tmp_path / "my-study.yaml"
    file.write_text(
        "data: neu.yaml\nmodel: yolov8n.yaml\nlayers: [se, {CBAM: {kernel_size: 3}}]\nat: [neck, 4]\nseeds: [0, 3]\n"
        "mosaic: 0.5\nname: mine\nproject: there\n"
    )
    found = settings.read([str(file), "seeds=1", "device=cpu"])
    assert found.folder == Path("there/mine") and found.settings["seeds"] == [0]
    assert found.settings["at"] == ["neck", 4] and found.settings["train"]["mosaic"] == 0.5
    assert [one["slug"] for one in found.settings["layers"]] == ["se", "cbam-kernel_size-3"]


def test_a_yaml_may_say_that_nothing_is_pretrained_and_is_in_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "my-study.yaml"
    file.write_text("data: neu.yaml\nmodel: yolov8n\nlayers: se\npretrained: none\n", encoding="utf-8")
    assert settings.read([str(file)]).settings["pretrained"] is None
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-16")
    with pytest.raises(RowError, match=r"my-study\.yaml is no YAML in UTF-8: .*can't decode"):
        settings.read([str(file)])


def test_a_folder_says_only_what_is_asked_anew(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    found = settings.read([str(tmp_path), "seeds=5", "device=cpu"])
    assert found.settings == {"seeds": [0, 1, 2, 3, 4]} and found.folder == tmp_path
    with pytest.raises(StudyError, match="is a study and keeps its name"):
        settings.read([str(tmp_path), "name=other"])
    for key in ("data", "model"):
        with pytest.raises(StudyError, match=f"{key}=5: name a file"):
            settings.read([str(tmp_path), f"{key}=5"])


@pytest.mark.parametrize(
    ("words", "workers", "backend", "address"),
    [
        ([], 3, "ray", "head:6379"),
        (["workers=2"], 2, "ray", "head:6379"),
        (["backend=local"], 1, "local", None),
        (["device=cpu", "workers=4"], 4, "ray", "head:6379"),
    ],
)
def test_a_folder_is_run_as_it_was_last(
    tmp_path: Path, words: list[str], workers: int, backend: str, address: str | None
) -> None:
    last = {"workers": 3, "device": "cpu", "backend": "ray", "ray_address": "head:6379"}
    (tmp_path / "study.json").write_text(json.dumps({"running": last}))
    running = settings.read([str(tmp_path), *words]).running
    assert (running["workers"], running["backend"], running.get("ray_address")) == (workers, backend, address)


def test_other_devices_are_another_number_of_workers(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"running": {"workers": 3, "device": None}}))
    assert settings.read([str(tmp_path), "device=cpu"]).running["workers"] == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cbam", [("CBAM", "cbam", [])]),
        ("SEAttention,timm-eca", [("SE", "se", []), ("timm-eca", "timm-eca", [])]),
        ("[{SE: {reduction: 4}}, SE]", [("SE", "se-reduction-4", [{"reduction": 4}]), ("SE", "se", [])]),
        ([{"SE": [4]}], [("SE", "se-4", [4])]),
    ],
)
def test_layers_go_by_every_name(value: Any, expected: list[Any]) -> None:
    assert layers(value) == expected


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("cbamm", UnknownLayerError, "unknown layer 'cbamm'; did you mean 'CBAM'"),
        ("cbam,CBAM", StudyError, "CBAM is named twice"),
        ([3], StudyError, "layers: 3: give a name"),
        ([{"CBAM": 3}], StudyError, "give a name"),
        ("[cbam", StudyError, "is no YAML"),
    ],
)
def test_wrong_layers_are_quoted(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        settings.layers(value)


@pytest.mark.parametrize(("value", "expected"), [(3, [0, 1, 2]), ((0, 3, 5), [0, 3, 5]), ("4,7", [4, 7]), ([2], [2])])
def test_seeds_are_a_number_or_a_list(value: Any, expected: list[int]) -> None:
    assert settings.seeds(value) == expected


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "many", [1, 1], [-1], None, [], 101, [2**32]])
def test_wrong_seeds_are_quoted(value: Any) -> None:
    with pytest.raises(StudyError, match=r"seeds="):
        settings.seeds(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("layrs=se", "'layrs' is not a valid YOLO argument"),
        ("epochs=ten", "epochs"),
        ("epochs=0", "epochs=0 must be a whole number of at least 1"),
        ("batch=-1", "batch=-1 .*all variants must see the same batches"),
        ("batch=0.7", "batch=0.7 .*all variants must see the same batches"),
        ("seed=3", "a study has seeds="),
        ("resume=True", "goes on with a study by itself"),
        ("val=False", "needs the validation"),
        ("split=test", "judged by the validation split"),
        ("workers=0", "loader_workers="),
        ("workers=two", "workers"),
        ("controls=pointwyse", "did you mean 'pointwise'"),
        ("pointwise=all", "pointwise=all: most .* or each"),
        ("gate=true", "gate=True: in pretrained weights layers have a gate unless you say gate=false"),
        ("pretrained=True", "name a checkpoint"),
        ("at=none", "at=None: name places, at least one"),
        ("name=a/b", "a name, not a path"),
        ("name=..", "a name, not a path"),
        ("seeds=2026", r"seeds=2026: that would be 2,026 trainings .* the one seed 2026 is seeds=\[2026\]"),
        ("device=cpu,0", "device=.*devices of one kind"),
        ("device=-1", "device=-1: name the GPUs"),
        ("device=,", "device=,: name the GPUs"),
        ("models=5", "models=5: name a file"),
        ("at=[[4]]", r"at=\[\[4\]\]: name places"),
        ("lr0", "'lr0' is not key=value"),
        ("data=other.yaml", "data is given twice"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(word: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        settings.read([*WORDS, word])


def test_an_unknown_word_gets_no_page_of_help(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StudyError, match=r"'epoch' is not a valid YOLO argument.*epochs") as caught:
        settings.read([*WORDS, "epoch=3"])
    assert "\n" not in str(caught.value) and not caplog.records


def test_a_data_yaml_is_no_study(tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text("train: images\nval: images\nnames: [a]\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"is no study but describes data; give it as data=.*data\.yaml"):
        settings.read([str(file)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=yolov8n", "layers=se"], "data= is missing"),
        (["data=neu.yaml", "layers=se"], "model= is missing"),
        (["data=neu.yaml", "model=yolov8n"], "layers= is missing"),
        (["nowhere", "seeds=3"], "nowhere: no such study"),
    ],
)
def test_what_is_missing_is_said(words: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        settings.read(words)


def test_a_digit_that_is_no_number_is_a_word() -> None:
    assert settings._listed("²,3") == ["²", 3]


def test_files_are_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own.yaml", "base.pt", "data.yaml"):
        (tmp_path / name).write_text("a: 1")
    found = settings.read(["data=data.yaml", "model=yolov8n", "models=own.yaml", "pretrained=base.pt"]).settings
    assert [found["data"], *found["models"], found["pretrained"]] == [
        str(tmp_path / name) for name in ("data.yaml", "own.yaml", "base.pt")
    ]
    assert found == json.loads(json.dumps(found))


def test_controls_can_be_left_out() -> None:
    assert settings.read([*WORDS, "controls=none"]).settings["controls"] == []
    assert settings.read([*WORDS, "controls=larger"]).settings["controls"] == ["larger"]


def test_cuda_is_the_first_gpu() -> None:
    assert settings.read([*WORDS, "device=cuda"]).running["devices"] == ["0"]
    assert settings.read([*WORDS, "device=[0, cuda:1]"]).running["devices"] == ["0", "1"]


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from yolo_attn.host.study import arguments

    for name, value in (("is_available", True), ("device_count", 2), ("get_device_name", "H200")):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert arguments.describe_machine(["0", "1"])["devices"] == ["H200", "H200"]
    with pytest.raises(StudyError, match="device=2: this machine has 2 GPUs, the first is 0"):
        arguments.describe_machine(["0", "2"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match="device=0: PyTorch finds no GPU on this machine; leave device= out"):
        arguments.describe_machine(["0"])
    with pytest.raises(StudyError, match="device=gpu: give cpu, or GPUs by number"):
        arguments.describe_machine(["gpu"])


def test_there_are_as_many_workers_as_devices() -> None:
    assert settings.read([*WORDS, "device=0,1,2"]).running["workers"] == 3
    assert settings.read([*WORDS, "device=0,1", "workers=4"]).running["workers"] == 4
