"""BiFormer and regional_routing_attention give their routes and weights away on request."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from yolo_attn.layers import BiFormer, regional_routing_attention

pytestmark = pytest.mark.usefixtures("form")

OPTIONS = [
    {},
    {"topk": 9},  # every window sees all
    {"topk": 20},
    {"soft_routing": True, "diff_routing": True, "param_routing": True},
    {"kv_downsample_mode": "ada_avgpool", "kv_per_win": 2},
    {"mask_pad": True},
    {"qk_dim": 4, "side_dwconv": 0, "param_attention": "qkv"},
]


def build(options: dict) -> BiFormer:
    torch.manual_seed(0)
    return BiFormer(8, **{"n_win": 3, "num_heads": 2, "topk": 2} | options).double()


@pytest.mark.parametrize("size", [(6, 9), (7, 5)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_map_is_the_same_and_the_shapes_are_those_of_the_page(options: dict, size: tuple[int, int]) -> None:
    layer, x = build(options), torch.randn(2, 8, *size, dtype=torch.float64)
    y, weights, index, attention = layer(x, ret_attn_mask=True)
    assert torch.allclose(y, layer(x), rtol=1e-12, atol=1e-12)  # rounding in float64
    k = min(layer.topk, 9)
    pixels = -(-size[0] // 3) * -(-size[1] // 3)
    tokens = 4 if "kv_per_win" in options else pixels
    assert weights.shape == index.shape == (2, 9, k) and attention.shape == (2 * 9, 2, pixels, k * tokens)
    assert not index.is_floating_point() and int(index.min()) >= 0 and int(index.max()) < 9
    for shares in (weights, attention):
        assert torch.allclose(shares.sum(-1), torch.ones(()).double()) and (shares >= 0).all()
    assert (weights.diff(dim=-1) <= 0).all()  # the best first


def test_the_weights_are_those_of_the_windows_that_the_index_names() -> None:
    layer = build({"side_dwconv": 0, "param_attention": "qkv"})
    x = torch.randn(1, 8, 6, 9, dtype=torch.float64)
    y, _, index, attention = layer(x, ret_attn_mask=True)
    windows = rearrange(x, "1 c (j h) (i w) -> (j i) (h w) c", j=3, i=3)
    v = layer.qkv["qkv"](windows)[..., 16:]  # (9, 6, 8)
    found = rearrange(y, "1 (heads c) (j h) (i w) -> (j i) heads (h w) c", j=3, i=3, heads=2)
    for window in range(9):
        seen = rearrange(v[index[0, window]], "k m (heads c) -> heads (k m) c", heads=2)
        assert torch.allclose(attention[window] @ seen, found[window], rtol=1e-12, atol=1e-12)


def test_windows_count_in_row_order_from_the_top_left() -> None:
    layer = build({"topk": 1})
    with torch.no_grad():
        layer.qkv["qkv"].weight.zero_()
        layer.qkv["qkv"].bias.zero_()
        layer.qkv["qkv"].weight[0, 0] = layer.qkv["qkv"].weight[8, 1] = 1.0  # q from channel 0, k from channel 1
    x = torch.zeros(1, 8, 6, 9, dtype=torch.float64)
    x[:, 0] = 1.0
    x[:, 1, 2:4, 6:9] = 1.0  # row 1, column 2 of the windows
    _, _, index, _ = layer(x, ret_attn_mask=True)
    assert (index == 5).all()


def test_padding_that_is_masked_gets_no_weight() -> None:
    layer = build({"mask_pad": True, "topk": 9})
    _, _, index, attention = layer(torch.randn(1, 8, 4, 6, dtype=torch.float64), ret_attn_mask=True)
    pads = rearrange(index[0] >= 6, "n k -> n 1 1 k 1")  # the last row of windows is padding alone
    shares = rearrange(attention, "n heads q (k m) -> n heads q k m", k=9)
    assert not (shares * pads).any() and torch.allclose(shares.sum((-1, -2)), torch.ones(()).double())


def test_gradients_are_those_of_the_plain_call() -> None:
    layer = build({"soft_routing": True, "diff_routing": True})
    grads = []
    for asked in (False, True):
        x = torch.randn(1, 8, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = layer(x, ret_attn_mask=True)[0] if asked else layer(x)
        grads.append(torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()]))
    for plain, other in zip(*grads, strict=True):
        assert torch.allclose(plain, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_what_it_is(dtype: torch.dtype) -> None:
    x = torch.randn(1, 8, 6, 6, dtype=dtype)
    y, _, _, attention = build({}).to(dtype)(x, ret_attn_mask=True)
    assert y.dtype == attention.dtype == dtype


@pytest.mark.parametrize("word", ["return_attention", "ret_attn_mask"])
def test_the_function_takes_the_same_word(word: str) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 6, dtype=torch.float64)
    graph = torch.randint(0, 9, (2, 2, 9, 3))
    y, attention = regional_routing_attention(q, k, v, 0.7, graph, (2, 2), **{word: True})
    assert attention.shape == (2, 2, 9, 4, 3 * 4)
    assert torch.allclose(y, regional_routing_attention(q, k, v, 0.7, graph, (2, 2)), rtol=1e-12, atol=1e-12)
