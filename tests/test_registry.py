"""The front door: names, creation, registration."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import yolo_attn
from yolo_attn import registry
from yolo_attn.errors import ArgumentError, RegistrationError, UnknownLayerError


class Mine(nn.Module):
    def __init__(self, width: int, gain: float = 2.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain


@pytest.fixture
def mine():
    yolo_attn.register("Mine", Mine)
    yield
    yolo_attn.unregister("Mine")


def test_names_are_unique_and_slugs_too() -> None:
    names = [name for layer in registry.TABLE for name in (layer.name, *layer.aliases)]
    assert len(names) == len(set(names))
    assert len({layer.slug for layer in registry.TABLE}) == len(registry.TABLE)


def test_aliases_and_plain_imports_give_the_class() -> None:
    from yolo_attn.layers import CBAM, CBAMBlock, regional_routing_attention

    assert CBAM is CBAMBlock is registry.find("CBAMBlock").load()
    assert callable(regional_routing_attention)
    with pytest.raises(ImportError, match="CBAMM"):
        from yolo_attn.layers import CBAMM  # noqa: F401


def test_create_takes_positional_and_keyword_arguments() -> None:
    layer = yolo_attn.create("CBAM", 64, 8, kernel_size=5)
    assert "reduction=8" in layer.extra_repr() and "kernel_size=5" in layer.extra_repr()


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UnknownLayerError, match="'CBAN'; did you mean 'CBAM'"):
        yolo_attn.create("CBAN", 64)
    with pytest.raises(KeyError):  # what callers of the host expect
        yolo_attn.create("CBAN", 64)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"ratio": 8}, r"CBAM\(reduction=16, kernel_size=7.*has no argument 'ratio'; did you mean 'reduction'"),
        ((8,), {"reduction": 4}, "'reduction' is given twice, as 8 and as 4"),
        ((1, 3, True, True, 9), {}, "takes at most 4 arguments; got 5"),
    ],
)
def test_arguments_that_do_not_fit_are_named(args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        yolo_attn.create("CBAM", 64, *args, **kwargs)


def test_registered_layer_can_be_created_and_removed(mine) -> None:
    assert "Mine" in yolo_attn.list_layers()
    assert yolo_attn.create("Mine", 8, 3.0).gain == 3.0
    yolo_attn.unregister("Mine")
    assert "Mine" not in yolo_attn.list_layers()
    yolo_attn.register("Mine", Mine)


def test_duplicate_registration_prints_the_table(mine) -> None:
    for taken in ("Mine", "CBAM", "CBAMBlock"):
        with pytest.raises(RegistrationError, match=r"(?s)name is taken.*yolo_attn\.layers\.cbam:CBAM"):
            yolo_attn.register(taken, Mine)


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("my layer", Mine, "Python identifier"),
        ("class", Mine, "Python identifier"),
        ("Fine", lambda c: None, "subclass of nn.Module"),
        ("Fine", type("K", (nn.Module,), {"__init__": lambda self, c, *, k=1: None}), "keyword-only"),
        ("Fine", type("V", (nn.Module,), {"__init__": lambda self, c, **k: None}), "by position"),
        ("Fine", type("N", (nn.Module,), {"__init__": lambda self: None}), "width first"),
    ],
)
def test_what_cannot_be_registered(name: str, cls: object, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        yolo_attn.register(name, cls)
    assert name not in yolo_attn.list_layers()


def test_built_in_layers_stay() -> None:
    with pytest.raises(UnknownLayerError, match="built-in layers stay"):
        yolo_attn.unregister("CBAM")


def test_importing_the_package_loads_neither_torch_nor_ultralytics() -> None:
    code = "import sys, yolo_attn; yolo_attn.list_layers()\nprint({'torch', 'ultralytics', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_registration_that_the_host_refuses_leaves_nothing_behind() -> None:
    pytest.importorskip("ultralytics")
    from yolo_attn.errors import HostError

    yolo_attn.install()
    with pytest.raises(HostError, match="another 'Conv'"):
        yolo_attn.register("Conv", Mine)
    assert "Conv" not in yolo_attn.list_layers()
    yolo_attn.register("Mine", Mine)
    yolo_attn.unregister("Mine")
