"""Checkpoints saved by an earlier version load, give the maps they gave, and train on.

The host pickles whole modules, so a checkpoint names the class of every submodule and the keys of its state. Files and
the program that made them are in ``frozen/``.
"""

from __future__ import annotations

import copy
import gzip
import importlib
import io
import json
import os
import pickletools
import pkgutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from frozen import make
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn import tasks

import yolo_attn.layers
from yolo_attn import registry

NAMES = sorted(make.CASES)
# The maps come from float64. Float32 noise of any form is a few 1e-7 of the largest value; a changed formula is 1e-3.
TOLERANCE = 1e-5

CLASSES = {
    "bam._ChannelBranch",
    "bam._SpatialBranch",
    "bam.BAM",
    "biformer.BiFormer",
    "caa._ConvNormAct",
    "caa.CAA",
    "cbam._ChannelGate",
    "cbam._SpatialGate",
    "cbam.CBAM",
    "clo_attention.CloAttention",
    "coord_att.CoordAtt",
    "cot.CoT",
    "cpca._ChannelGate",
    "cpca.CPCA",
    "criss_cross.CrissCross",
    "dattention._ChannelNorm",
    "dattention.DAttention",
    "double_attention.DoubleAttention",
    "eca.ECA",
    "ela.ELA",
    "ema.EMA",
    "gam.GAM",
    "gated.Gated",
    "gc.GC",
    "lsk.LSK",
    "lska.LSKA",
    "mhsa.MHSA",
    "mhsa_lepe.MHSALePE",
    "mlca.MLCA",
    "pointwise.Pointwise",
    "polarized.Polarized",
    "polarized.PolarizedSeq",
    "psa.PSA_p",
    "psa.PSA_s",
    "scsa.SCSA",
    "se.SE",
    "shuffle.Shuffle",
    "simam.SimAM",
    "sk.SK",
    "timm_attention.TimmAttention",
    "triplet._PlaneGate",
    "triplet.Triplet",
}

# A user's process: it imports the host alone. A file that does not load is an error's text, one that does a number.
LOAD = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from ultralytics import YOLO

expected, files = Path(sys.argv[1]), Path(sys.argv[2])
image = load_file(expected / "image.safetensors")["image"]
result = {}
for file in sorted(files.glob("*.pt")):
    try:
        model = YOLO(file).model.eval()
        with torch.no_grad():
            y = model.model[1](model.model[0](image))
            model(image)
        kept = load_file(expected / f"{file.stem}.safetensors")["map"]
        assert y.dtype == torch.float32 and y.shape == kept.shape, (y.dtype, y.shape)
        result[file.stem] = ((y - kept).abs().max() / kept.abs().max()).item()
    except Exception as error:
        result[file.stem] = repr(error)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in NAMES:
        make.unpack(name, folder)
    return folder


@pytest.fixture
def loaded(name: str, files: Path) -> Any:
    return YOLO(files / f"{name}.pt").model


@pytest.fixture
def rebuilt(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the model that this version builds from the checkpoint's own YAML."""
    monkeypatch.setattr(tasks.BaseModel, "info", lambda *args, **kwargs: None)  # it counts operations, which takes long
    return type(loaded)(copy.deepcopy(loaded.yaml), verbose=False)


def distance(name: str, model: nn.Module) -> float:
    kept = load_file(make.FOLDER / f"{name}.safetensors")["map"]
    return ((make.layer_map(model, make.image()) - kept).abs().max() / kept.abs().max()).item()


def pickled_classes(name: str) -> set[str]:
    """Return the classes of ours that a checkpoint names, found without loading it."""
    archive = zipfile.ZipFile(io.BytesIO(gzip.decompress((make.FOLDER / f"{name}.pt.gz").read_bytes())))
    (pickle,) = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
    named = [arg.replace(" ", ".") for op, arg, _ in pickletools.genops(archive.read(pickle)) if op.name == "GLOBAL"]
    assert named
    return {path for path in named if path.startswith("yolo_attn")}


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from tensors(part)


def test_every_layer_is_frozen_plain_and_gated() -> None:
    for layer in registry.PACKAGED:
        rows = [arguments for name, arguments in make.CASES.values() if name == layer.name]
        starts_as_identity = getattr(layer.load(), "starts_as_identity", False)
        assert any("gate" not in row for row in rows), layer.name
        assert starts_as_identity or any("gate" in row for row in rows), layer.name
    kept = {path.name.partition(".")[0] for path in make.FOLDER.glob("*.pt.gz")}
    assert kept == set(NAMES)


@pytest.mark.parametrize("environment", [{}, {"YOLO_ATTN_FAST": "0"}, {"YOLO_ATTN_AUTOLOAD": "0"}], ids=str)
def test_checkpoints_load_and_give_their_maps(environment: dict[str, str], files: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(make.FOLDER), str(files)],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == set(NAMES)
    assert not {name: value for name, value in result.items() if isinstance(value, str) or not value < TOLERANCE}


def test_pickled_classes_are_frozen() -> None:
    # A class that is moved or renamed makes users' files unreadable. A new one is added here with a checkpoint.
    assert {path for name in NAMES for path in pickled_classes(name)} == {f"yolo_attn.layers.{c}" for c in CLASSES}


def test_layers_are_built_of_frozen_classes_alone() -> None:
    modules = [
        importlib.import_module(m.name) for m in pkgutil.walk_packages(yolo_attn.layers.__path__, "yolo_attn.layers.")
    ]
    ours = {
        f"{value.__module__}.{value.__qualname__}"
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    assert ours == {f"yolo_attn.layers.{c}" for c in CLASSES}


@pytest.mark.parametrize("name", NAMES)
def test_state_and_classes_are_those_of_the_checkpoint(name: str, loaded: Any, rebuilt: Any) -> None:
    with safe_open(make.FOLDER / f"{name}.safetensors", "pt") as file:
        kept = row_state(json.loads(file.metadata()["state"]))
    for model in (loaded, rebuilt):
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        # In order too: an optimiser's state knows its parameters by number. CloAttention's took the official order in
        # 0.3.0; a run that an older version began is refused when it is resumed.
        is_reordered = model is rebuilt and name.partition("-")[0] == "clo"
        assert (sorted if is_reordered else list)(row_state(shapes)) == (sorted(kept) if is_reordered else kept)
    ours = {path for path in map(path_of, rebuilt.modules()) if path.startswith("yolo_attn")}
    assert ours == pickled_classes(name)


def row_state(shapes: dict[str, list[int]]) -> list[tuple[str, list[int]]]:
    return [item for item in shapes.items() if item[0].startswith("model.1.")]


def path_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


@pytest.mark.parametrize("name", NAMES)
def test_training_continues(name: str, loaded: Any, rebuilt: Any) -> None:
    # The host trains the model it rebuilt and filled or, since 2026-09, the one it unpickled.
    rebuilt.load(loaded, verbose=False)
    assert distance(name, rebuilt.eval()) < TOLERANCE
    for parameter, other in zip(loaded.parameters(), rebuilt.parameters(), strict=True):
        parameter.requires_grad_(other.requires_grad)
    for trained in (rebuilt, loaded):
        sum(t.square().sum() for t in tensors(trained.train()(make.image()))).backward()
        for key, parameter in trained.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


def test_a_frozen_file_is_never_written_again(tmp_path: Path) -> None:
    make.make("se", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError):
        make.make("se", tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
