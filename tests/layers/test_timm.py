"""TimmAttention: what its table says of timm is so, arguments reach timm, and timm's layers agree with ours."""

from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracles import LIMIT, distance, features, randomise
from timm.layers import create_attn
from torch import Tensor, nn

import yolo_attn
from yolo_attn.errors import ArgumentError, LayerFileError
from yolo_attn.layers import TimmAttention, timm_attention
from yolo_attn.layers._timm import _WITHHELD, ACTIVATIONS, NAMES, NORMS, OPTIONS, REFUSED, SAID, UNUSED, timm_name

ADMITTED = pytest.mark.parametrize("name", NAMES)
MAP = (13, 11)


def made_by_timm(name: str, width: int = 64, **options: object) -> nn.Module:
    return create_attn(name, width, **{**SAID.get(name, {}), **options})


# ----------------------------------------------------------------------------------------------- the table of names


def test_no_name_of_timm_is_missing_and_none_is_made_up() -> None:
    source = inspect.getsource(sys.modules["timm.layers.create_attn"])
    assert set(re.findall(r"attn_type == '(\w+)'", source)) == {*NAMES, *REFUSED}
    assert not NAMES.keys() & REFUSED.keys()


@pytest.mark.parametrize("width", [16, 24, 40, 144, 320])
@ADMITTED
def test_it_is_what_timm_builds(name: str, width: int) -> None:
    torch.manual_seed(0)
    ours = TimmAttention(width, name)
    torch.manual_seed(0)
    theirs = made_by_timm(name, width)
    assert type(ours.layer) is type(theirs) and str(ours.layer) == str(theirs)
    assert ours.state_dict().keys() == {f"layer.{key}" for key in theirs.state_dict()}
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[f"layer.{key}"], value)
    x = features(2, width, *MAP).float()
    for train in (False, True):
        assert torch.equal(ours.train(train)(x), theirs.train(train)(x))


@ADMITTED
def test_a_name_may_be_written_in_any_case(name: str) -> None:
    assert TimmAttention(16, name.upper()).name == TimmAttention(16, name.title()).name == name


def test_the_refused_fail_as_their_reasons_say() -> None:
    for name, fits in (("halo", 8), ("bat", 7)):
        layer = made_by_timm(name).eval()
        for size in ((fits, 2 * fits), (fits + 1, fits), (fits, fits + 4)):
            x = torch.randn(1, 64, *size)
            if size[0] % fits or size[1] % fits:
                with pytest.raises((AssertionError, RuntimeError)):
                    layer(x)
            else:
                assert layer(x).shape == x.shape
    with pytest.raises(AssertionError):
        made_by_timm("bottleneck")
    with pytest.raises(AssertionError):
        made_by_timm("bottleneck", feat_size=(8, 8))(torch.randn(1, 64, 8, 7))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        made_by_timm("sk").train()(torch.randn(1, 64, *MAP))
    assert made_by_timm("sk").eval()(torch.randn(1, 64, *MAP)).shape == (1, 64, *MAP)


