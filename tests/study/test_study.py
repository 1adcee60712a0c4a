"""``yolo-attn study`` around its trials: plan, order, extension, failure, interruption, and nothing mixed."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plugs
import psutil
import pytest
import tiny_study
import torch

from yolo_attn import plugins
from yolo_attn.bench import cost
from yolo_attn.errors import CheckpointError, StudyError, YoloAttnError
from yolo_attn.host.run import record as run_record
from yolo_attn.study import backends, command, plan, store

Study = Callable[..., list[str]]
RAN: list[tuple[str, int]] = []
OUTCOMES: dict[tuple[str, int], str] = {}
ONE = {"variants": [{"name": "yolov8n", "model": "m.yaml"}], "settings": {"imgsz": 32}, "data": {"names": ["a"]}}
MEASURE_COST, MEASURED = command._measure_cost, plan._measured


def fake_trials(
    folder: Path, todo: Sequence[store.Pending], running: Mapping[str, Any], on_start: Any, on_done: Any
) -> None:
    """Write what trials would write, without training."""
    for trial in todo:
        on_start(trial)
        outcome = OUTCOMES.get((trial.variant, trial.seed), "finished")
        if outcome == "interrupt":
            raise KeyboardInterrupt
        RAN.append((trial.variant, trial.seed))
        metrics = {"ultralytics": {"map": 0.4, "map50": 0.7}}
        found = {"schema": 1, "variant": trial.variant, "seed": trial.seed, "state": outcome, "error": "it broke"}
        found |= {"seconds": 5.0, "metrics": metrics}
        if outcome != "killed":
            store.write_json(store.trial_folder(folder, trial.variant, trial.seed) / store.TRIAL, found)
        on_done(trial, None if outcome == "killed" else found)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    RAN.clear()
    OUTCOMES.clear()
    times = {"seconds_per_epoch": 2.0, "seconds_around": 1.0, "seconds": 7.0, "memory": 2**30}
    monkeypatch.setattr(plan, "_measured", lambda *_: dict(times))
    monkeypatch.setitem(backends.BACKENDS, "local", fake_trials)
    monkeypatch.setattr(command, "_measure_cost", lambda *_: None)
    monkeypatch.setattr(command, "_write_report", lambda *_: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study.write_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def study(tiny: Path) -> Study:
    """Return a function that runs the command for a small study and returns the lines that it says."""

    def run(*words: str, first: str = "", status: int = 0, **flags: bool) -> list[str]:
        said: list[str] = []
        given = dict(word.split("=", 1) for word in words)
        if not first:
            given = {
                "data": str(tiny), "model": "yolov8n", "layers": "se", "at": "neck", "seeds": "2", "epochs": "3",
                "imgsz": "32", "controls": "none", "name": "s", "device": "cpu", **given,
            }  # fmt: skip
        every = [*([first] if first else []), *(f"{key}={value}" for key, value in given.items())]
        assert command.run(every, say=lambda line: said.append(str(line)), **flags) == status
        return said

    return run


def record() -> dict[str, Any]:
    return json.loads(Path("runs/study/s/study.json").read_text(encoding="utf-8"))


def test_trials_run_seed_by_seed_and_once(study: Study) -> None:
    said = study()
    assert RAN == [("yolov8n", 0), ("yolov8n-se-neck", 0), ("yolov8n", 1), ("yolov8n-se-neck", 1)]
    found = record()["data"]["instances"]
    assert f"12 images with {found['train']} objects to train, 4 with {found['val']} to validate" in said
    assert "finished yolov8n-se-neck seed 1 (4 of 4): mAP50-95 0.4000, mAP50 0.7000, 5 s" in said
    # 3 trials of 7 s as planned; the first took 5 s.
    assert "finished yolov8n seed 0 (1 of 4): mAP50-95 0.4000, mAP50 0.7000, 5 s; about 15 s left" in said
    RAN.clear()
    study(first="runs/study/s")
    study()
    assert RAN == [] and record()["running"] == {"workers": 1, "device": "cpu", "backend": "local"}
    assert sorted(path.name for path in Path("runs/study/s/init").iterdir()) == ["n-seed0.pt", "n-seed1.pt"]
    kept = record()
    assert kept["schema"] == 1 and kept["settings"]["layers"] == [{"layer": "SE", "slug": "se", "args": []}]
    assert [(one["name"], one["kind"]) for one in kept["variants"]] == [
        ("yolov8n", "plain"), ("yolov8n-se-neck", "attention"),
    ]  # fmt: skip
    assert kept["data"]["images"] == {"train": 12, "val": 4} and not Path("runs/study/s/study.lock").exists()


def test_a_dry_run_shows_the_plan_and_begins_nothing(study: Study) -> None:
    said = study(dry_run=True)
    assert RAN == [] and not Path("runs/study/s/study.json").exists()
    row = next(line.split() for line in said if line.startswith("yolov8n-se-neck"))
    assert row[-7:] == ["2", "of", "2", "7", "s", "1.0", "GiB"]
    assert any(line.startswith("A trial: 3 epochs at ") for line in said)
    assert any(line.startswith("A trial: 1 epoch at ") for line in study("epochs=1", "name=one", dry_run=True))
    assert "4 trials to run, 1 at once on cpu: about 28 s." in said
    kept = json.loads(Path("runs/study/s/plan.json").read_text())
    assert kept["seconds"] == 28 and kept["variants"]["yolov8n"]["parameters"] > 3_000_000


def test_what_was_measured_is_not_measured_again(study: Study) -> None:
    assert sum("measuring" in line for line in study(dry_run=True)) == 2
    assert sum("measuring" in line for line in study("layers=se,cbam")) == 1
    assert sum("measuring" in line for line in study("epochs=4", "name=other")) == 2


def test_a_failure_is_kept_and_tried_again_only_when_asked(study: Study) -> None:
    OUTCOMES[("yolov8n", 0)] = "failed"
    said = study(status=1)
    assert "failed   yolov8n seed 0 (1 of 4): it broke; about 21 s left" in said
    assert len(RAN) == 4 and any("--retry" in line for line in said)
    RAN.clear()
    study(status=1)
    assert RAN == []
    OUTCOMES.clear()
    study(retry=True)
    assert RAN == [("yolov8n", 0)]


def test_a_killed_trial_is_not_a_failure(study: Study) -> None:
    OUTCOMES[("yolov8n", 0)] = "killed"
    said = study(status=1)
    assert any(line.startswith("killed   yolov8n seed 0") for line in said)
    OUTCOMES.clear()
    RAN.clear()
    study()
    assert RAN == [("yolov8n", 0)]


def test_ctrl_c_says_how_to_go_on_and_frees_the_folder(study: Study) -> None:
    OUTCOMES[("yolov8n", 1)] = "interrupt"
    with pytest.raises(StudyError, match="interrupted; the same command goes on"):
        study()
    OUTCOMES.clear()
    study()
    assert RAN[-2:] == [("yolov8n", 1), ("yolov8n-se-neck", 1)] and len(RAN) == 4


def test_a_study_may_grow(study: Study) -> None:
    study()
    RAN.clear()
    said = study("seeds=3", "layers=cbam", first="runs/study/s")
    assert "the study s is extended by seeds: 2" in said and "the study s is extended by layers: cbam" in said
    assert RAN == [
        ("yolov8n-cbam-neck", 0), ("yolov8n-cbam-neck", 1), ("yolov8n", 2), ("yolov8n-se-neck", 2),
        ("yolov8n-cbam-neck", 2),
    ]  # fmt: skip
    assert record()["settings"]["seeds"] == [0, 1, 2]
    assert record()["extensions"] == [sys.argv]


def test_the_control_stays_what_it_was_when_a_study_grows(study: Study) -> None:
    study("controls=pointwise")
    before = Path("runs/study/s/models/yolov8n-pointwise-neck.yaml").read_text()
    study("controls=pointwise", "layers=se,caa")
    assert Path("runs/study/s/models/yolov8n-pointwise-neck.yaml").read_text() == before
    assert RAN.count(("yolov8n-pointwise-neck", 0)) == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs=4", r"was begun with epochs=3, and this is epochs=4.*another study with name="),
        ("imgsz=64", r"imgsz=32, and this is imgsz=64"),
        ("mosaic=0", r"was begun with mosaic=its default, and this is mosaic=0"),
        ("model=yolov8s", r"model=yolov8n, and this is model=yolov8s"),
    ],
)
def test_settings_are_never_mixed(study: Study, word: str, message: str) -> None:
    study()
    with pytest.raises(StudyError, match=message):
        study(word)


def test_a_checkpoint_that_was_downloaded_is_the_same(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_write_starts", lambda *_: Path("yolov8n.pt").touch())  # as the host downloads it
    study("pretrained=yolov8n.pt")
    RAN.clear()
    study("pretrained=yolov8n.pt", "seeds=3")
    assert RAN == [("yolov8n", 2), ("yolov8n-se-neck", 2)] and record()["settings"]["pretrained"] == "yolov8n.pt"
    with pytest.raises(StudyError, match=r"begun with pretrained=yolov8n\.pt, and this is pretrained=other\.pt"):
        study("pretrained=other.pt", "seeds=4")


def test_a_checkpoint_that_cannot_be_had_is_named(study: Study) -> None:
    with pytest.raises(StudyError, match=r"pretrained=mine/best\.pt: there is no such file"):
        study("pretrained=mine/best.pt", dry_run=True)


def test_trials_of_a_lost_study_are_not_taken_over(study: Study) -> None:
    study()
    Path("runs/study/s/study.json").unlink()
    with pytest.raises(StudyError, match=r"has trials and no study\.json.*Move the folder away"):
        study("epochs=4")


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), AttributeError("no such part")])
def test_a_cost_that_cannot_be_measured_keeps_no_report_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def break_down(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cost, "measure", break_down)
    said: list[str] = []
    MEASURE_COST(tmp_path, ONE, {"devices": ["cpu"]}, said.append)
    assert said == [f"cost was not measured: {error}"] and not (tmp_path / "cost.json").exists()


@pytest.mark.parametrize(("name", "device"), [("cpu", "cpu"), ("1", torch.device("cuda", 1))])
def test_cost_is_measured_on_the_first_device_as_pytorch_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, device: Any
) -> None:
    monkeypatch.setattr(cost, "measure", lambda *given: {"device": str(given[2]), "is_same": given[2] == device})
    MEASURE_COST(tmp_path, ONE, {"devices": [name, "2"]}, print)
    assert store.read_json(tmp_path / "cost.json") == {"device": str(device), "is_same": True}


@pytest.mark.parametrize("name", ["yolo-attn", "ultralytics", "torch"])
def test_versions_are_never_mixed(study: Study, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study()
    now = {**run_record.versions(), name: "9.9"}
    monkeypatch.setattr(run_record, "versions", lambda: now)
    study()  # all is done: nothing can be mixed
    with pytest.raises(StudyError, match=f"begun with {name}=.*and this is {name}=9.9.*install that version"):
        study("seeds=3")


def test_data_are_never_mixed(study: Study, tmp_path: Path) -> None:
    own = tiny_study.write_data(tmp_path / "own")
    study(f"data={own}")
    image = next((tmp_path / "own/images/train").iterdir())
    (tmp_path / "own/images/train/again.png").write_bytes(image.read_bytes())
    with pytest.raises(StudyError, match=r"data have changed.*12 images with \d+ objects, now 13 with"):
        study(f"data={own}", "seeds=3")


def test_kinds_of_devices_are_never_mixed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study()
    for name, value in (("is_available", True), ("device_count", 1), ("get_device_name", "H200")):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with pytest.raises(StudyError, match="device=cpu, and this is device=cuda"):
        study("seeds=3", "device=0")


def test_two_processes_never_work_on_one_study(study: Study) -> None:
    study()
    lock = Path("runs/study/s/study.lock")
    held = {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}
    lock.write_text(json.dumps(held))
    with pytest.raises(StudyError, match=f"worked on by process {os.getpid()}.*delete"):
        study()
    lock.write_text(json.dumps({**held, "started": held["started"] + 1}))  # the clock was set meanwhile
    with pytest.raises(StudyError, match=f"worked on by process {os.getpid()}"):
        study()
    for stale in ({**held, "pid": 2**22 + 1}, {**held, "started": 1.0}, {}):
        lock.write_text(json.dumps(stale))
        study()
    lock.write_text(json.dumps({**held, "host": "elsewhere"}))
    with pytest.raises(StudyError, match="on elsewhere"):
        study()


def test_what_a_study_is_made_of_must_not_change(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = plugs.write_file(tmp_path / "changing.py", "Changing")
    monkeypatch.setenv(plugins.VARIABLE, f"{file}:Changing")
    OUTCOMES[("yolov8n", 1)] = "killed"
    study("layers=changing", status=1)
    assert list(record()["own_layers"]) == ["Changing"]
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"begun with the layer Changing, and its file .*changing\.py has changed"):
        study(first="runs/study/s")


def test_a_backend_that_is_not_there_is_refused(study: Study) -> None:
    with pytest.raises(StudyError, match=r"backend=locla: there are local, ray.*did you mean 'local'"):
        study("backend=locla")


def test_a_variant_that_cannot_be_measured_is_told(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"seconds_per_epoch": None, "seconds_around": None, "seconds": None, "memory": None, "error": "no memory"}
    fine = {"seconds_per_epoch": 1.0, "seconds_around": 1.0, "seconds": 4.0, "memory": 2**30}
    names: list[str] = []

    def measured(folder: Path, record: Any, variant: Any, *_: Any) -> dict[str, Any]:
        names.append(variant["name"])
        return dict(broken if variant["name"] == "yolov8n-se-neck" or len(names) > 2 else fine)

    monkeypatch.setattr(plan, "_measured", measured)
    said = study(dry_run=True)
    assert "warning: yolov8n-se-neck could not be measured: no memory" in said
    with pytest.raises(StudyError, match="no variant can be trained: no memory"):
        study("name=other")


def test_too_many_workers_for_the_memory_are_told(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 3 * 2**30})())
    assert not any("warning" in line for line in study("workers=3", dry_run=True))
    said = study("workers=4", dry_run=True)
    assert "warning: 4 trials at once need about 4.0 GiB, and 3.0 GiB are free: fewer workers=" in said


def test_more_workers_than_trials_are_not_counted(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 4 * 2**30})())
    said = study("workers=99", dry_run=True)
    assert any(line.startswith("4 trials to run, 4 at once on cpu") for line in said)
    assert not any("warning" in line for line in said)


def test_a_plan_that_comes_to_nothing_is_no_table(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from yolo_attn.host.study import trial

    def fail(_: Any) -> None:
        raise ValueError("no such\n  optimizer: sgdd\n\nSee https://example.com")

    monkeypatch.setattr(trial, "measure", fail)
    monkeypatch.setattr(plan, "_measured", MEASURED)
    monkeypatch.setattr(plan.pool, "run_child", lambda words, *_: plan.measure_variant(Path(words[1]), *words[2:]))
    said: list[str] = []
    words = ["data=tiny", "model=yolov8n", "layers=se", "at=neck", "seeds=1", "imgsz=32", "controls=none"]
    words[0] = f"data={tiny_study.write_data(Path('tiny').absolute())}"
    with pytest.raises(StudyError, match="can be trained: ValueError: no such optimizer: sgdd See https://example"):
        command.run(words, say=lambda line: said.append(str(line)))
    assert not any("GFLOPs" in line for line in said)


def test_a_study_of_which_nothing_came_leaves_no_folder(study: Study) -> None:
    for word in ("data=nowhere.yaml", "model=nothing", "model=yolov8n-seg"):
        with pytest.raises(YoloAttnError):
            study(word, "name=typo")
        kept = Path("runs/study/typo")
        assert not kept.exists() or any(kept.iterdir())
    with pytest.raises(YoloAttnError):
        study("data=nowhere.yaml", "name=none")
    assert not Path("runs/study/none").exists()
    Path("runs/study/mine").mkdir()
    with pytest.raises(YoloAttnError):
        study("data=nowhere.yaml", "name=mine")
    assert Path("runs/study/mine").is_dir()


DAMAGED = {
    "study.json": ("[]", "holds no JSON object. Put it back"),
    "study.json ": ('{"schema": 1, "name": "s"}', "has no 'settings'. Put it back from a copy, or begin another"),
    "trials/yolov8n/seed0/trial.json": ('{"schema": 1, "state"', "damaged: .*. Delete it: the trial is run again"),
    "trials/yolov8n/seed1/trial.json": ("{}", "its state is None. Delete it: the trial is run again"),
    "plan.json": ("null", "holds no JSON object. Delete it: what it held is made again"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_the_mend(study: Study, name: str) -> None:
    study()
    text, message = DAMAGED[name]
    Path("runs/study/s", name.strip()).write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        study(first="runs/study/s", dry_run=name == "plan.json")


@pytest.mark.parametrize(
    ("held", "message"),
    [(b"hello", "is no checkpoint that torch can read"), ({"a": 1}, "holds no model"), ("yolov8s", "fits only 4% of")],
)
def test_pretrained_weights_are_tried_before_the_plan(study: Study, held: Any, message: str) -> None:
    file = Path("base.pt")
    if isinstance(held, bytes):
        file.write_bytes(held)
    elif isinstance(held, dict):
        torch.save(held, file)
    else:
        from ultralytics import YOLO

        YOLO(f"{held}.yaml", verbose=False).save(file)
    with pytest.raises((StudyError, CheckpointError), match=message):
        study("pretrained=base.pt", dry_run=True)
    assert not Path("runs/study/s/plan.json").exists()
