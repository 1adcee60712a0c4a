"""What the driver of a Ray cluster does with each way in which a task can end, on a cluster that is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yolo_attn.errors import StudyError
from yolo_attn.study import backends, plan, ray_pool, settings, store

DONE = {"state": "finished", "epochs": [{"epoch": 1}, {"epoch": 2}], "batches": "sha256:1", "start": "sha256:2"}
KILLED: dict[str, Any] = {"found": None, "host": "n1", "files": None}


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a long story")
        self.cause = cause


class FakeRay:
    """Gives each task the next of some outcomes: an answer, or an exception that is raised."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.resources: Any = None
        self.orders: list[Any] = []
        self.cancelled: list[Any] = []
        self.began: dict[str, Any] = {}
        self.init_error: Exception | None = None
        self.is_up = True

    def is_initialized(self) -> bool:
        return self.is_up

    def init(self, **options: Any) -> None:
        self.began = {**options, "environment": dict(os.environ)}
        if self.init_error:
            raise self.init_error

    def shutdown(self) -> None:
        self.began["ended"] = True

    def nodes(self) -> list[Any]:
        alive = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}
        return [alive, {"Alive": False, "Resources": {"CPU": 99.0}}]

    def remote(self, **resources: Any) -> Any:
        self.resources = resources
        return lambda function: self

    def options(self, name: str) -> Any:
        def send(order: Any) -> int:
            assert name == f"{order['variant']} seed {order['seed']}"
            self.orders.append(order)
            return len(self.orders)

        return SimpleNamespace(remote=send)

    def put(self, content: bytes) -> str:
        return "a bundle"

    def wait(self, refs: list[int], num_returns: int) -> Any:
        assert num_returns == 1
        return refs[:1], refs[1:]

    def get(self, ref: int) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def cancel(self, ref: int, force: bool) -> None:
        assert force
        self.cancelled.append(ref)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    variants = [{"name": name, "kind": "plain", "scale": "n", "model": f"models/{name}.yaml"} for name in "ab"]
    store.write_json(tmp_path / "study.json", {"schema": 1, "variants": variants, "settings": {"seeds": [0]}})
    return tmp_path


def run(folder: Path, fake: FakeRay, monkeypatch: pytest.MonkeyPatch, **running: Any) -> tuple[list[Any], list[Any]]:
    """Run both trials of the study; return which were begun and what was told of each."""
    monkeypatch.setattr(ray_pool, "load", lambda: fake)
    begun: list[Any] = []
    told: list[Any] = []
    trials = store.trials(store.read(folder) or {})
    running = {"workers": 1, "devices": ["cpu"], **running}
    ray_pool.run_ray(
        folder, trials, running, lambda trial: begun.append(trial.variant), lambda *one: told.append(one[1])
    )
    return begun, told


def test_a_trial_that_fails_by_itself_is_not_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"found": {"state": "failed", "error": "its own"}, "host": "n1", "files": None}
    fake = FakeRay(failed, RayTaskError(OSError("no space left on n2")))
    begun, told = run(folder, fake, monkeypatch)
    assert begun == ["a", "b"]
    assert [(one["state"], one["error"]) for one in told] == [
        ("failed", "its own"), ("failed", "OSError: no space left on n2"),
    ]  # fmt: skip
    assert [store.result(folder, name, 0) for name in "ab"] == told


@pytest.mark.parametrize("lost", [RayError("The worker died.\nMore of it."), KILLED])
def test_a_lost_trial_is_tried_again_and_then_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lost: Any
) -> None:
    fake = FakeRay(*[lost] * 3, {"found": DONE, "host": "n1", "files": None}, *[lost] * 4)
    begun, told = run(folder, fake, monkeypatch)
    assert begun == ["a"] * 4 + ["b"] * 4 and fake.outcomes == []
    assert [one["state"] for one in told] == ["finished", "failed"]
    why = "its process on n1 was killed" if lost is KILLED else "RayError: The worker died."
    assert told[1]["error"] == f"its worker was lost 4 times, the last time: {why}" and told[1]["attempts"] == 4
    assert store.result(folder, "b", 0) == told[1]


