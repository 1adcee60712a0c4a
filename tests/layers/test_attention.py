"""Attention in chunks and linear maps on channels equal the plain operators on every path they can take on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_attn.layers import _attention
from yolo_attn.layers._attention import attend
from yolo_attn.layers._pointwise import linear

EXACT = 1e-12  # float64 noise of sums in another order


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (0.7 * q @ k.transpose(2, 3)).softmax(-1) @ v


def assert_same(actual: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare two results, their gradients to the inputs and those of the gradients."""
    w = features(*expected.shape, seed=9)
    found = []
    for y in (actual, expected):
        first = torch.autograd.grad(y, inputs, w, retain_graph=True)
        again = torch.autograd.grad(y, inputs, w * y.sin(), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in again), inputs, allow_unused=True)
        found.append([y, *first, *(g for g in second if g is not None)])
    assert len(found[0]) == len(found[1]) > 1 + len(inputs)
    for a, e in zip(*found, strict=True):
        assert a.shape == e.shape and (a - e).abs().max() <= EXACT * e.abs().max()


def heads(width: int, size: float = 1.0) -> list[Tensor]:
    shapes = ((2, 3, 7, width), (2, 3, 5, width), (2, 3, 5, 9))
    return [(size * features(*shape, seed=i)).requires_grad_() for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("chunk", [1, 36, 2**20])
@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("size", [1.0, 7.0], ids=["small logits", "large logits"])
def test_weights_may_be_shifted_and_computed_in_parts(width: int, size: float, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(_attention, "LITTLE", 0)
    monkeypatch.setattr(_attention, "CHUNK", chunk)
    q, k, v = heads(width, size / width**0.5)
    y = attend(q, k, v, 0.7)
    assert (y.grad_fn.saved_tensors[-1] is not None) == (size > 1)  # the shift
    assert_same(y, formula(q, k, v), [q, k, v])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_small_wide_heads_hold_their_weights_up_to_a_limit(dtype: torch.dtype, monkeypatch) -> None:
    fused, seen = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: seen.append(1) or fused(*a, **k))
    for most, is_held in ((210, True), (209, False)):  # 2 x 3 x 7 x 5 weights
        monkeypatch.setattr(_attention, "FEW", most)
        q, k, v = heads(16, 0.25)
        y = attend(*(t.to(dtype) for t in (q, k, v)), 0.7)
        assert (not seen) == is_held and y.dtype == dtype
        if dtype == torch.float64:
            assert_same(y, formula(q, k, v), [q, k, v])
        else:  # some roundings of 2^-9
            assert (y - formula(q, k, v)).abs().max() < 2e-2 * formula(q, k, v).abs().max()


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_beyond_the_range_of_powers_keep_their_softmax(sign: int) -> None:
    q, k, v = (t.detach().float() for t in heads(4, 30.0))
    k = k.abs() * sign
    q, k, v = q.abs().requires_grad_(), k.requires_grad_(), v.requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    y, e = attend(q, k, v, 0.7), formula(*exact)
    assert (0.7 * q @ k.transpose(2, 3)).abs().max() > 1000  # exp(1000) is far beyond float32
    pairs = zip((y, *torch.autograd.grad(y.sum(), [q, k, v])), (e, *torch.autograd.grad(e.sum(), exact)), strict=True)
    for a, b in pairs:  # a logit of 1000 is known to 1e-4 in float32, and so is its power, relatively
        assert (a - b).abs().max() <= 1e-3 * b.abs().max()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("is_turned", [False, True])
def test_linear_equals_the_module(kind: str, bias: bool, batch: int, is_turned: bool) -> None:
    module = nn.Linear(3, 4, bias) if kind == "linear" else nn.Conv2d(3, 4, 1, bias=bias)
    module.double()
    shape = (5,) if kind == "linear" else (5, 2)
    x = features(batch, *shape, 3).movedim(-1, 1) if is_turned else features(batch, 3, *shape)
    x.requires_grad_()
    expected = module(x.transpose(1, 2)).transpose(1, 2) if kind == "linear" else module(x)
    y = linear(module, x)
    assert "Convolution" not in type(y.grad_fn.next_functions[0][0]).__name__
    assert_same(y, expected, [x, *module.parameters()])


@pytest.mark.parametrize("module", [nn.Linear(3, 4), nn.Conv2d(3, 4, 1)], ids=["linear", "convolution"])
def test_hooks_see_the_module_called(module: nn.Module) -> None:
    seen: list[nn.Module] = []
    x = torch.randn(2, 3, 5) if isinstance(module, nn.Linear) else torch.randn(2, 3, 5, 2)
    y = linear(module, x)
    module.register_forward_hook(lambda module, *_: seen.append(module))
    assert (linear(module, x) - y).abs().max() < 1e-5 and seen == [module]  # float32 sums of three products


@pytest.mark.parametrize(("rows", "n", "m"), [(8, 6400, 6400), (8, 400, 400), (392, 144, 576), (3, 50, 25600)])
def test_a_chunk_has_no_more_weights_than_allowed_and_none_is_left_out(rows: int, n: int, m: int) -> None:
    q, k = torch.empty(rows, 1, n, device="meta"), torch.empty(rows, 1, m, device="meta")
    total = 0
    for _, _, places in _attention._chunks(q, k, 2):
        assert places.shape[0] == 2 and places[0].numel() <= _attention.CHUNK
        total += places[0].numel()
    assert total == rows * n * m
