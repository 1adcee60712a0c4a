"""Checkpoints of an edited Ultralytics: a pasted class is named, and its weights go where they mean the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import yolo_attn
from yolo_attn.coco import shapes
from yolo_attn.errors import CheckpointError
from yolo_attn.host.model import foreign, transfer
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")
conv = pytest.importorskip("ultralytics.nn.modules.conv")


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from ultralytics.utils import LOGGER

    lines: list[str] = []
    monkeypatch.setattr(foreign, "_told", set())
    for level in ("info", "warning"):
        monkeypatch.setattr(LOGGER, level, lambda text, *_: lines.append(str(text)))
    return lines


class Unit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        return nn.functional.silu(self.bn(self.conv(x)))


class PastedCAA(nn.Module):
    """The same function as ours, another class."""

    gate = staticmethod(torch.sigmoid)
    is_here = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Unit(channels)
        self.h_conv = nn.Conv2d(channels, channels, (1, 11), padding=(0, 5), groups=channels)
        self.v_conv = nn.Conv2d(channels, channels, (11, 1), padding=(5, 0), groups=channels)
        self.conv2 = Unit(channels)

    def forward(self, x):
        if not self.is_here:
            raise RuntimeError("no CUDA")
        mean = nn.functional.avg_pool2d(x, 7, 1, 3)
        return x * self.gate(self.conv2(self.v_conv(self.h_conv(self.conv1(mean)))))


class OtherCAA(PastedCAA):
    """Tensors of the same names and shapes, another function."""

    gate = staticmethod(torch.tanh)


class CudaCAA(PastedCAA):
    """Cannot run on this machine."""


class BoTNetMHSA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.rel_h, self.rel_w = (nn.Parameter(torch.randn(1, 4, channels // 4, 1, 8)) for _ in range(2))

    def forward(self, x):
        return x


@pytest.fixture
def pasted() -> Iterator[Callable[[str, type, type], Callable[[], None]]]:
    """Put classes under paths of the host, as an edit does; the function returned takes them out again."""
    undo: list[Callable[[], None]] = []

    def paste(path: str, *classes: type) -> Callable[[], None]:
        new = path not in sys.modules
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError:
            module = sys.modules[path] = ModuleType(path)
        before = [(cls, cls.__module__, cls.__name__, cls.__qualname__) for cls in classes]
        for cls in classes:
            name = "MHSA" if "MHSA" in cls.__name__ else "CAA" if "CAA" in cls.__name__ else cls.__name__
            cls.__module__, cls.__name__, cls.__qualname__ = path, name, name
            setattr(module, name, cls)

        def gone() -> None:
            for cls, *was in before:
                vars(module).pop(cls.__name__, None)
                cls.__module__, cls.__name__, cls.__qualname__ = was
            if new:
                sys.modules.pop(path, None)

        undo.append(gone)
        return gone

    yield paste
    for gone in undo:
        gone()


def saved(file: Path, name: str, layer: nn.Module) -> tuple[Path, list[torch.Tensor]]:
    """Save a model whose attention layer is ``layer``; return the file and what the model gives."""
    model = tasks.DetectionModel(f"yolov8n-{name}.yaml", verbose=False)
    tasks.initialize_weights(layer)  # a pasted layer has the host's epsilon too
    for module in (model, layer):
        for p in module.parameters():
            nn.init.normal_(p, std=0.08) if p.dim() > 1 else None
    old = model.model[10]
    vars(layer).update({k: vars(old)[k] for k in ("i", "f", "np")} | {"type": foreign.path_of(layer)})
    model.model[10] = layer
    model.eval()
    torch.save({"model": model, "epoch": -1, "train_args": {}}, file)
    return file, outputs(model)


def outputs(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        y = model.eval()(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    return list(y[1].values() if isinstance(y[1], dict) else y[1])[:2]


def load(file: Path) -> nn.Module:
    return tasks.torch_safe_load(str(file))[0]["model"]


def test_the_hosts_own_cbam_is_named_runs_and_leaves_ours_to_start_anew(tmp_path, said) -> None:
    file, _ = saved(tmp_path / "old.pt", "cbam", conv.CBAM(256))
    base = load(file)
    assert len(said) == 1 and "old.pt: layer 10, CBAM, is ultralytics.nn.modules.conv.CBAM, not yolo-attn's" in said[0]
    outputs(base)
    model = tasks.DetectionModel("yolov8n-cbam.yaml", verbose=False)
    model.load(base)
    report = transfer.reports[model]
    assert report.foreign == ["layer 10, CBAM, is ultralytics.nn.modules.conv.CBAM, another function than ours"]
    assert report.total - report.arrived == len(base.model[10].state_dict()) and not report.taken
    assert isinstance(model.model[10], Gated) and model.model[10].gate.item() == 0
    assert any("Not carried over: layer 10, CBAM" in line for line in said)
    load(file)
    assert sum("old.pt: layer 10" in line for line in said) == 1


@pytest.mark.parametrize(("cls", "carried"), [(PastedCAA, True), (OtherCAA, False), (CudaCAA, True)])
def test_a_pasted_class_that_is_here_gives_its_weights_to_the_same_function(
    cls, carried, tmp_path, said, pasted, monkeypatch
) -> None:
    pasted("ultralytics.nn.modules.conv", cls, Unit)
    file, expected = saved(tmp_path / "old.pt", "caa", cls(256))
    monkeypatch.setattr(cls, "is_here", cls is not CudaCAA)
    model = tasks.DetectionModel("yolov8n-caa.yaml", verbose=False)
    model.load(load(file))
    report = transfer.reports[model]
    assert bool(report.taken) == carried and bool(report.foreign) != carried
    if carried:
        assert report.complete
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(outputs(model), expected, strict=True))
        assert any("could not be run" in line if cls is CudaCAA else "outputs agree to" in line for line in said)
    else:
        assert isinstance(model.model[10], Gated)


@pytest.mark.parametrize("path", ["ultralytics.nn.modules.conv", "ultralytics.nn.attention.caa"])
def test_a_class_that_is_not_here_gives_its_weights_and_cannot_run(path, tmp_path, said, pasted, monkeypatch) -> None:
    monkeypatch.setattr(tasks, "check_requirements", lambda *a, **k: pytest.fail("the host asked pip for a package"))
    gone = pasted(path, PastedCAA, Unit)
    file, expected = saved(tmp_path / "old.pt", "caa", PastedCAA(256))
    gone()
    base = load(file)
    assert "attention" not in " ".join(n for n in sys.modules if n.startswith("ultralytics.nn."))
    assert not hasattr(conv, "CAA") and not hasattr(conv, "Unit")
    assert f"old.pt: layer 10, CAA, needs {path}.CAA, which is not in this Ultralytics" in said[0]
    with pytest.raises(CheckpointError, match=f"{path}.CAA is not in this Ultralytics"):
        outputs(base)
    model = tasks.DetectionModel("yolov8n-caa.yaml", verbose=False)
    model.load(base)
    assert transfer.reports[model].complete and "could not be run here" in transfer.reports[model].taken[0]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(outputs(model), expected, strict=True))


def test_botnets_mhsa_is_another_function(tmp_path, said, pasted) -> None:
    gone = pasted("ultralytics.nn.modules.conv", BoTNetMHSA)
    file, _ = saved(tmp_path / "old.pt", "mhsa", BoTNetMHSA(256))
    gone()
    model = tasks.DetectionModel("yolov8n-mhsa.yaml", verbose=False)
    model.load(load(file))
    assert "layer 10, MHSA, is ultralytics.nn.modules.conv.MHSA" in transfer.reports[model].foreign[0]
    assert isinstance(model.model[10], Gated)


def test_our_own_and_plain_checkpoints_say_nothing(tmp_path, said) -> None:
    for name in ("yolov8n-cbam.yaml", "yolov8n.yaml"):
        torch.save({"model": tasks.DetectionModel(name, verbose=False), "train_args": {}}, tmp_path / "m.pt")
        load(tmp_path / "m.pt")
    assert said == []


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch) -> Callable[[str, nn.Module], Path]:
    """Return a function that trains one of two epochs and puts another layer into the checkpoint it leaves."""
    monkeypatch.chdir(tmp_path)
    shapes.write_shapes(tmp_path / "data", {"train": 8, "val": 4})
    (tmp_path / "data/data.yaml").write_text(
        "train: annotations/train.json\nval: annotations/val.json\nimages: {train: images/train, val: images/val}\n"
    )

    def interrupted(name: str, layer: nn.Module) -> Path:
        from ultralytics import YOLO

        yolo = YOLO(f"yolov8n-{name}.yaml")
        stop = {"on_fit_epoch_end": lambda t: None, "on_model_save": _stop}
        for event, callback in stop.items():
            yolo.add_callback(event, callback)
        with pytest.raises(KeyboardInterrupt):
            yolo.train(
                data=str(tmp_path / "data/data.yaml"), epochs=2, imgsz=64, batch=4, workers=0, plots=False,
                val=False, verbose=False, project=str(tmp_path / "runs"), name="run", device="cpu",
            )  # fmt: skip
        last = tmp_path / "runs/run/weights/last.pt"
        checkpoint = torch.load(last, weights_only=False)
        ema = checkpoint["ema"]
        if set(layer.state_dict()) == set(ema.model[10].state_dict()):
            layer.load_state_dict(ema.model[10].state_dict())
        vars(layer).update({k: vars(ema.model[10])[k] for k in ("i", "f", "np", "type")})
        ema.model[10] = layer.half()
        torch.save(checkpoint, last)
        return last

    return interrupted


def _stop(_: Any) -> None:
    raise KeyboardInterrupt


def test_resume_refuses_another_function_and_says_what_can_be_done(interrupted) -> None:
    from ultralytics import YOLO

    last = interrupted("cbam", conv.CBAM(256))
    before = last.read_bytes()
    with pytest.raises(CheckpointError) as error:
        YOLO(str(last)).train(resume=True)
    for part in ("last.pt cannot be resumed: layer 10, CBAM, is ultralytics.nn.modules.conv.CBAM", "pretrained="):
        assert part in str(error.value)
    assert last.read_bytes() == before


def test_resume_goes_on_with_the_same_function(interrupted, pasted, said) -> None:
    from ultralytics import YOLO

    gone = pasted("ultralytics.nn.modules.conv", PastedCAA, Unit)
    last = interrupted("caa", PastedCAA(256))
    gone()
    yolo = YOLO(str(last))
    yolo.train(resume=True)
    assert yolo.trainer.epoch == 1 and any("resuming training" in line.lower() for line in said)
    assert type(yolo.trainer.ema.ema.model[10]).__module__ == "yolo_attn.layers.caa"


def test_resume_refuses_an_optimizer_state_of_another_order(interrupted) -> None:
    from ultralytics import YOLO

    from yolo_attn.layers import CloAttention

    layer = CloAttention(256)
    layer._modules = dict(reversed(layer._modules.items()))
    last = interrupted("clo", layer)
    with pytest.raises(
        CheckpointError, match=r"last\.pt cannot be resumed: .* the parameters of model\.10 CloAttention"
    ):
        YOLO(str(last)).train(resume=True)


def test_restricted_loading_gets_no_stand_in(tmp_path, pasted, monkeypatch) -> None:
    if not hasattr(tasks, "_SafeLoad"):
        pytest.skip("this Ultralytics cannot restrict loading")
    gone = pasted("ultralytics.nn.modules.conv", PastedCAA, Unit)
    file, _ = saved(tmp_path / "old.pt", "caa", PastedCAA(256))
    gone()
    with pytest.raises(TypeError, match="outside the supported"):
        tasks.torch_safe_load(str(file), safe_only=True)
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    with pytest.raises(AttributeError, match="CAA"):
        tasks.torch_safe_load(str(file), safe_only=False)
