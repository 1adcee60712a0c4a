"""What whole models cost: who is timed with whom, how many rounds, what a failure leaves."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from yolo_attn.bench import cost, measure
from yolo_attn.errors import HostError, ModelNameError

pytest.importorskip("ultralytics")

from yolo_attn.host.run import whole_models

NANO = whole_models.read_config("yolov8n")
PLAN = cost.Plan(64, 1, 2, torch.device("cpu"), 1)
QUARTILES = ["median", "q1", "q3"]


def models(*names: str) -> dict[str, Any]:
    return {name: {"name": name} for name in names}


def prepare(config: dict[str, Any]) -> cost.Ready:
    """A model that waits; it cannot be built if it is called broken, and not be run elsewhere if called odd."""
    name = config["name"]
    if name == "broken":
        raise ValueError("\n no such\nlayer")
    calls = {"pytorch": lambda _: time.sleep(0.021)}
    return {"parameters": len(name)}, calls if name == "odd" else {**calls, "onnx": lambda _: time.sleep(0.022)}


def compared(groups: Sequence[Sequence[str]], plan: cost.Plan = PLAN, end: float = 0.0) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for found in cost.compare(models("plain"), [models(*group) for group in groups], prepare, plan, end):
        rows |= found
    return rows


def test_every_model_is_timed_with_the_plain_one_in_every_runtime() -> None:
    rows = compared([["a", "bb"], ["odd"]])
    assert list(rows) == ["a", "bb", "odd", "plain"]
    assert {name: row["parameters"] for name, row in rows.items()} == {"a": 1, "bb": 2, "odd": 3, "plain": 5}
    assert "onnx" in rows["bb"] and "onnx" not in rows["odd"]
    for row in rows.values():
        assert list(row["pytorch"]["latency"]) == list(row["pytorch"]["latency_ratio"]) == QUARTILES
        assert row["pytorch"]["latency"]["median"] > 0.02
    assert rows["plain"]["pytorch"]["rounds"] == 2 * cost.LEAST, "of both groups"
    assert rows["plain"]["pytorch"]["latency_ratio"] == {"median": 1, "q1": 1, "q3": 1}


def test_a_group_is_gone_before_the_next_is_made() -> None:
    class Model:
        pass

    alive: dict[str, weakref.ref[Model]] = {}
    seen: list[list[str]] = []

    def make(config: dict[str, Any]) -> cost.Ready:
        seen.append([name for name, model in alive.items() if model()])
        model = Model()
        alive[config["name"]] = weakref.ref(model)
        return {}, {"pytorch": lambda _, model=model: time.sleep(0.001)}

    list(cost.compare(models("plain"), [models("a"), models("b")], make, replace(PLAN, rounds=1)))
    assert seen == [[], ["plain"], ["plain"]]


def test_a_model_that_cannot_be_built_says_why_and_ends_nothing() -> None:
    rows = compared([["broken", "a"]])
    assert rows["broken"] == {"error": "ValueError: no such"}
    assert rows["a"]["pytorch"]["rounds"] == cost.LEAST


def test_rounds_are_those_given_or_as_many_as_fit() -> None:
    three = cost.Plan(64, 1, 2, torch.device("cpu"), 1, rounds=3)
    assert compared([["a"]], three)["a"]["onnx"]["rounds"] == 3
    assert compared([["a"]], end=time.monotonic() + 60)["a"]["onnx"]["rounds"] == cost.MOST


def test_the_time_is_shared_by_groups_and_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def interleave(calls: Any, rounds: int, clock: str, least: int, limit: float) -> dict[str, list[float]]:
        limits.append(limit)
        return {name: [1.0] for name in calls}

    monkeypatch.setattr(cost, "interleave", interleave)
    compared([["a"], ["a"]], end=time.monotonic() + 100)
    assert limits == pytest.approx([25, 25, 50, 50], abs=5)


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"plain": [1.0, 2.0, 4.0], "a": [2.0, 6.0, 4.0]}
    monkeypatch.setattr(cost, "interleave", lambda calls, *_: {name: times[name] for name in calls})
    row = compared([["a"]])["a"]["pytorch"]
    assert row["latency"] == {"median": 4, "q1": 3, "q3": 5}
    assert row["latency_ratio"] == {"median": 2, "q1": 1.5, "q3": 2.5}


def test_progress_says_how_far_it_is() -> None:
    said: list[str] = []
    list(cost.compare(models("plain"), [models("a"), models("bb")], prepare, PLAN, 0.0, said.append))
    assert [line.partition(",")[2].partition(" groups")[0] for line in said] == [" onnx: 1 of 2", " onnx: 2 of 2"]
    assert said[0].endswith(" s left") and said[1].endswith("about 0 s left")
    list(cost.compare(models("plain"), [], prepare, PLAN, 0.0, said.append))
    assert said[2] == "pytorch, onnx: 1 of 1 groups of models, about 0 s left"
    assert (cost._duration(89), cost._duration(200)) == ("89 s", "3 min")


def test_a_limit_ends_the_rounds_but_not_before_the_least() -> None:
    calls = {"a": lambda _: time.sleep(0.03)}
    assert len(measure.interleave(calls, 9, least=2, limit=0.0)["a"]) == 2
    assert len(measure.interleave(calls, 3, least=2, limit=math.inf)["a"]) == 3


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    said: list[str] = []
    models = {"plain": "yolov8n.yaml", "again": "yolov8n", "se": "yolov8n-se-neck.yaml"}
    return cost.measure(models, 64, "cpu", 3, 3, said.append) | {"said": said}


def test_a_study_gets_what_its_file_holds(found: dict[str, Any]) -> None:
    rest = {"imgsz": 64, "batch": 1, "threads": torch.get_num_threads(), "device": "cpu"}
    assert rest.items() <= found.items() and found["processor"]
    for name in ("plain", "again", "se"):
        assert list(found[name]) == ["parameters", "gflops", "latency", "latency_ratio"]
        assert list(found[name]["latency"]) == list(found[name]["latency_ratio"]) == QUARTILES
        assert 0 < found[name]["latency"]["q1"] <= found[name]["latency"]["median"] <= found[name]["latency"]["q3"]
    assert len(found["said"]) == 1, "both of the others beside the plain model"


def test_a_model_against_itself_costs_the_same_but_for_noise(found: dict[str, Any]) -> None:
    assert found["again"]["parameters"] == found["plain"]["parameters"] == 3_011_433, "three classes"
    assert found["again"]["gflops"] == found["plain"]["gflops"] > 0
    assert found["se"]["parameters"] == 3_011_433 + 10_752
    assert 0.05 < found["again"]["latency_ratio"]["median"] < 20  # other processes may run meanwhile


def test_a_model_or_device_that_is_not_there_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNameError, match=r"no model 'yolov8z9'; did you mean 'yolov8"):
        cost.measure({"plain": "yolov8z9"}, 64, "cpu", 1, 3, print)
    with pytest.raises(ModelNameError, match=r"'runs/best.pt' is a checkpoint"):
        cost.measure({"plain": "runs/best.pt"}, 64, "cpu", 1, 3, print)
    with pytest.raises(HostError, match=r"device='tpu:0': .*give cpu or 0"):
        cost.make_plan(NANO, device="tpu:0")
    with monkeypatch.context() as patch:
        patch.setattr("ultralytics.utils.torch_utils.select_device", lambda *_, **__: torch.device("mps"))
        with pytest.raises(HostError, match=r"device='mps': .*give cpu or 0"):
            cost.make_plan(NANO, device="mps")
    if not torch.cuda.is_available():
        with pytest.raises(HostError, match=r"device='7': .*CUDA"):
            cost.make_plan(NANO, device="7")


def test_a_device_of_pytorch_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(whole_models, "select_device", None)  # the host is not asked
    second = torch.device("cuda", 1)
    assert cost.make_plan(NANO, device=second).device == second and current == [second]


def test_a_gpu_trains_in_the_memory_format_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import utils

    def is_last(device: str) -> bool:
        model = whole_models.in_training_format(torch.nn.Conv2d(3, 4, 3), torch.device(device))
        return model.weight.is_contiguous(memory_format=torch.channels_last)

    monkeypatch.setitem(utils.DEFAULT_CFG_DICT, "channels_last", None)
    monkeypatch.setattr(utils, "WINDOWS", False)
    assert (is_last("cuda"), is_last("cpu")) == (True, False)
    monkeypatch.setattr(utils, "WINDOWS", True)
    assert not is_last("cuda")
    monkeypatch.setattr(utils, "WINDOWS", False)
    monkeypatch.delitem(utils.DEFAULT_CFG_DICT, "channels_last")  # an older version
    assert not is_last("cuda")


def test_the_memory_format_of_training_is_not_that_of_predicting(monkeypatch: pytest.MonkeyPatch) -> None:
    formats: list[bool] = []

    def note(model: Any, *_: Any) -> Any:
        formats.append(model.model[0].conv.weight.is_contiguous(memory_format=torch.channels_last))
        return model

    monkeypatch.setattr(
        whole_models, "in_training_format", lambda model, _: model.to(memory_format=torch.channels_last)
    )
    monkeypatch.setattr(cost.memory, "of_training", note)
    monkeypatch.setattr(whole_models, "predictor", note)
    cost.in_pytorch(NANO, PLAN)
    assert formats == [True, False]


def test_images_have_the_channels_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "yolov8n-grey.yaml"
    file.write_text(yaml.safe_dump({**NANO, "channels": 1}), encoding="utf-8")
    found = cost.measure({"plain": file}, 64, "cpu", 1, 80, print)["plain"]
    first = 2 * 9 * 16  # weights of two channels that the first convolution of yolov8n has not
    assert found["parameters"] == 3_157_200 - first and found["latency"]["median"] > 0


def test_what_cannot_be_built_is_an_error_in_the_study_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_pytorch(config: dict[str, Any], *_: Any) -> cost.Ready:
        if "SE" in str(config["backbone"]):
            raise ValueError("too wide")
        return {"parameters": 1, "gflops": 1.0}, {"pytorch": lambda _: None}

    monkeypatch.setattr(cost, "in_pytorch", in_pytorch)
    found = cost.measure({"plain": "yolov8n", "se": "yolov8n-se"}, 64, "cpu", 1, 3, lambda _: None)
    assert found["se"] == {"error": "ValueError: too wide"} and found["plain"]["parameters"] == 1


def test_a_runtime_that_cannot_load_the_export_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(form: str, *_: Any) -> Any:
        if form == "openvino":
            raise NotImplementedError("no such operator")
        return lambda _: None

    monkeypatch.setattr(cost.exported, "load", load)
    monkeypatch.setattr(cost.whole_models, "export_onnx", lambda _, file, *__: (file.touch(), file)[1])
    row, calls = cost.as_exported(cost.whole_models.read_config("yolov8n"), ["onnx", "openvino"], PLAN, tmp_path)
    assert row == {"openvino": {"error": "NotImplementedError: no such operator"}} and list(calls) == ["onnx"]
    assert not any(tmp_path.iterdir())


def test_a_gpu_has_its_own_clock_and_batch_and_exported_models_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost.whole_models, "choose_device", lambda _: torch.device("cuda", 0))
    plan = cost.make_plan(NANO, device="0")
    assert (plan.clock, plan.training_batch) == ("events", 16)
    clocks: list[str] = []
    monkeypatch.setattr(cost, "compare", lambda plain, groups, prepare, plan, *_: clocks.append(plan.clock) or [])
    list(cost.measure_exported({}, [], [], plan, 0.0, print))
    assert clocks == ["wall"]


def test_threads_are_the_hosts_or_those_given(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(cost.os, "cpu_count", lambda: before + 1)
    with pytest.raises(HostError, match=f"threads={before + 2}: this machine has {before + 1} cores"):
        cost.make_plan(NANO, device="cpu", threads=before + 2)
    try:
        assert cost.make_plan(NANO, device="cpu", threads=before + 1).threads == before + 1 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_a_size_that_no_model_takes_is_rounded_up() -> None:
    assert [cost.make_plan(NANO, size, "cpu").imgsz for size in (1, 64, 200)] == [32, 64, 224]
    assert cost.make_plan(whole_models.read_config("yolov8n-p6"), 96, "cpu").imgsz == 128  # its stride is 64
    assert cost.measure({"plain": "yolov8n"}, 33, "cpu", 1, 3, lambda _: None)["imgsz"] == 64


def test_models_have_the_same_weights_each_time() -> None:
    config = cost.whole_models.read_config("yolov8n")
    one, other = (next(cost.whole_models.build(config).parameters()) for _ in range(2))
    assert torch.equal(one, other)


def test_the_model_is_measured_as_the_host_predicts_with_it() -> None:
    config = cost.whole_models.read_config("yolov8n-cbam.yaml")
    row, calls = cost.in_pytorch(config, PLAN)
    assert 12 * 2**20 < row["inference_memory"] < row["training_memory"] < 60 * 2**20
    predict = next(
        c.cell_contents for c in calls["pytorch"].__closure__ if isinstance(c.cell_contents, torch.nn.Module)
    )
    parts = list(predict.model.modules())
    assert not predict.model.training
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in parts if part not in _attention(parts))
    y = calls["pytorch"](0)
    assert y[0].shape[:2] == (1, 84) and y[0].is_inference()


def _attention(parts: Sequence[torch.nn.Module]) -> set[torch.nn.Module]:
    ours = [part for part in parts if type(part).__module__.startswith("yolo_attn")]
    return {inner for part in ours for inner in part.modules()}


def test_formats_that_fit_into_the_time_are_chosen_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"onnx": lambda _: 1.0, "openvino": lambda _: 2.0}
    monkeypatch.setattr(cost, "as_exported", lambda *_: ({}, calls))
    monkeypatch.setattr(cost, "seconds", lambda call, *_: call(0))

    def fit(left: float) -> list[str]:
        return cost.which_fit({}, [1.0] * 10, 5, ["onnx", "openvino"], PLAN, left)[0]

    one = (2 + cost.LEAST) * 15  # ten models and five times the plain one, in each round
    assert fit(0.9 * one) == []
    assert fit(1.1 * one) == fit(2.9 * one) == ["onnx"]
    assert fit(3.1 * one) == ["onnx", "openvino"]
    needed = cost.which_fit({}, [1.0] * 10, 5, ["onnx", "openvino"], PLAN, 0)[1]
    assert needed == pytest.approx(3 * one, rel=0.05)
