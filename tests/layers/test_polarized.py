"""Polarized self-attention by the paper and by the authors' code, parallel and sequential, against slow formulas."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from oracles import State, agree, distance, features, half_precision_error, layer_norm, pointwise, randomise, softmax
from torch import Tensor, nn

from yolo_attn import registry
from yolo_attn.layers import Polarized, PolarizedSeq, PSA_p, PSA_s, psa
from yolo_attn.layers._pooling import channel_sum, softmax_mean

pytestmark = pytest.mark.usefixtures("form")

Gate = Callable[[Tensor, State], Tensor]


def pooled(x: Tensor, p: State, logits: str, values: str) -> Tensor:
    """Project every pixel, then take their mean by the softmax of the logits."""
    weights = softmax(pointwise(x, p, logits).flatten(2), 2)
    return (pointwise(x, p, values).flatten(2) * weights).sum(2)[:, :, None, None]


def mean(x: Tensor) -> Tensor:
    return x.flatten(2).sum(2)[:, :, None, None] / (x.shape[2] * x.shape[3])


def paper_channels(x: Tensor, p: State) -> Tensor:
    t = pointwise(pooled(x, p, "ch_wq", "ch_wv"), p, "ch_wz")[:, :, 0, 0]
    return torch.sigmoid(layer_norm(t, p, "ln"))[:, :, None, None]


def paper_pixels(x: Tensor, p: State) -> Tensor:
    query = softmax(mean(pointwise(x, p, "sp_wq")), 1)
    return torch.sigmoid((query * pointwise(x, p, "sp_wv")).sum(1, keepdim=True))


def code_channels(x: Tensor, p: State) -> Tensor:
    t = pooled(x, p, "conv_q_right", "conv_v_right")
    if "conv_up.weight" in p:
        return torch.sigmoid(pointwise(t, p, "conv_up"))
    t = layer_norm(pointwise(t, p, "conv_up.0")[:, :, 0, 0], p, "conv_up.1").clamp(min=0)
    return torch.sigmoid(pointwise(t[:, :, None, None], p, "conv_up.3"))


def code_pixels(x: Tensor, p: State, parallel: bool) -> Tensor:
    query, values = mean(pointwise(x, p, "conv_q_left")), pointwise(x, p, "conv_v_left").flatten(2)
    if parallel:
        t = softmax((query[..., 0] * values).sum(1, keepdim=True), 2)
    else:
        t = (query[..., 0] * softmax(values, 2)).sum(1, keepdim=True)
    return torch.sigmoid(t).reshape(x.shape[0], 1, *x.shape[2:])


def parallel(channels: Gate, pixels: Gate) -> Gate:
    return lambda x, p: x * channels(x, p) + x * pixels(x, p)


def sequential(channels: Gate, pixels: Gate) -> Gate:
    def oracle(x: Tensor, p: State) -> Tensor:
        u = x * channels(x, p)
        return u * pixels(u, p)

    return oracle


ORACLES: dict[type[nn.Module], Gate] = {
    Polarized: parallel(paper_channels, paper_pixels),
    PolarizedSeq: sequential(paper_channels, paper_pixels),
    PSA_p: parallel(code_channels, lambda x, p: code_pixels(x, p, True)),
    PSA_s: sequential(code_channels, lambda x, p: code_pixels(x, p, False)),
}
LISTED = pytest.mark.parametrize("cls", ORACLES, ids=lambda cls: cls.__name__)
SHAPES = [(2, 16, 5, 7), (3, 9, 4, 3), (1, 20, 1, 6), (2, 17, 1, 1), (1, 8, 3, 1)]


@LISTED
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula(cls: type[nn.Module], shape: tuple[int, ...]) -> None:
    agree(randomise(cls(shape[1])), ORACLES[cls], features(*shape))


@pytest.mark.parametrize("cls", [Polarized, PolarizedSeq])
def test_keys_of_the_paper(cls: type[nn.Module]) -> None:
    assert {k: tuple(v.shape) for k, v in cls(9).state_dict().items()} == {
        **{"ch_wv.weight": (4, 9, 1, 1), "ch_wv.bias": (4,), "ch_wq.weight": (1, 9, 1, 1), "ch_wq.bias": (1,)},
        **{"ch_wz.weight": (9, 4, 1, 1), "ch_wz.bias": (9,), "ln.weight": (9,), "ln.bias": (9,)},
        **{"sp_wv.weight": (4, 9, 1, 1), "sp_wv.bias": (4,), "sp_wq.weight": (4, 9, 1, 1), "sp_wq.bias": (4,)},
    }


def test_keys_of_the_authors_code() -> None:
    shared = {f"conv_{name}.weight": (8, 16, 1, 1) for name in ("v_right", "q_left", "v_left")}
    shared["conv_q_right.weight"] = (1, 16, 1, 1)
    assert {k: tuple(v.shape) for k, v in PSA_p(16).state_dict().items()} == {
        **shared,
        "conv_up.weight": (16, 8, 1, 1),
    }
    assert {k: tuple(v.shape) for k, v in PSA_s(16).state_dict().items()} == {
        **shared,
        **{"conv_up.0.weight": (2, 8, 1, 1), "conv_up.0.bias": (2,)},
        **{"conv_up.1.weight": (2, 1, 1), "conv_up.1.bias": (2, 1, 1)},
        **{"conv_up.3.weight": (16, 2, 1, 1), "conv_up.3.bias": (16,)},
    }


@pytest.mark.parametrize("cls", [PSA_p, PSA_s])
def test_start_of_the_authors_code(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = cls(512)
    for conv in (layer.conv_q_right, layer.conv_v_right, layer.conv_q_left, layer.conv_v_left):
        assert abs(conv.weight.std().item() / (2 / 512) ** 0.5 - 1) < 0.1  # of 512 draws at least


def test_the_pixel_gate_of_the_authors_code_is_nearly_constant() -> None:
    x = features(2, 32, 40, 40)
    for layer in (PSA_p(32).double(), PSA_s(32).double()):
        gate = layer._pixel_gate(x)
        assert (gate - 0.5).abs().max() < 2e-3
    assert (PSA_p(32).double()._pixel_gate(x) > 0.5).all()


@LISTED
def test_only_one_map_of_half_the_width_is_made(cls: type[nn.Module]) -> None:
    layer, seen = cls(16), []
    for conv in (m for m in layer.modules() if isinstance(m, nn.Conv2d)):
        conv.register_forward_hook(lambda module, _, y: seen.append((y.shape[1], *y.shape[2:])))
    layer(torch.randn(1, 16, 5, 7))
    assert sorted(s for s in seen if s[1:] == (5, 7)) == [(1, 5, 7), (8, 5, 7)]


@LISTED
def test_large_inputs_in_half_precision(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = 30 * features(1, 64, 20, 20)
    # Roundings of the projections pass a softmax; a float16 softmax or sum would be far off or infinite.
    assert half_precision_error(cls(64).double(), x, torch.float16) < 2e-2


def test_weights_of_many_pixels_are_not_rounded() -> None:
    # 1 / 102400 as a float16 would be a thousandth too large.
    x, logits = torch.ones(1, 2, 320, 320).half(), torch.zeros(1, 1, 320, 320).half()
    assert torch.equal(softmax_mean(x, logits), torch.ones(1, 2, 1, 1).half())
    with torch.autocast("cpu", torch.bfloat16):
        mean = softmax_mean(x.float() + 1 / 512, logits)  # bfloat16: 1
    assert distance(mean, torch.full((1, 2, 1, 1), 1 + 1 / 512)) < 1e-3  # float32 adds up so many to 2e-4
    assert distance(psa._pixel_softmax(logits), torch.full((1, 1, 320, 320), 1 / 102400)) < 1e-6  # float32


def test_sums_over_channels_pass_the_range_of_float16() -> None:
    x, weights = torch.full((1, 4, 2, 3), 300.0).half(), torch.full((1, 4, 1, 1), 300.0).half()
    assert torch.equal(channel_sum(x, weights), torch.full((1, 1, 2, 3), 360000.0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(channel_sum(x + 1, weights), torch.full((1, 1, 2, 3), 361200.0))  # bfloat16: 360448


def test_names() -> None:
    assert registry.find("ParallelPolarizedSelfAttention").name == "Polarized"
    assert registry.find("PolarizedSelfAttention").name == "Polarized"
    assert registry.find("SequentialPolarizedSelfAttention").name == "PolarizedSeq"
    assert "PSA" not in registry.names()  # the host's own class, another function


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Polarized(1), "channels=1 must be an integer >= 2"),
        (lambda: PolarizedSeq("16"), "channels='16' must be an integer >= 2"),
        (lambda: PSA_p(1), "channels=1 must be an integer >= 2"),
        (lambda: PSA_s(7), "channels=7 must be an integer >= 8"),
        (lambda: PSA_s(None), "channels=None must be an integer >= 8"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
