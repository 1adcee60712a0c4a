"""What every layer of the registry must do. A new layer is tested by being listed."""

from __future__ import annotations

import copy
import inspect
import re

import pytest
import torch
from torch import nn

from yolo_attn import registry
from yolo_attn.contract.checks import (
    check_attributes,
    check_copies,
    check_map,
    check_unchanged,
    distance,
    features,
    onnx_distances,
    open_gates,
)
from yolo_attn.registry import Layer

WIDTH = 32
SIZES = [(9, 13), (16, 12)]


def label(layer: Layer) -> str:
    return layer.slug if layer.given else layer.name


pytestmark = pytest.mark.usefixtures("form")
NAMES = pytest.mark.parametrize(
    "layer",
    (*registry.TABLE, *registry.TIMM_SLUGS, registry.POINTWISE),
    ids=lambda layer: label(layer),
)

# Parameters whose gradient is zero by algebra: softmax ignores what it adds to every logit of a row, batch norm
# subtracts what comes right before it.
ZERO_GRADIENT = {
    "DoubleAttention": r"convB\.bias",
    "CoT": r"attention_embed\.3\.bias",
    "BAM": r"ca\.ca\.fc_\d\.bias|sa\.sa\.conv_(reduce|\d)\.bias",
    "CoordAtt": r"conv1\.bias",
    "CAA": r"v_conv\.bias",
    "CrissCross": r"key_conv\.bias",
    "DAttention": r"proj_k\.bias",
    "GAM": r"spatial_attention\.[03]\.bias",
    "SK": r"convs\.\d\.conv\.bias",
    "Polarized": r"ch_wq\.bias",
    "PolarizedSeq": r"ch_wq\.bias",
    "GC": r"conv_mask\.bias",
}

CLASS_PATHS = {
    "SE": "yolo_attn.layers.se:SE",
    "DoubleAttention": "yolo_attn.layers.double_attention:DoubleAttention",
    "BAM": "yolo_attn.layers.bam:BAM",
    "BiFormer": "yolo_attn.layers.biformer:BiFormer",
    "MHSA": "yolo_attn.layers.mhsa:MHSA",
    "MHSALePE": "yolo_attn.layers.mhsa_lepe:MHSALePE",
    "CAA": "yolo_attn.layers.caa:CAA",
    "CBAM": "yolo_attn.layers.cbam:CBAM",
    "CloAttention": "yolo_attn.layers.clo_attention:CloAttention",
    "CrissCross": "yolo_attn.layers.criss_cross:CrissCross",
    "CoordAtt": "yolo_attn.layers.coord_att:CoordAtt",
    "CoT": "yolo_attn.layers.cot:CoT",
    "CPCA": "yolo_attn.layers.cpca:CPCA",
    "DAttention": "yolo_attn.layers.dattention:DAttention",
    "ECA": "yolo_attn.layers.eca:ECA",
    "EMA": "yolo_attn.layers.ema:EMA",
    "SimAM": "yolo_attn.layers.simam:SimAM",
    "GAM": "yolo_attn.layers.gam:GAM",
    "Triplet": "yolo_attn.layers.triplet:Triplet",
    "Shuffle": "yolo_attn.layers.shuffle:Shuffle",
    "MLCA": "yolo_attn.layers.mlca:MLCA",
    "SK": "yolo_attn.layers.sk:SK",
    "LSKA": "yolo_attn.layers.lska:LSKA",
    "LSK": "yolo_attn.layers.lsk:LSK",
    "SCSA": "yolo_attn.layers.scsa:SCSA",
    "ELA": "yolo_attn.layers.ela:ELA",
    "Polarized": "yolo_attn.layers.polarized:Polarized",
    "PolarizedSeq": "yolo_attn.layers.polarized:PolarizedSeq",
    "PSA_p": "yolo_attn.layers.psa:PSA_p",
    "PSA_s": "yolo_attn.layers.psa:PSA_s",
    "GC": "yolo_attn.layers.gc:GC",
    "Pointwise": "yolo_attn.layers.pointwise:Pointwise",
    "TimmAttention": "yolo_attn.layers.timm_attention:TimmAttention",
}


def build(layer: Layer, width: int = WIDTH, seed: int = 0) -> nn.Module:
    """Return the layer with default arguments; gates that start at zero are opened so that nothing hides."""
    torch.manual_seed(seed)
    return open_gates(registry.create(layer.name, width, *layer.given))


