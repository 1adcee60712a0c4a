"""The front door: names, creation, registration."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import yolo_attn
from yolo_attn import listing, registry
from yolo_attn.errors import ArgumentError, RegistrationError, UnknownLayerError
from yolo_attn.layers._timm import NAMES, REFUSED


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
    assert yolo_attn.create(name="CBAM", channels=64).channels == 64
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


def test_the_names_of_other_layers_are_not_slips_of_ours() -> None:
    for name in ("EPSA", "FCA", "SimCLR", "SKN", "NAM", "SEBlockX", "S2Attention", "FCAttention", "CPAM", "PAM"):
        with pytest.raises(UnknownLayerError, match=rf"unknown layer '{name}'\. Layers .*register\('{name}', {name}\)"):
            yolo_attn.create(name, 64)
    for name, meant in {"SE_Layer": "SE", "cbam_layer": "CBAM", "MHSAAttention": "MHSA", "CBMA": "CBAM"}.items():
        with pytest.raises(UnknownLayerError, match=f"unknown layer '{name}'; did you mean '{meant}'"):
            yolo_attn.create(name, 64)
    with pytest.raises(UnknownLayerError, match="'Attention'; the layer listed elsewhere as Attention is MHSA here"):
        yolo_attn.create("Attention", 64)


@pytest.mark.parametrize("word", ["channel", "dim", "in_channels", "inp", "in_dim"])
def test_the_width_may_go_by_the_names_of_pasted_code(word: str) -> None:
    from yolo_attn.layers import BiLevelRoutingAttention, CoordinateAttention, DAttention, SEAttention

    assert yolo_attn.create("SE", 64, **{word: 64}).channels == 64
    assert yolo_attn.create("SE", **{word: 64}, reduction=8).reduction == 8
    with pytest.raises(ArgumentError, match=f"SE: {word}=32 is not the width it gets, 64; leave it out"):
        yolo_attn.create("SE", 64, **{word: 32})
    for layer in (SEAttention, BiLevelRoutingAttention, CoordinateAttention, DAttention):
        assert layer(**{word: 64}).channels == 64
    assert SEAttention(**{word: 64}, reduction=8).reduction == 8
    assert CoordinateAttention(**{word: 64}, oup=64).channels == 64
    with pytest.raises(ValueError, match=f"SE keeps the width of its map: {word}=32 and channels=64 differ"):
        SEAttention(64, **{word: 32})
    with pytest.raises(TypeError, match="width"):
        SEAttention(width=64)


def test_a_layer_of_ones_own_may_call_an_argument_so() -> None:
    class Wide(nn.Module):
        def __init__(self, c1: int, dim: int = 4) -> None:
            super().__init__()
            self.sizes = c1, dim

    yolo_attn.register("Wide", Wide)
    try:
        assert yolo_attn.create("Wide", 64, dim=8).sizes == (64, 8)
    finally:
        yolo_attn.unregister("Wide")


def test_the_signature_is_the_layers_own() -> None:
    from yolo_attn.layers import SE

    SE(channels=16)
    assert repr(SE(16, 4)).startswith("SE(\n  channels=16, reduction=4, bias=False")


@pytest.mark.parametrize("integer", [np.int64, np.int8, np.uint16])
def test_integers_of_numpy_and_flags_as_numbers_are_accepted(integer: type) -> None:
    layer = yolo_attn.create("SE", np.int64(64), integer(8), 1)
    assert (type(layer.channels), type(layer.reduction), layer.bias) == (int, int, True)
    layer = yolo_attn.create("MHSA", 64, integer(4), qkv_bias=1, attn_drop=np.float32(0.5))
    assert (layer.num_heads, layer.qkv_bias, layer.attn_drop) == (4, True, 0.5)
    assert layer.qkv.bias is not None
    assert yolo_attn.create("SE", 64, bias=np.bool_(False)).bias is False
    assert yolo_attn.create("BiFormer", 64, side_dwconv=integer(5)).side_dwconv == 5
    assert yolo_attn.create("DAttention", 64, q_size=integer(9)).q_size == (9, 9)
    assert yolo_attn.create("CloAttention", 64, kernel_sizes=[integer(3)], qkv_bias=0).qkv_bias is False


@pytest.mark.parametrize(
    "arguments", [{"reduction": True}, {"reduction": np.bool_(True)}, {"reduction": 8.0}, {"bias": 2}, {"bias": "yes"}]
)
def test_other_kinds_are_refused(arguments: dict) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={getattr(value, 'item', lambda: value)()!r} must be"):
        yolo_attn.create("SE", 64, **arguments)


def test_numbers_that_are_slips_are_refused_before_they_fill_the_memory() -> None:
    with pytest.raises(ValueError, match="recurrence=1000000 is more than 64, the most that is allowed"):
        yolo_attn.create("CrissCross", 64, 10**6)
    with pytest.raises(ArgumentError, match=r"DAttention\(512, .* has [\d,]+ parameters; 536,870,912 are allowed"):
        yolo_attn.create("DAttention", 512, dwc_pe=False, fixed_pe=True, q_size=160)
    state = torch.get_rng_state()
    registry.refuse_giants(registry.find("SE"), [64, 8])
    assert torch.equal(state, torch.get_rng_state())  # a seed gives the weights it always gave


def test_the_listing_can_be_pasted() -> None:
    text = listing.text()
    rows = yaml.safe_load(text)
    assert [row[2] for row in rows] == yolo_attn.list_layers()
    defaults = [yaml.safe_load(line.split("defaults:")[1]) for line in text.splitlines() if "# defaults:" in line]
    with_defaults = [row for row in rows if registry.find(row[2]).arguments and row[2] != "TimmAttention"]
    for (_, _, name, args), given in zip(with_defaults, defaults, strict=True):
        plain, full = yolo_attn.create(name, 64, *args), yolo_attn.create(name, 64, **given)
        assert str(plain).replace("[", "(").replace("]", ")") == str(full).replace("[", "(").replace("]", ")")
        assert list(given) == list(registry.find(name).arguments)


def test_the_listing_says_which_layers_of_timm_there_are_and_why_not_the_others() -> None:
    text = listing.text()
    row = yaml.safe_load(text)[-1]
    assert yolo_attn.create(row[2], 64, *row[3]).name == "se"
    assert f"# timm's layers by name: {', '.join(NAMES)}\n" in text
    assert all(f"# not {name}: {reason}" in text for name, reason in REFUSED.items())
    assert text.count("TimmAttention") == 1


def test_a_slug_of_timm_is_no_row_and_says_what_is_one() -> None:
    assert registry.row_of("timm-ECA") == ("TimmAttention", ["eca"])
    assert registry.row_of("CBAMBlock") == ("CBAM", [])
    for name in ("timm-halo", "timm", "timm-"):
        with pytest.raises(UnknownLayerError, match=f"unknown layer '{name}'"):
            registry.row_of(name)
    with pytest.raises(
        UnknownLayerError, match=r"'timm-eca'; write TimmAttention, \['eca'\]\. Layers of yolo-attn: SE"
    ):
        yolo_attn.create("timm-eca", 64)


def test_cloattention_registers_its_parameters_in_the_official_order() -> None:
    layer = yolo_attn.create("CloAttention", 16, 4, [1, 1, 2], [3, 5])
    first = list(dict.fromkeys(name.split(".")[0] for name, _ in layer.named_parameters()))
    assert first == ["global_q", "global_kv", "convs", "act_blocks", "qkvs", "proj"]
