"""GC, additive, multiplicative and both, against a slow formula."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from oracles import State, agree, distance, features, half_precision_error, layer_norm, pointwise, randomise, softmax
from torch import Tensor

from yolo_attn import registry
from yolo_attn.layers import GC, ContextBlock
from yolo_attn.layers.gated import Gated

pytestmark = pytest.mark.usefixtures("form")

ADD, MUL = "channel_add", "channel_mul"


def oracle(x: Tensor, p: State) -> Tensor:
    flat = x.flatten(2)
    if "conv_mask.weight" in p:
        z = (flat * softmax(pointwise(x, p, "conv_mask").flatten(2), 2)).sum(2)
    else:
        z = flat.sum(2) / flat.shape[2]

    def bottleneck(name: str) -> Tensor:
        t = layer_norm(pointwise(z[:, :, None, None], p, f"{name}.0")[:, :, 0, 0], p, f"{name}.1").clamp(min=0)
        return pointwise(t[:, :, None, None], p, f"{name}.3")

    y = x
    if "channel_mul_conv.0.weight" in p:
        y = y * torch.sigmoid(bottleneck("channel_mul_conv"))
    return y + bottleneck("channel_add_conv") if "channel_add_conv.0.weight" in p else y


@pytest.mark.parametrize("fusions", [[ADD], [MUL], [ADD, MUL], (MUL, ADD)], ids=str)
@pytest.mark.parametrize("pooling", ["att", "avg"])
@pytest.mark.parametrize(
    ("width", "ratio", "hidden"), [(64, 1 / 16, 4), (24, 0.25, 6), (7, 0.45, 3), (8, 1, 8), (5, 0.01, 1)]
)
@pytest.mark.filterwarnings("ignore:GC")
def test_gc(width: int, ratio: float, hidden: int, pooling: str, fusions: list[str]) -> None:
    layer = randomise(GC(width, ratio, pooling, fusions))
    shapes: dict[str, tuple[int, ...]] = {}
    if pooling == "att":
        shapes |= {"conv_mask.weight": (1, width, 1, 1), "conv_mask.bias": (1,)}
    for word in fusions:
        shapes |= {f"{word}_conv.0.weight": (hidden, width, 1, 1), f"{word}_conv.0.bias": (hidden,)}
        shapes |= {f"{word}_conv.1.weight": (hidden, 1, 1), f"{word}_conv.1.bias": (hidden, 1, 1)}
        shapes |= {f"{word}_conv.3.weight": (width, hidden, 1, 1), f"{word}_conv.3.bias": (width,)}
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == shapes
    for shape in ((2, width, 4, 6), (1, width, 1, 1), (1, width, 1, 5)):
        agree(layer, oracle, features(*shape))


def test_a_fresh_layer() -> None:
    x = features(2, 64, 5, 4).float()
    assert torch.equal(GC(64)(x), x)
    assert torch.equal(GC(64, fusion_types=[MUL])(x), x / 2)
    mask = GC(512, fusion_types=[MUL]).conv_mask
    assert abs(mask.weight.std().item() / (2 / 512) ** 0.5 - 1) < 0.15 and not mask.bias.any()  # of 512 draws


def test_only_the_additive_layer_starts_as_the_identity() -> None:
    assert GC(64).starts_as_identity
    assert not any(GC(64, fusion_types=types).starts_as_identity for types in ([MUL], [ADD, MUL]))
    with pytest.raises(ValueError, match="GC starts as the identity itself"):
        Gated("GC", 64)
    x = features(1, 64, 3, 3).float()
    assert torch.equal(Gated("GC", 64, 1 / 16, "att", [MUL])(x), x)


def test_one_hidden_channel_is_reported_where_it_is_chosen() -> None:
    with pytest.warns(UserWarning, match=r"GC\(channels=31, ratio=0\.0625\) has one hidden channel.*ratio=0\.13 gives"):
        layer = GC(31)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GC(31, 0.13).channel_add_conv[0].out_channels == 4
        GC(32)
    x = features(2, 31, 3, 4)
    change = randomise(layer)(x) - x
    assert distance(change, change[:1, :, :1, :1].expand_as(change)) < 1e-12  # it sees nothing of the map


def test_large_inputs_in_half_precision() -> None:
    layer = randomise(GC(64, fusion_types=[ADD, MUL]))
    assert half_precision_error(layer, 30 * features(1, 64, 20, 20), torch.float16) < 5e-3  # a few roundings


def test_names() -> None:
    assert ContextBlock is GC
    assert "GlobalContext" not in registry.names()  # timm's: another epsilon, ratio, start


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GC(0), "channels=0 must be an integer >= 1"),
        (lambda: GC(64, 0), "ratio=0 must be a number in (0, 1]: it multiplies the width, 1/16 is 0.0625"),
        (lambda: GC(64, -0.5), "ratio=-0.5 must be a number in (0, 1]: it multiplies the width, 1/16 is 0.0625"),
        (lambda: GC(64, 16), "ratio=16 must be a number in (0, 1]: it multiplies the width, 1/16 is 0.0625"),
        (lambda: GC(64, "1/16"), "ratio='1/16' must be a finite number"),
        (lambda: GC(64, 0.25, "max"), "pooling_type='max' must be one of 'att', 'avg'"),
        (
            lambda: GC(64, 0.25, "att", []),
            "fusion_types=[] must be a list of one or both of 'channel_add', 'channel_mul'",
        ),
        (
            lambda: GC(64, 0.25, "att", "channel_add"),
            "fusion_types='channel_add' must be a list of one or both of 'channel_add', 'channel_mul'",
        ),
        (
            lambda: GC(64, 0.25, "att", [ADD, ADD]),
            "fusion_types=['channel_add', 'channel_add'] must be a list of one or both of 'channel_add', 'channel_mul'",
        ),
        (lambda: GC(64, 0.25, "att", ["add"]), "fusion_types='add' must be one of 'channel_add', 'channel_mul'"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_the_keys_of_timms_layer_load_and_mean_the_same() -> None:
    layer = randomise(GC(32, 0.125, fusion_types=[ADD, MUL]))
    theirs = {
        key.replace("conv_mask", "conv_attn")
        .replace("channel_add_conv", "mlp_add").replace("channel_mul_conv", "mlp_scale")
        .replace(".0.", ".fc1.").replace(".1.", ".norm.").replace(".3.", ".fc2."): (
            value.flatten() if ".1." in key else value
        )
        for key, value in layer.state_dict().items()
    }  # fmt: skip
    assert theirs["mlp_add.norm.weight"].shape == (4,)
    other = GC(32, 0.125, fusion_types=[ADD, MUL]).double()
    other.load_state_dict(theirs, strict=True)
    x = features(2, 32, 5, 7)
    assert torch.equal(other(x), layer(x)) and "mlp_add.norm.weight" in theirs
