"""Calls as pasted code has them: other names of the width, other keywords, another order of the arguments."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

import yolo_attn
from yolo_attn import layers, registry
from yolo_attn.errors import ArgumentError
from yolo_attn.layers._orders import ORDERS, TWO_WIDTHS
from yolo_attn.layers._pasted import WIDTHS, Bound, meant

NAMES = [layer.name for layer in registry.TABLE]

# Signatures of pasted classes and of the authors' own: how calls of them end here, on a map of 64 channels.
# (name, positional arguments, keywords) -> what the layer says of itself, or the error's words.
BUILT: list[tuple[str, tuple, dict, dict]] = [
    ("SEAttention", (64, 8), {}, {"reduction": 8}),
    ("SEAttention", (), {"channel": 64, "reduction": 8}, {"reduction": 8}),
    ("SELayer", (64,), {}, {"reduction": 16}),
    ("DoubleAttention", (64, 32, 16, True), {}, {"c_m": 32, "c_n": 16, "reconstruct": True}),
    ("DoubleAttention", (64, 64, 64), {}, {"c_m": 64, "c_n": 64}),
    ("BAMBlock", (64, 16, 4), {}, {"reduction": 16, "dilation": 4}),
    ("BiLevelRoutingAttention", (64,), {}, {"n_win": 7, "num_heads": 8}),
    ("BiLevelRoutingAttention", (64, 7, 8), {}, {"n_win": 7, "num_heads": 8}),
    ("BiLevelRoutingAttention", (64, 8, 7), {}, {"n_win": 7, "num_heads": 8}),
    ("BiLevelRoutingAttention", (64, 8, 7, 32, None, 2), {}, {"n_win": 7, "qk_dim": 32, "kv_per_win": 2}),
    ("BiLevelRoutingAttention", (64, 8, 7), {"topk": 2}, {"n_win": 7, "num_heads": 8, "topk": 2}),
    ("BiLevelRoutingAttention", (), {"dim": 64, "num_heads": 8, "n_win": 7, "topk": 4}, {"n_win": 7, "num_heads": 8}),
    ("AttentionLePE", (64, 4, False, None, 0.0, 0.0, 5), {}, {"num_heads": 4, "side_dwconv": 5}),
    ("CAA", (64, 7, 9), {}, {"h_kernel_size": 7, "v_kernel_size": 9}),
    ("CBAM", (64, 8, 5), {}, {"reduction": 8, "kernel_size": 5}),
    ("CBAMBlock", (), {"channel": 64, "reduction": 16, "kernel_size": 49}, {"kernel_size": 49}),
    ("EfficientAttention", (64, 8, [4, 4], [5], 4), {}, {"group_split": (4, 4), "kernel_sizes": (5,)}),
    ("CrissCrossAttention", (64,), {}, {"recurrence": 1}),
    ("CrissCrossAttention", (), {"in_dim": 64}, {"recurrence": 1}),
    ("CoordAtt", (64, 64, 16), {}, {"reduction": 16}),
    ("CoordAtt", (64, 64), {}, {"reduction": 32}),
    ("CoordAtt", (64,), {"oup": 64}, {"reduction": 32}),
    ("CoordAtt", (), {"inp": 64, "oup": 64, "reduction": 16}, {"reduction": 16}),
    ("CoordAtt", (64, 64), {"reduction": 16}, {"reduction": 16}),
    ("CoordAtt", (64,), {"reduction": 64}, {"reduction": 64}),
    ("CoordinateAttention", (64, 16), {}, {"reduction": 16}),
    ("CoTAttention", (64, 3), {}, {"kernel_size": 3}),
    ("CPCA", (), {"channels": 64, "channelAttention_reduce": 4}, {"channelAttention_reduce": 4}),
    ("CPCA", (), {"in_channels": 64, "out_channels": 64}, {"channelAttention_reduce": 4}),
    ("DAttention", (64, (20, 20)), {}, {"q_size": (20, 20), "n_heads": 8}),
    ("DAttention", (64, [20, 20], 4, 2), {}, {"q_size": (20, 20), "n_heads": 4, "n_groups": 2}),
    ("DAttention", (), {"channel": 64, "q_size": (20, 20)}, {"q_size": (20, 20)}),
    ("eca_layer", (64, 3), {}, {"kernel_size": 3}),
    ("EfficientChannelAttention", (64, 1, 2), {}, {"kernel_size": 3, "b": 1, "gamma": 2}),
    ("ECALayer", (64, 2, 1), {}, {"kernel_size": 3, "b": 1, "gamma": 2}),
    ("EMA", (64, 64, 32), {}, {"factor": 32}),
    ("EMA", (64, None, 32), {}, {"factor": 32}),
    ("EMA", (64, 16), {}, {"factor": 16}),
    ("EMAttention", (), {"channels": 64, "c2": 64, "factor": 32}, {"factor": 32}),
    ("simam_module", (64, 1e-3), {}, {"e_lambda": 1e-3}),
    ("SimAM", (64, 64, 1e-3), {}, {"e_lambda": 1e-3}),
    ("GAM_Attention", (64, 64, True, 4), {}, {"grouped": True, "channel_sigmoid": False, "rate": 4}),
    ("GAM_Attention", (64, 64, False), {}, {"grouped": False, "channel_sigmoid": False, "rate": 4}),
    ("GAM_Attention", (64, 64, 8), {}, {"grouped": False, "channel_sigmoid": False, "rate": 8}),
    ("GAM_Attention", (64, 8), {}, {"grouped": False, "channel_sigmoid": True, "rate": 8}),
    ("TripletAttention", (64, True), {}, {"no_spatial": True}),
    ("sa_layer", (64, 16), {}, {"groups": 16}),
    ("MLCA", (), {"in_size": 64, "local_size": 3}, {"local_size": 3}),
    ("SKAttention", (64, [1, 3], 8, 2, 16), {}, {"kernels": (1, 3), "reduction": 8, "group": 2, "L": 16}),
    ("LSKA", (64, 11), {}, {"kernel_size": 11}),
    ("LSKblock", (), {"dim": 64}, {}),
    ("SCSA", (64, 8, 7, [3, 5, 7, 9], False), {}, {"head_num": 8, "window_size": 7}),
    ("ELA", (64, 5), {}, {"kernel_size": 5}),
    ("ParallelPolarizedSelfAttention", (), {"channel": 64}, {}),
    ("PSA_p", (64, 64), {}, {}),
    ("PSA_s", (64, 64, 1, 1), {}, {}),
    ("PSA_p", (), {"inplanes": 64, "planes": 64}, {}),
    ("ContextBlock", (), {"inplanes": 64, "ratio": 0.25, "pooling_type": "avg"}, {"ratio": 0.25}),
]
EXPLAINED: list[tuple[str, tuple, dict, str]] = [
    ("SEAttention", (64,), {"ratio": 8}, r"has no argument 'ratio'; did you mean 'reduction'\?"),
    ("SEAttention", (64,), {"dim": 32}, "32"),
    ("BAMBlock", (64,), {"dia_val": 2}, "did you mean 'dilation'"),
    ("BAM", (64,), {"reduction_ratio": 8}, "did you mean 'reduction'"),
    ("BiLevelRoutingAttention", (64,), {"heads": 8}, "did you mean 'num_heads'"),
    ("MHSA", (64,), {"heads": 4}, "did you mean 'num_heads'"),
    ("MHSA", (64, 14, 14, 4), {}, r"needs no width and height; \[14, 14, 4\] looks like BoTNet's .*: write \[4\]"),
    ("MHSA", (64,), {"width": 14}, "no argument 'width'; it takes maps of any size"),
    ("CBAM", (64,), {"ratio": 8}, "did you mean 'reduction'"),
    ("CBAM", (64,), {"pool_types": ["avg"]}, "no argument 'pool_types'; it takes the maximum and the mean"),
    ("CBAM", (64,), {"no_spatial": False}, "the spatial gate is always there"),
    ("CBAM", (64, 16, ["avg", "max"], False), {}, r"needs no pool_types and no_spatial; .* write \[16\]"),
    ("CBAMLayer", (64,), {"spatial_kernel": 7}, "did you mean 'kernel_size'"),
    ("EfficientAttention", (64, 32, 4, 32), {}, "looks like EfficientAttention.in_channels, key_channels.*another"),
    ("EfficientAttention", (64,), {"key_channels": 32}, "not that EfficientAttention"),
    ("CoordAtt", (64, 32, 16), {}, r"CoordAtt\(inp, oup, reduction=32\) is meant for two equal widths"),
    ("CoordAtt", (64,), {"oup": 32}, "32"),
    ("CoordAtt", (64,), {"groups": 32}, "no argument 'groups'"),
    ("CoordAtt", (64, 20, 20, 16), {}, r"needs no height and width; .*CA_Block.*write \[16\]"),
    ("CPCA", (64,), {"reduction": 4}, "did you mean 'channelAttention_reduce'"),
    ("DAttention", (64, (20, 20), (20, 20), 8, 8, 2), {}, "needs no n_head_channels; .*DAttentionBaseline"),
    ("DAttention", (64,), {"num_heads": 8}, "did you mean 'n_heads'"),
    ("ECA", (64,), {"k_size": 3}, "did you mean 'kernel_size'"),
    ("EMA", (64,), {"groups": 8}, "did you mean 'factor'"),
    ("SimAM", (64,), {"lambda_": 1e-3}, "did you mean 'e_lambda'"),
    ("GAM_Attention", (64,), {"group": True}, "did you mean 'grouped'"),
    ("GAM_Attention", (64,), {"reduction": 8}, "did you mean 'rate'"),
    ("TripletAttention", (64, 16, ["avg"], False), {}, r"needs no reduction and pool_types; .*write \[False\]"),
    ("TripletAttention", (64,), {"kernel_size": 7}, "its kernels are 7x7"),
    ("ShuffleAttention", (64, 16, 8), {}, r"needs no reduction; \[16, 8\] looks like the copies' .*write \[8\]"),
    ("ShuffleAttention", (64,), {"G": 8}, "did you mean 'groups'"),
    ("ShuffleAttention", (64,), {"reduction": 16}, "it does nothing in the copies"),
    ("SKAttention", (64,), {"G": 2}, "did you mean 'group'"),
    ("LSKA", (64,), {"k_size": 11}, "did you mean 'kernel_size'"),
    ("SCSA", (64, 1, 7, [3, 5, 7, 9], False, False), {}, "needs no fuse_bn; .*the authors' SCSA"),
    ("SCSA", (64,), {"num_heads": 8}, "did you mean 'head_num'"),
    ("GC", (64,), {"reduction": 16}, "it takes the inverse, 'ratio'"),
    (
        "PSA_p",
        (64, 32),
        {},
        "takes at most . arguments; .*the authors' .inplanes, planes. is meant for two equal widths",
    ),
    ("PSA_p", (64,), {"stride": 1}, "keeps the size of its map"),
    ("TripletAttention", (), {}, "channels"),
]


def call(how: str, name: str, args: tuple, kwargs: dict[str, Any]) -> torch.nn.Module:
    return getattr(layers, name)(*args, **kwargs) if how == "class" else yolo_attn.create(name, *args, **kwargs)


@pytest.mark.parametrize("how", ["class", "create"])
@pytest.mark.parametrize(("name", "args", "kwargs", "expected"), BUILT)
def test_pasted_calls_build_what_is_meant(name: str, args: tuple, kwargs: dict, expected: dict, how: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = call(how, name, args, kwargs)
    assert layer.channels == 64
    assert {key: getattr(layer, key) for key in expected} == expected


@pytest.mark.parametrize("how", ["class", "create"])
@pytest.mark.parametrize(("name", "args", "kwargs", "message"), EXPLAINED)
def test_other_pasted_calls_say_what_to_write(name: str, args: tuple, kwargs: dict, message: str, how: str) -> None:
    with pytest.raises((ArgumentError, ValueError), match=message):
        call(how, name, args, kwargs)


@pytest.mark.parametrize("how", ["class", "create"])
@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("BiLevelRoutingAttention", (64, 4, 8), "4, 8 is read as {n_win: 4, num_heads: 8}; in the official .* it is "),
        ("GAM_Attention", (64, 64), "forks is meant, write {grouped: true, channel_sigmoid: false}"),
    ],
)
def test_calls_that_can_mean_two_things_warn(how: str, name: str, args: tuple, message: str) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        call(how, name, args, {})
    assert len(caught) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_takes_every_word_for_the_width(name: str) -> None:
    cls = registry.find(name).load()
    for word in WIDTHS - {*registry.find(name).arguments}:
        assert cls(**{word: 64}).channels == 64
    assert cls(64, c1=64, c2=64).channels == 64
    with pytest.raises(ValueError, match="keeps the width of its map: c2=32 and channels=64 differ"):
        cls(64, c2=32)


def test_a_class_imported_from_its_own_file_takes_them_too() -> None:
    code = "from yolo_attn.layers.se import SE; print(SE(channel=64, reduction=4).reduction)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "4\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_keyword_means_what_it_says(name: str) -> None:
    """What ``bind`` made is never read in another order, and leaves no trace in the layer."""
    layer = registry.find(name)
    for key in layer.arguments:
        try:
            built = yolo_attn.create(name, 64, **{key: 64})
        except ValueError:
            continue
        assert getattr(built, key) in (64, (64, 64))
        assert b"Bound" not in pickle.dumps(built)


def test_bind_marks_the_width_and_the_layer_unmarks_it() -> None:
    bound = registry.bind("CoordAtt", 64, (), {"reduction": 64})
    assert bound == [64, 64] and type(bound[0]) is Bound
    layer = layers.CoordAtt(*bound)
    assert (layer.reduction, type(layer.channels), type(layer.conv1.in_channels)) == (64, int, int)


def test_heads_that_do_not_divide_stay_an_error_where_they_are_named() -> None:
    for how in ("class", "create"):
        with pytest.raises(ValueError, match="channels=64 is not divisible by num_heads=7"):
            call(how, "BiFormer", (64,), {"n_win": 8, "num_heads": 7})


@pytest.mark.parametrize("name", NAMES)
def test_signature_pickle_and_subclasses_are_those_of_a_plain_class(name: str) -> None:
    cls = registry.find(name).load()
    signature = inspect.signature(cls)
    assert next(iter(signature.parameters)) == "channels" and "kwargs" not in signature.parameters
    assert tuple(signature.parameters)[1:] == registry.find(name).arguments
    again = pickle.loads(pickle.dumps(cls(64)))
    assert type(again) is cls and again.state_dict().keys() == cls(64).state_dict().keys()

    class Mine(cls):  # type: ignore[misc, valid-type]
        def __init__(self, width: int) -> None:
            super().__init__(width)

    assert Mine(64).channels == 64


def test_the_words_point_to_arguments_that_exist() -> None:
    assert {*ORDERS, *TWO_WIDTHS} <= {*NAMES}
    for layer in registry.TABLE:
        for order in ORDERS.get(layer.name, ()):
            assert {*order.implied} <= {*layer.arguments}
            assert {*order.may_be_under} <= {layer.name, *layer.aliases, *layer.pasted}
        assert meant(layer.name, "qwerty", layer.arguments) == ""
