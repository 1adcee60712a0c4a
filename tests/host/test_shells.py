"""A checkpoint is read without importing or calling anything that it names."""

from __future__ import annotations

import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import yolo_attn
from yolo_attn.errors import CheckpointError

yolo_attn.install()
opening = pytest.importorskip("yolo_attn.host.opening")


class Call:
    """Asks the reader to call something."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def opened(folder: Path, content: Any, **form: Any) -> Any:
    torch.save(content, folder / "file.pt", **form)
    return opening.open_as_shells(folder / "file.pt")


@pytest.mark.parametrize("old_form", [False, True])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "builtins.eval"), (subprocess.getoutput, "subprocess.getoutput"),
     (torch.hub.load, "torch.hub.load"), (exec, "builtins.exec"), (sys.exit, "sys.exit"), (pickle.loads, "loads"),
     (subprocess.Popen, "subprocess.Popen"), (np.load, "numpy.load")],
)  # fmt: skip
def test_a_call_is_refused_by_name_and_not_made(tmp_path, function, name, old_form) -> None:
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')" if function in (eval, exec) else f"touch {trace}"
    content = {"model": Call(function, code)}
    with pytest.raises(
        CheckpointError, match=rf"file\.pt is not opened: it asks to call .*({name})\(.*Nothing"
    ) as error:
        opened(tmp_path, content, _use_new_zipfile_serialization=not old_form)
    assert "trace" in str(error.value) or "..." in str(error.value)
    assert not trace.exists()


def test_a_state_cannot_change_the_reader(tmp_path) -> None:
    """A pickle may set attributes on what it was given; what it was given is no function of ours."""
    from yolo_attn.host import shells

    rebuild = shells.Unpickler(io.BytesIO()).find_class("torch._utils", "_rebuild_tensor_v2")
    with pytest.raises(AttributeError):
        rebuild._function = os.system
    mark = b"\x80\x02ctorch\nUntypedStorage\nN}X\x04\x00\x00\x00markK\x01s\x86b."
    with pytest.raises(AttributeError):
        shells.load(io.BytesIO(mark))
    assert not hasattr(torch.UntypedStorage, "mark")


@pytest.mark.parametrize("old_form", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "float8_e4m3fn"])
def test_tensors_of_rare_types_are_read(tmp_path, dtype, old_form) -> None:
    """Torch writes the types that have no storage class of their own with a storage of bytes."""
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    tensor = torch.arange(6).view(2, 3).to(getattr(torch, dtype))
    read = opened(tmp_path, {"a": tensor[1], "b": tensor}, _use_new_zipfile_serialization=not old_form)
    assert read["b"].dtype is tensor.dtype
    assert read["a"].float().tolist() == [3, 4, 5] and read["b"].float().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_module_that_it_names_is_not_imported(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pasted_trap.py").write_text("raise SystemExit('imported')")
    module = ModuleType("pasted_trap")
    module.Trap = type("Trap", (nn.Module,), {"__module__": "pasted_trap"})
    monkeypatch.setitem(sys.modules, "pasted_trap", module)
    torch.save({"model": module.Trap()}, tmp_path / "file.pt")
    monkeypatch.delitem(sys.modules, "pasted_trap")
    shell = opening.open_as_shells(tmp_path / "file.pt")["model"]
    assert shell.path == "pasted_trap.Trap" and "pasted_trap" not in sys.modules


class Kind(enum.Enum):
    ONE = 1


class Listed(list):
    pass


class Mapped(OrderedDict):
    pass


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind, self.norm, self.act = Kind.ONE, functools.partial(nn.LayerNorm, eps=1e-6), nn.functional.silu
        self.weight, self.linear = nn.Parameter(torch.rand(3)), nn.Linear(2, 2)
        self.weight.tag = "kept by torch as a state"
        self.items, self.map, self.call = Listed([1]), Mapped(a=1), self.linear.forward
        self.register_buffer("shown", torch.rand(2))
        self.register_buffer("hidden", torch.rand(2), persistent=False)
        self.linear.register_forward_hook(print)


@pytest.mark.parametrize("old_form", [False, True])
@pytest.mark.filterwarnings("ignore:source code of class")
def test_tensors_and_settings_of_any_class_are_read(tmp_path, old_form) -> None:
    part = nn.Sequential(Part().half(), nn.SiLU())
    shell = opened(tmp_path, {"m": part}, _use_new_zipfile_serialization=not old_form)["m"]
    own, tensors = part.state_dict(), shell.tensors()
    assert own.keys() == tensors.keys() and all(torch.equal(own[key], tensors[key]) for key in own)
    assert [module.class_name for _, module in shell.modules()] == ["Sequential", "Part", "Linear", "SiLU"]


def test_data_comes_as_it_is(tmp_path) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    content = {
        "a": np.float64(0.5), "b": np.arange(3), "c": now, "d": pathlib.PurePosixPath("/a/b"), "e": torch.float16,
        "f": {1, 2}, "g": defaultdict(list, {"x": 1}), "h": Counter("ab"), "i": deque([1]), "j": b"x", "k": 1j,
        "l": torch.device("cuda:0"), "m": torch.Size([1, 2]), "n": slice(1), "o": None, "p": (1, "x", True),
    }  # fmt: skip
    found = opened(tmp_path, content)
    assert list(found.pop("b")) == [0, 1, 2]
    expected = {**content, "d": "/a/b", "h": {"a": 1, "b": 1}, "i": [1], "l": "cuda:0", "m": (1, 2)}
    assert found == {key: value for key, value in expected.items() if key != "b"}
    assert vars(opened(tmp_path, SimpleNamespace(a=1))) == {"a": 1}


def test_files_that_are_no_checkpoints(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt does not exist"):
        opening.open_as_shells(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder; give a checkpoint file"):
        opening.open_as_shells(tmp_path)
    torch.save({"model": nn.Linear(20, 20)}, tmp_path / "good.pt")
    good = (tmp_path / "good.pt").read_bytes()
    for broken in (b"", b"hello", good[:400], good[:-200], good[:300] + b"x" * 40 + good[340:], b"\x80\x02}."):
        (tmp_path / "bad.pt").write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"bad\.pt is no checkpoint that torch can read"):
            opening.open_as_shells(tmp_path / "bad.pt")
    torch.jit.save(torch.jit.trace(nn.SiLU(), torch.rand(1)), str(tmp_path / "exported.pt"))
    with pytest.raises(CheckpointError, match="is an exported TorchScript model"):
        opening.open_as_shells(tmp_path / "exported.pt")


def test_restricted_loading_is_obeyed(tmp_path, monkeypatch) -> None:
    from ultralytics.nn import tasks

    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    reason = "holds more than layers of" if hasattr(tasks, "_SafeLoad") else "cannot restrict loading"
    with pytest.raises(CheckpointError, match=reason):
        opened(tmp_path, {"model": Part()})
    if hasattr(tasks, "_SafeLoad"):
        assert opened(tmp_path, {"model": {"0.weight": torch.ones(1)}})["model"]["0.weight"] == 1


def test_yolov5_is_another_family(tmp_path, monkeypatch) -> None:
    from yolo_attn.host.model.old_checkpoint import read_old

    module = ModuleType("models.yolo")
    module.DetectionModel = type("DetectionModel", (nn.Module,), {"__module__": "models.yolo"})
    for name, value in (("models", ModuleType("models")), ("models.yolo", module)):
        monkeypatch.setitem(sys.modules, name, value)
    model = module.DetectionModel()
    model.yaml = {"backbone": [], "head": []}
    torch.save({"model": model}, tmp_path / "v5.pt")
    with pytest.raises(CheckpointError, match=r"v5\.pt was saved by YOLOv5 or one of its kin \(models\.yolo\.Detec"):
        read_old(tmp_path / "v5.pt")
    model.yaml = {"depth": 1}
    module.DetectionModel.__module__ = "models.yolo"
    torch.save({"model": model}, tmp_path / "v5.pt")
    with pytest.raises(CheckpointError, match="YOLOv5"):
        read_old(tmp_path / "v5.pt")