def test_what_is_no_pair_fails_even_if_its_node_could_not_know(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(*({"found": {**DONE, **more}, "host": "n1", "files": None} for more in ({}, {"start": "sha256:9"})))
    _, told = run(folder, fake, monkeypatch)
    assert told[0] == DONE and told[1]["state"] == "failed" and "began with other weights than a" in told[1]["error"]
    assert store.result(folder, "b", 0) == told[1]


def test_ctrl_c_cancels_what_is_under_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(folder, fake, monkeypatch, workers=2)
    assert fake.cancelled == [1, 2] and not list(folder.glob("probe*"))
    assert len(store.pending(folder, store.read(folder) or {}, retry=False)) == 2


def test_each_trial_gets_its_share_and_its_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("YOLO_ATTN_LAYERS", "mine.py")
    answers = [{"found": DONE, "host": "n1", "files": None}] * 2
    fake = FakeRay(*answers)
    run(folder, fake, monkeypatch, workers=2, devices=["1", "3"])
    assert fake.resources == {"num_cpus": 4, "num_gpus": 1, "max_retries": 0}
    assert [(order["device"], order["threads"]) for order in fake.orders] == [("0", 4)] * 2
    assert fake.orders[0]["environment"]["YOLO_ATTN_LAYERS"] == "mine.py"
    assert "YOLO_ATTN_CACHE" in os.environ and "YOLO_ATTN_CACHE" not in fake.orders[0]["environment"]
    fake = FakeRay(*answers)
    run(folder, fake, monkeypatch, workers=4)
    assert fake.resources == {"num_cpus": 2, "num_gpus": 0, "max_retries": 0}  # of the node that is alive
    assert fake.began == {}  # it was up already, and stays so
    assert fake.orders[0]["device"] == "cpu"


@pytest.mark.parametrize(
    ("nodes", "workers", "is_cuda", "said", "threads"),
    [
        ([(8, 0)], 2, False, "", 4),
        ([(8, 0)], 3, False, "", 2),
        ([(8, 0), (8, 0)], 3, False, "", 4),  # 5 would leave room for two
        ([(2, 0)], 9, False, "", 1),
        ([(8, 0)], 1, False, "2", 2),
        ([(2, 0)], 2, False, "4", 1),
        ([(32, 2), (64, 0)], 2, True, "", 16),
        ([(32, 2), (64, 0)], 8, True, "", 16),  # two GPUs run two
    ],
)
def test_cpus_are_shared_out_node_by_node(
    monkeypatch: pytest.MonkeyPatch, nodes: Any, workers: int, is_cuda: bool, said: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert ray_pool.share([{"CPU": cpu, "GPU": gpu} for cpu, gpu in nodes], workers, is_cuda) == threads


def test_a_cluster_that_can_run_no_trial_is_told() -> None:
    with pytest.raises(StudyError, match="no node of the cluster has a GPU; device=cpu"):
        ray_pool.share([{"CPU": 8.0}], 1, True)
    with pytest.raises(StudyError, match="no node of the cluster has a CPU"):
        ray_pool.share([{}], 1, False)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    """Yield a cluster to which nobody is connected yet."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    fake = FakeRay(*[{"found": DONE, "host": "n1", "files": None}] * 2)
    fake.is_up = False
    yield fake
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7" and "RAY_USAGE_STATS_ENABLED" not in os.environ


def test_it_connects_as_ray_does_quietly_and_tells_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, apart: FakeRay
) -> None:
    run(folder, apart, monkeypatch, devices=["1", "3"])
    began = apart.began
    assert began["address"] is None and began["ended"]
    assert began["environment"]["RAY_USAGE_STATS_ENABLED"] == "0"
    assert began["environment"]["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert (began["include_dashboard"], began["log_to_driver"], began["logging_level"]) == (False, False, "ERROR")
    apart.outcomes += [{"found": DONE, "host": "n1", "files": None}] * 2
    run(folder, apart, monkeypatch, ray_address="10.0.0.1:6379")
    assert apart.began["address"] == "10.0.0.1:6379" and apart.began["environment"]["CUDA_VISIBLE_DEVICES"] == "7"


def test_a_cluster_that_is_not_there_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, apart: FakeRay) -> None:
    apart.init_error = ConnectionError("nobody answers")
    with pytest.raises(StudyError, match=r"Ray cluster of this machine cannot be used: nobody answers.*ray_address="):
        run(folder, apart, monkeypatch)
    with pytest.raises(StudyError, match=r"Ray cluster n1:1 cannot be used"):
        run(folder, apart, monkeypatch, ray_address="n1:1")
    apart.init_error.__cause__ = RuntimeError("RPC error: InvalidAuthToken")
    with pytest.raises(StudyError, match=r"nobody answers\. If it asks for a token, set RAY_AUTH_MODE=token\. ray_add"):
        run(folder, apart, monkeypatch)


def test_a_cluster_that_is_lost_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, apart: FakeRay) -> None:
    def fail(_: bytes) -> str:
        raise RayError("the head node is gone")

    monkeypatch.setattr(apart, "put", fail)
    with pytest.raises(StudyError, match=r"is lost: the head node is gone. The same command goes on"):
        run(folder, apart, monkeypatch)
    assert apart.began["ended"] and not list(folder.glob("probe*"))


def test_a_folder_without_a_study_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "load", FakeRay)
    with pytest.raises(StudyError, match="is no study"):
        ray_pool.run_ray(tmp_path, [], {"workers": 1, "devices": ["cpu"]}, print, print)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"backend=ray needs Ray.*pip install 'yolo-attn\[ray\]'"):
        backends.find_backend("ray")
    assert backends.find_backend("local")


def test_settings_of_a_cluster_are_checked() -> None:
    words = ["data=my.yaml", "model=yolov8n", "layers=se", "device=cpu"]
    with pytest.raises(StudyError, match="backend=ray: workers= is missing"):
        settings.read([*words, "backend=ray"])
    with pytest.raises(StudyError, match="ray_address=n1:6379: it goes with backend=ray"):
        settings.read([*words, "ray_address=n1:6379"])
    read = settings.read([*words, "backend=ray", "workers=8", "ray_address=10.0.0.1:6379"])
    assert read.running["ray_address"] == "10.0.0.1:6379" and "ray_address" not in read.settings["train"]


def test_the_memory_of_this_machine_is_not_held_against_a_cluster() -> None:
    known = {"variants": {"a": {"memory": 2**50}}}
    assert plan._memory_warnings(known, {"backend": "ray", "devices": ["cpu"], "workers": 2}, 2) == []
    assert plan._memory_warnings(known, {"backend": "local", "devices": ["cpu"], "workers": 2}, 2)