@NAMES
@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 7), (5, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_keeps_shape_dtype_and_input(layer: Layer, size: tuple[int, int], train: bool) -> None:
    module = build(layer).train(train)
    for batch in (2, 1):
        x = features(batch, WIDTH, *size)
        before = x.clone()
        check_map(module(x), x)
        check_unchanged(x, before)


@NAMES
def test_size_may_change_between_calls(layer: Layer) -> None:
    module = build(layer).eval()
    small, large = features(1, WIDTH, *SIZES[0]), features(1, WIDTH, *SIZES[1])
    with torch.no_grad():
        first = module(small)
        module(large)
        assert torch.equal(module(small), first)


@NAMES
def test_every_parameter_gets_a_gradient_and_moves_within_two_steps(layer: Layer) -> None:
    torch.manual_seed(0)
    width = 128  # hidden layers of several units: not all of them start dead behind a ReLU
    module = registry.create(layer.name, width, *layer.given).train()
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    if not start:
        pytest.skip("no parameters")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x, w = features(4, width, *SIZES[0]), features(4, width, *SIZES[0], seed=2)
    for _ in range(2):
        optimizer.zero_grad()
        (module(x) * w).sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{name} takes no part: data-parallel training would stop"
        optimizer.step()
    zero = ZERO_GRADIENT.get(label(layer), "$^")
    still = [n for n, p in module.named_parameters() if torch.equal(p, start[n]) and not re.fullmatch(zero, n)]
    assert not still


@NAMES
def test_zero_gradient_list_names_real_parameters(layer: Layer) -> None:
    if label(layer) in ZERO_GRADIENT:
        names = [name for name, _ in build(layer).named_parameters()]
        assert any(re.fullmatch(ZERO_GRADIENT[label(layer)], name) for name in names)


@NAMES
def test_a_sample_alone_equals_the_sample_in_a_batch(layer: Layer) -> None:
    module = build(layer).eval().double()
    x = features(3, WIDTH, *SIZES[0]).double()
    with torch.no_grad():
        together, alone = module(x), module(x[1:2])
    assert distance(together[1:2], alone) < 1e-12  # float64 noise of another summation order


@NAMES
def test_copies_pickles_and_states_agree(layer: Layer) -> None:
    check_copies(build(layer).eval(), build(layer, seed=9).eval(), features(2, WIDTH, *SIZES[0]))


@NAMES
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)], ids=["fp16", "bf16"])
def test_half_precision_is_near_full(layer: Layer, dtype: torch.dtype, limit: float) -> None:
    if dtype == torch.float16 and torch.__version__ < "2.3":
        pytest.skip("PyTorch has pooling and norms in float16 on the CPU from 2.3 on")
    # Limits: a few roundings of the type (eps 1e-3 and 8e-3); BiFormer may flip one of its windows' routes in bf16.
    module = build(layer).eval()
    x = features(2, WIDTH, *SIZES[0])
    half = copy.deepcopy(module).to(dtype)
    rounded = copy.deepcopy(half).float()
    with torch.no_grad():
        y = half(x.to(dtype))
        reference = rounded(x.to(dtype).float())
    assert y.dtype == dtype
    assert distance(y, reference) < limit


@NAMES
def test_autocast_trains(layer: Layer) -> None:
    module = build(layer).train()
    x = features(2, WIDTH, *SIZES[0]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


@NAMES
def test_channels_last_gives_the_same(layer: Layer) -> None:
    module = build(layer).eval().double()
    x = features(2, WIDTH, *SIZES[1]).double()
    with torch.no_grad():
        expected = module(x)
        y = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert distance(y, expected) < 1e-12  # float64 noise of another summation order


@NAMES
def test_onnx_export_equals_eager_at_two_sizes(layer: Layer) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    maps = features(1, WIDTH, *SIZES[0], seed=5), features(2, WIDTH, *SIZES[1], seed=5)
    distances = list(onnx_distances(build(layer).eval(), *maps))
    assert len(distances) == 2
    assert max(distances) < 1e-5  # float32 noise of another implementation


@NAMES
def test_arguments_are_those_of_the_registry(layer: Layer) -> None:
    parameters = dict(inspect.signature(layer.load()).parameters)
    if layer.gathers:
        assert parameters.popitem()[1].kind is inspect.Parameter.VAR_KEYWORD
    assert list(parameters) == ["channels", *layer.arguments]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())
    assert all(p.default is not p.empty for name, p in parameters.items() if name != "channels")


@NAMES
@pytest.mark.parametrize("bad", [0, -8, 2.5, "64", True, None], ids=repr)
def test_bad_width_raises_and_is_quoted(layer: Layer, bad: object) -> None:
    with pytest.raises(ValueError, match=rf"channels={re.escape(repr(bad))}"):
        registry.create(layer.name, bad, *layer.given)


@NAMES
def test_bad_arguments_raise_and_are_named(layer: Layer) -> None:
    for name in layer.arguments:
        with pytest.raises(ValueError, match=rf"{name}\b.*nonsense"):
            layer.load()(WIDTH, **{**dict(zip(layer.arguments, layer.given, strict=False)), name: "nonsense"})


@NAMES
def test_docstring_says_what_users_need(layer: Layer) -> None:
    doc = inspect.getdoc(layer.load()) or ""
    for heading in ("Paper:", "Args:", "Shape:", "Raises:", "Example:", f"[-1, 1, {layer.name}, ["):
        assert heading in doc
    assert all(re.search(rf"^\s*{name}( \(.*\))?:", doc, re.M) for name in ("channels", *layer.arguments))
    assert layer.arxiv in doc
    assert "Differs:" in (inspect.getmodule(layer.load()).__doc__ or "")


@NAMES
def test_attributes_leave_the_hosts_names_free(layer: Layer) -> None:
    check_attributes(build(layer))


@NAMES
def test_repr_shows_the_arguments(layer: Layer) -> None:
    text = build(layer).extra_repr()
    assert f"channels={WIDTH}" in text


def test_class_paths_are_frozen() -> None:
    # They are written into every checkpoint: a moved class makes users' files unreadable.
    assert {layer.name: layer.path for layer in registry.PACKAGED} == CLASS_PATHS