@pytest.mark.parametrize("name", ["halo", "bat"])
def test_the_refused_do_not_export_where_that_is_said(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    side = {"halo": 16, "bat": 14}[name]
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    with pytest.raises(torch.onnx.errors.OnnxExporterError):
        torch.onnx.export(
            made_by_timm(name).eval(),
            (torch.randn(1, 64, side, side),),
            tmp_path / "layer.onnx",
            input_names=["x"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why_and_what_there_is(name: str) -> None:
    message = f"name={name.upper()!r} cannot be used: {REFUSED[name]}. Names: se, ese, "
    with pytest.raises(ValueError, match=re.escape(message)):
        TimmAttention(64, name.upper())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "name=None must be timm's name of a layer, one of se, ese, eca"),
        (True, "name=True must be timm's name"),
        (False, "name=False must be timm's name"),
        ("", "name='' must be timm's name"),
        (5, "name=5 must be timm's name"),
        (nn.Identity, "name=<class 'torch.nn.modules.linear.Identity'> must be timm's name"),
        (nn.Identity(), r"name=Identity\(\) must be timm's name"),
        (["se"], r"name=\['se'\] must be timm's name"),
        ("ecca", "name='ecca' is no layer of timm; did you mean 'eca'"),
        ("CbamModule", "name='CbamModule' is no layer of timm; did you mean 'cbam'"),
        ("EcaModule", "name='EcaModule' is no layer of timm; did you mean 'eca'"),
        ("transformer", r"name='transformer' is no layer of timm.* Names: se, ese"),
    ],
)
def test_no_name(name: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TimmAttention(64, name)


# ------------------------------------------------------------------------------------------------------- arguments


def test_arguments_reach_timm_by_mapping_and_by_keyword() -> None:
    wide = made_by_timm("se", rd_ratio=0.25).fc1.out_channels
    layers = (
        TimmAttention(64, "se", {"rd_ratio": 0.25}),
        TimmAttention(64, "se", rd_ratio=0.25),
        TimmAttention(channels=64, name="se", options={"rd_ratio": 0.25}),
        TimmAttention(dim=64, name="se", rd_ratio=0.25),
        yolo_attn.create("TimmAttention", 64, "se", rd_ratio=0.25),
        yolo_attn.create("TimmAttention", 64, name="se", rd_ratio=0.25),
        yolo_attn.create("TimmAttention", dim=64, name="se", options={"rd_ratio": 0.25}),
        yolo_attn.create("TimmAttention", 64, "se", {"rd_ratio": 0.25}),
        yolo_attn.create("TimmAttention", 64, "SE", options={"rd_ratio": 0.25}),
    )
    assert [layer.layer.fc1.out_channels for layer in layers] == [wide] * len(layers)
    assert {layer.extra_repr() for layer in layers} == {"channels=64, name='se', rd_ratio=0.25"}
    act = TimmAttention(64, "coord", act_layer="gelu", norm_layer="groupnorm1").layer
    assert (type(act.act).__name__, type(act.bn1).__name__) == ("GELU", "GroupNorm1")
    assert isinstance(TimmAttention(64, "coord", norm_layer=None).layer.bn1, nn.Identity)


def test_a_class_with_defaults_only_has_no_options() -> None:
    assert TimmAttention(64, "se").options is TimmAttention(64, "se", {}).options is None
    assert not TimmAttention(64, "ge").options and isinstance(TimmAttention(64, "ge").layer.mlp, nn.Identity)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "se",
            {"ratio": 4},
            r"TimmAttention\('se', rd_ratio=0.0625, .*act_layer='relu', .*'ratio'; did you mean 'rd_r",
        ),
        (
            "ese",
            {"rd_ratio": 4},
            r"TimmAttention\('ese', add_maxpool=False, gate_layer='hard_sigmoid'\) has no argument",
        ),
        ("strip", {"kernelsize": 5}, r"has no argument 'kernelsize'; did you mean 'kernel_size'"),
        ("nl", {"rd_ration": 0.5}, r"has no argument 'rd_ration'; did you mean 'rd_ratio'"),
        ("splat", {"padding_mode": "circular"}, r"has no argument 'padding_mode'"),
        ("ge", {"exent": 2}, r"use_mlp=False, .*has no argument 'exent'; did you mean 'extent'"),
    ],
)
def test_timm_never_swallows_a_slip(name: str, options: dict, said: str) -> None:
    for build in (
        lambda: TimmAttention(64, name, options),
        lambda: yolo_attn.create("TimmAttention", 64, name, **options),
    ):
        with pytest.raises(ArgumentError, match=said):
            build()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("se", {"rd_ratio": -1}, "rd_ratio=-1 must be a number > 0"),
        ("se", {"rd_ratio": "big"}, "rd_ratio='big' must be"),
        ("se", {"rd_ratio": None}, "rd_ratio=None must be"),
        ("se", {"rd_channels": 10**9}, "rd_channels=1000000000 is more than 65536"),
        ("se", {"bias": "yes"}, "bias='yes' must be True or False"),
        ("se", {"act_layer": nn.SiLU}, "act_layer=<class .*SiLU'> must be one of 'relu'"),
        ("se", {"gate_layer": "sigmoidd"}, "gate_layer='sigmoidd' must be one of 'relu'"),
        (
            "se",
            {"norm_layer": "batchnorm2d"},
            r"name='se', norm_layer='batchnorm2d'\) cannot train on one image of 5x7",
        ),
        ("splat", {"norm_layer": "batchnorm2d"}, r"norm_layer='batchnorm2d'\) cannot train on one image of 5x7: Expec"),
        ("splat", {"stride": 2}, r"stride=2\) makes 64x3x4 of 64x5x7; it must keep the shape"),
        ("splat", {"dilation": 2}, r"dilation=2\) cannot take a map of 1x1"),
        ("splat", {"padding": 0}, r"padding=0\) cannot take a map of 1x1"),
        ("splat", {"out_channels": 32}, r"keeps the width of its map: out_channels=32 and channels=64 differ"),
        ("splat", {"groups": 7}, r"groups=7\) cannot be built: .*divisible"),
        ("splat", {"drop_layer": "x"}, "drop_layer='x' cannot be used: it takes a class"),
        ("lambda", {"dim_out": 32}, "keeps the width of its map: dim_out=32 and channels=64 differ"),
        ("lambda", {"stride": 2}, r"stride=2\) cannot take a map of 1x1"),
        ("lambda", {"num_heads": 7}, r"num_heads=7\) cannot be built: .*divided by num_heads"),
        ("lambda", {"feat_size": [8, 8]}, r"feat_size=\[8, 8\] cannot be used: it binds the layer to one map size"),
        ("lambda", {"r": None}, "r=None must be an odd integer"),
        ("strip", {"kernel_size": 4}, "kernel_size=4 must be an odd integer"),
        ("cbam", {"spatial_kernel_size": 4}, "spatial_kernel_size=4 must be an odd integer"),
        ("ge", {"extent": 3}, "extent=3 must be an even integer"),
        ("ge", {"extra_params": True}, "extra_params=True cannot be used: it binds the layer to one map size"),
        ("eca", {"device": "cpu"}, "device='cpu' cannot be used: the model decides"),
        ("eca", {"dtype": "half"}, "dtype='half' cannot be used: the model decides"),
    ],
)
def test_values_that_make_no_sense_or_break_a_layer(name: str, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TimmAttention(64, name, **options)


@pytest.mark.parametrize("options", ["rd_ratio=0.25", 5, ["rd_ratio"]])
def test_options_are_a_mapping(options: object) -> None:
    with pytest.raises(ValueError, match=rf"options={re.escape(repr(options))} must be a mapping"):
        TimmAttention(64, "se", options)
    with pytest.raises(ArgumentError, match="must be a mapping, for 'bias' go with it"):
        yolo_attn.create("TimmAttention", 64, "se", options, bias=False)


def test_an_argument_given_twice_is_named() -> None:
    for build in (TimmAttention, lambda *args, **kwargs: yolo_attn.create("TimmAttention", *args, **kwargs)):
        with pytest.raises(ArgumentError, match=r"'rd_ratio' is given twice, as 0\.5 and as 0\.25"):
            build(64, "se", {"rd_ratio": 0.5}, rd_ratio=0.25)


def test_an_mlp_of_ge_is_refused_as_long_as_timm_cannot_build_it() -> None:
    try:
        create_attn("ge", 64)
    except TypeError as error:
        with pytest.raises(ValueError, match=rf"use_mlp=True\) cannot be built: {re.escape(str(error))}"):
            TimmAttention(64, "ge", use_mlp=True)
    else:
        assert TimmAttention(64, "ge", use_mlp=True)


VALUES = {"kernel_size": 5, "spatial_kernel_size": 3, "r": 3, "rd_ratio": 0.5, "rd_channels": 24, "rd_divisor": 48}
VALUES |= {"gamma": 1.0, "beta": 9.0, "se_factor": 6.0, "qk_ratio": 2.0, "groups": 2, "radix": 4, "num_heads": 2}
VALUES |= {"dim_head": 8, "extent": 2, "act_layer": "tanh", "gate_layer": "tanh", "norm_layer": "layernorm2d"}
SHAPES = {"stride", "padding", "dilation", "out_channels", "dim_out", "use_mlp"}  # most values of them are refused


@ADMITTED
def test_every_argument_of_timm_is_known_and_those_without_effect_are_said(name: str) -> None:
    defaults = timm_attention._defaults(name)
    assert defaults.keys() <= OPTIONS.keys() | _WITHHELD.keys()
    assert set(UNUSED.get(name, ())) <= defaults.keys()
    x = features(2, 64, *MAP)

    def output(**options: object) -> Tensor:
        torch.manual_seed(0)
        return randomise(TimmAttention(64, name, **options)).eval()(x)

    plain = output()
    for key in defaults.keys() & OPTIONS.keys() - SHAPES:
        option = {key: VALUES.get(key, not defaults[key])}
        if key in UNUSED.get(name, ()):
            with pytest.warns(UserWarning, match=f"{name}'.*timm does nothing with {key}="):
                assert torch.equal(output(**option), plain), key
        else:
            assert not torch.allclose(output(**option), plain), key


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_fits_every_place(act: str) -> None:
    x = features(1, 64, *MAP).float()
    for name in ("se", "cbam", "lcbam", "coord", "scoord", "ela", "splat"):
        assert TimmAttention(64, name, act_layer=act)(x).shape == x.shape
    assert TimmAttention(64, "gc", act_layer=act, gate_layer=act)(x).shape == x.shape


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_fits(norm: str) -> None:
    x = features(1, 64, *MAP).float()
    for name in ("coord", "ela"):
        assert TimmAttention(64, name, norm_layer=norm)(x).shape == x.shape


# ----------------------------------------------------------------------------------------------------- in training


@pytest.mark.parametrize("name", ["cbam", "lcbam", "nl", "lambda"])
def test_one_pixel_is_trained_with_the_running_statistics(name: str) -> None:
    layer = randomise(TimmAttention(16, name)).train()
    x = features(1, 16, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        copy.deepcopy(layer.layer)(x)
    before = copy.deepcopy(layer.state_dict())
    y = layer(x)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert all(module.training for module in layer.modules())
    assert distance(y, layer.eval()(x)) < LIMIT
    y.sum().backward()
    layer.train()(features(2, 16, 1, 1))  # two pixels are a batch
    assert any(not torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_a_frozen_norm_stays_frozen() -> None:
    layer = TimmAttention(16, "nl").train()
    layer.layer.norm.eval()
    layer(torch.randn(1, 16, 1, 1))
    assert not layer.layer.norm.training


@ADMITTED
def test_the_format_of_the_map_is_kept(name: str) -> None:
    layer = randomise(TimmAttention(16, name)).eval()
    x = features(2, 16, *MAP)
    for form in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            assert layer.to(memory_format=form)(x.to(memory_format=form)).is_contiguous(memory_format=form)


@ADMITTED
def test_compiles_and_exports(name: str) -> None:
    layer = randomise(TimmAttention(16, name)).eval()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in (MAP, (7, 20)):
            x = features(2, 16, *size)
            assert distance(compiled(x), layer(x)) < LIMIT
        program = torch.export.export(layer, (x,)).module()
        assert distance(program(x), layer(x)) < LIMIT


# ---------------------------------------------------------------------------------------------- when timm is loaded


def test_timm_is_imported_when_a_layer_is_built_and_not_before() -> None:
    code = (
        "import sys, yolo_attn\n"
        "from yolo_attn import graft, listing, registry\n"
        "registry.names(), registry.slugs(), registry.classes(), registry.broken(), listing.text()\n"
        "graft.split_names('yolov8n-timm-eca')\n"
        "from yolo_attn.layers import TimmAttention\n"
        "print('timm' in sys.modules)\n"
        "TimmAttention(8, 'eca')\n"
        "print('timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_timm_the_error_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    with pytest.raises(LayerFileError, match=r"TimmAttention needs timm, which cannot .* pip install --upgrade timm"):
        TimmAttention(8, "eca")
    assert timm_name("ECA") == "eca"
