"""The layers that mix pixels of the whole map (DoubleAttention, CrissCross, CoT) against slow formulas."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from oracles import State, agree, distance, features, pointwise, randomise, softmax
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_attn.layers import CoT, CrissCross, DoubleAttention

pytestmark = pytest.mark.usefixtures("form")

# -------------------------------------------------------------------------------------------------- DoubleAttention


def a2_oracle(reconstruct: bool, residual: bool) -> Callable:
    def oracle(x: Tensor, p: State) -> Tensor:
        b, _, h, w = x.shape
        features_ = pointwise(x, p, "convA").flatten(2)
        pick = softmax(pointwise(x, p, "convB").flatten(2), 2)
        blend = softmax(pointwise(x, p, "convV").flatten(2), 1)
        gathered = torch.einsum("bmp,bnp->bmn", features_, pick)
        z = torch.einsum("bmn,bnp->bmp", gathered, blend).reshape(b, -1, h, w)
        y = pointwise(z, p, "conv_reconstruct") if reconstruct else z
        return x + y if residual else y

    return oracle


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6)], ids=["5x7", "1x1", "1x6"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("width", "m"), [(6, 9), (8, 8), (9, 6)], ids=["narrow", "equal", "wide"])
def test_double_attention(width: int, m: int, residual: bool, size: tuple[int, int]) -> None:
    layer = randomise(DoubleAttention(width, m, 5, residual=residual))
    agree(layer, a2_oracle(True, residual), features(2, width, *size))


@pytest.mark.parametrize(("width", "m", "residual"), [(6, 9, False), (9, 6, False), (8, 8, False), (8, 8, True)])
def test_double_attention_without_reconstruction(width: int, m: int, residual: bool) -> None:
    layer = randomise(DoubleAttention(width, m, 5, False, residual))
    assert not any(name.startswith("conv_reconstruct") for name in layer.state_dict())
    agree(layer, a2_oracle(False, residual), features(2, width, 5, 7))
    assert DoubleAttention.out_channels(width, m, 5, False, residual) == m


@pytest.mark.parametrize("reconstruct", [True, False])
def test_double_attention_projects_descriptors(reconstruct: bool) -> None:
    layer = DoubleAttention(9, 6, 5, reconstruct)
    seen = []
    for module in (layer.convA, *([layer.conv_reconstruct] if reconstruct else [])):
        module.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    layer(torch.randn(2, 9, 5, 7))
    assert seen == [(5, 1)] * (1 + reconstruct)


def test_double_attention_defaults() -> None:
    layer = DoubleAttention(32)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        **{"convA.weight": (128, 32, 1, 1), "convA.bias": (128,), "convB.weight": (128, 32, 1, 1)},
        **{"convB.bias": (128,), "convV.weight": (128, 32, 1, 1), "convV.bias": (128,)},
        **{"conv_reconstruct.weight": (32, 128, 1, 1), "conv_reconstruct.bias": (32,)},
    }
    assert layer.residual is False
    assert DoubleAttention.out_channels(32) == 32


def test_double_attention_names_both_widths_of_a_wrong_map() -> None:
    message = "the map has 6 channels, but DoubleAttention was built with channels=8"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DoubleAttention(8)(torch.randn(1, 6, 4, 4))


def test_double_attention_sums_more_pixels_than_float16_counts() -> None:
    torch.manual_seed(0)
    layer, x = DoubleAttention(8, 8, 4).half(), torch.randn(1, 8, 320, 320).half()
    with torch.no_grad():
        expected = DoubleAttention(8, 8, 4).double()
        expected.load_state_dict(layer.state_dict())
        # A few roundings of float16, 5e-4 each; its sum of the exponentials would be infinite.
        assert distance(layer(x).double(), expected(x.double())) < 2e-3


# ------------------------------------------------------------------------------------------------------- CrissCross


def criss_cross_oracle(recurrence: int) -> Callable:
    def once(x: Tensor, p: State) -> Tensor:
        h, w = x.shape[2:]
        q, k, v = (pointwise(x, p, f"{name}_conv") for name in ("query", "key", "value"))
        rows = []
        for r in range(h):
            for s in range(w):
                cross = [(t, s) for t in range(h) if t != r] + [(r, u) for u in range(w)]
                keys = torch.stack([k[:, :, t, u] for t, u in cross], 2)
                values = torch.stack([v[:, :, t, u] for t, u in cross], 2)
                weights = softmax(torch.einsum("bk,bkl->bl", q[:, :, r, s], keys), 1)
                rows.append(torch.einsum("bl,bcl->bc", weights, values))
        return p["gamma"] * torch.stack(rows, 2).reshape(x.shape) + x

    def oracle(x: Tensor, p: State) -> Tensor:
        for _ in range(recurrence):
            x = once(x, p)
        return x

    return oracle


@pytest.mark.parametrize("recurrence", [1, 2, 3])
@pytest.mark.parametrize("size", [(3, 5), (4, 1), (1, 6), (1, 1)], ids=["3x5", "4x1", "1x6", "1x1"])
@pytest.mark.parametrize(("width", "hidden"), [(16, 2), (5, 1), (1, 1)])
def test_criss_cross(recurrence: int, size: tuple[int, int], width: int, hidden: int) -> None:
    layer = randomise(CrissCross(width, recurrence))
    assert layer.query_conv.weight.shape == (hidden, width, 1, 1)
    agree(layer, criss_cross_oracle(recurrence), features(2, width, *size))


def test_criss_cross_recurs_with_one_set_of_parameters() -> None:
    assert {k: v.shape for k, v in CrissCross(16, 3).state_dict().items()} == {
        k: v.shape for k, v in CrissCross(16).state_dict().items()
    }


def test_criss_cross_starts_as_the_identity() -> None:
    x = torch.randn(2, 16, 5, 4, requires_grad=True)
    layer = CrissCross(16, 2)
    y = layer(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert layer.gamma.grad.abs() > 0


@pytest.mark.parametrize("how", ["half", "autocast"])
def test_criss_cross_logits_beyond_float16(how: str) -> None:
    torch.manual_seed(0)
    layer, x = CrissCross(64), torch.randn(2, 64, 8, 9) * 3
    with torch.no_grad():
        layer.gamma.fill_(1.0)
        layer.query_conv.weight.mul_(90)
        layer.key_conv.weight.mul_(90)
        logits = torch.einsum("bkhw,bkhv->bhwv", layer.query_conv(x), layer.key_conv(x))
        assert logits.abs().max() > 2 * torch.finfo(torch.float16).max
        expected = layer(x)
        if how == "half":
            y = layer.half()(x.half())
            assert y.dtype == torch.float16
        else:
            with torch.autocast("cpu", torch.float16):
                y = layer(x)
                assert layer(x.half()).dtype == torch.float16
            assert y.dtype == torch.float32
    # Almost every softmax has one large entry, which rounding the keys does not move; the rest is float16's 5e-4.
    assert distance(y.float(), expected) < 5e-3


# -------------------------------------------------------------------------------------------------------------- CoT


def cot_oracle(train: bool, kernel: int, eps: float = 1e-5) -> Callable:
    def norm(x: Tensor, p: State, name: str) -> Tensor:
        mean, var = p[f"{name}.running_mean"][:, None, None], p[f"{name}.running_var"][:, None, None]
        if train and x.numel() > x.shape[1]:
            mean = x.mean((0, 2, 3), keepdim=True)
            var = (x - mean).square().mean((0, 2, 3), keepdim=True)
        return (x - mean) / (var + eps).sqrt() * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]

    def oracle(x: Tensor, p: State) -> Tensor:
        b, c, h, w = x.shape
        padded = F.pad(x, [kernel // 2] * 4).reshape(b, 4, c // 4, h + kernel - 1, w + kernel - 1)
        weight = p["key_embed.0.weight"].reshape(4, c // 4, c // 4, kernel, kernel)
        k1 = torch.zeros(b, 4, c // 4, h, w, dtype=x.dtype)
        for r in range(kernel):
            for s in range(kernel):
                k1 = k1 + torch.einsum("bgchw,goc->bgohw", padded[..., r : r + h, s : s + w], weight[..., r, s])
        k1 = norm(k1.reshape(x.shape), p, "key_embed.1").clamp(min=0)
        v = norm(pointwise(x, p, "value_embed.0"), p, "value_embed.1")
        a = pointwise(torch.cat([k1, x], 1), p, "attention_embed.0")
        a = pointwise(norm(a, p, "attention_embed.1").clamp(min=0), p, "attention_embed.3")
        a = a.reshape(b, c, kernel * kernel, h * w).sum(2) / kernel**2
        return k1 + (softmax(a, 2) * v.flatten(2)).reshape(x.shape)

    return oracle


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("width", "kernel", "size"), [(8, 3, (5, 7)), (12, 1, (4, 4)), (4, 9, (2, 3)), (4, 3, (1, 1)), (8, 5, (1, 6))]
)
def test_cot(train: bool, width: int, kernel: int, size: tuple[int, int]) -> None:
    layer = randomise(CoT(width, kernel)).train(train)
    assert layer.attention_embed[3].weight.shape == (kernel * kernel * width, width // 2, 1, 1)
    agree(layer, cot_oracle(train, kernel), features(3, width, *size))


def test_cot_reads_eps_at_run_time() -> None:
    layer = randomise(CoT(8)).train()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-1
    agree(layer, cot_oracle(True, 3, eps=1e-1), features(3, 8, 5, 7))


def test_cot_trains_on_one_pixel_with_the_running_statistics() -> None:
    layer = randomise(CoT(8)).train()
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    agree(layer, cot_oracle(False, 3), features(1, 8, 1, 1))
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())


# -------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DoubleAttention(0), "channels=0 must be an integer >= 1"),
        (lambda: DoubleAttention(64, "128"), "c_m='128' must be an integer >= 1"),
        (lambda: DoubleAttention(64, 128, 0), "c_n=0 must be an integer >= 1"),
        (lambda: DoubleAttention(64, 128, 128, 2), "reconstruct=2 must be True or False"),
        (lambda: DoubleAttention(64, 128, 128, True, "no"), "residual='no' must be True or False"),
        (
            lambda: DoubleAttention(64, 128, 128, False, True),
            "residual=True needs reconstruct=True, or c_m=128 equal to channels=64",
        ),
        (lambda: CrissCross("64"), "channels='64' must be an integer >= 1"),
        (lambda: CrissCross(64, 0), "recurrence=0 must be an integer >= 1"),
        (lambda: CoT(0), "channels=0 must be an integer >= 1"),
        (lambda: CoT(6), "channels=6 is not divisible by groups=4"),
        (lambda: CoT(8, 4), "kernel_size=4 must be an odd integer >= 1"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
