"""The paths of their own that attention, depthwise and 1x1 convolutions take on a CPU equal the plain operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolo_attn.layers import MHSA, _attention
from yolo_attn.layers._attention import attend
from yolo_attn.layers._depthwise import depthwise
from yolo_attn.layers._layout import channels_last, like
from yolo_attn.layers._pointwise import LARGE_MAP, pointwise

EXACT = 1e-12  # float64 noise of sums in another order


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare two results and their gradients to the inputs."""
    assert actual.shape == expected.shape
    w = features(*expected.shape, seed=9)
    pairs = [(actual, expected), *zip(*(torch.autograd.grad(y, inputs, w) for y in (actual, expected)), strict=True)]
    for a, e in pairs:
        assert (a - e).abs().max() <= EXACT * e.abs().max()


def heads(width: int, value_width: int, n: int = 7, m: int = 5) -> list[Tensor]:
    shapes = ((2, 3, n, width), (2, 3, m, width), (2, 3, m, value_width))
    return [features(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("chunk", [1, 5, 12, 36, 100, 2**19])  # from one query at a time to everything at once
@pytest.mark.parametrize("value_width", [4, 9])
def test_narrow_heads_equal_the_formula_in_chunks_of_any_size(chunk: int, value_width: int, monkeypatch) -> None:
    monkeypatch.setattr(_attention, "CHUNK", chunk)
    q, k, v = heads(4, value_width)
    y = attend(q, k, v, 0.7)
    assert "Chunked" in type(y.grad_fn).__name__
    assert_same(y, (0.7 * q @ k.transpose(2, 3)).softmax(-1) @ v, [q, k, v])


@pytest.mark.parametrize("case", ["wide", "mask", "dropout", "half", "autocast"])
def test_the_fused_operator_serves_everything_else(case: str) -> None:
    q, k, v = heads(16 if case == "wide" else 4, 4)
    if case == "half":
        q, k, v = (t.bfloat16() for t in (q, k, v))
    mask = torch.zeros(7, 5, dtype=q.dtype) if case == "mask" else None
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        y = attend(q, k, v, 0.7, mask, 0.5 if case == "dropout" else 0.0)
    assert "Chunked" not in type(y.grad_fn).__name__


def test_narrow_heads_keep_only_their_inputs_for_backward() -> None:
    saved = []
    layer = MHSA(16, num_heads=4)
    x = torch.randn(1, 16, 12, 12, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert max(saved) < 144 * 144 / 4  # far from the 4 * 144 * 144 weights


def test_narrow_heads_have_second_derivatives() -> None:
    q, k, v = heads(4, 9)
    second = []
    for y in (attend(q, k, v, 0.7), (0.7 * q @ k.transpose(2, 3)).softmax(-1) @ v):
        first = torch.autograd.grad((y**2).sum(), [q, k, v], create_graph=True)
        second.append(torch.autograd.grad(sum((g**2).sum() for g in first), [q, k, v]))
    for a, e in zip(*second, strict=True):
        assert (a - e).abs().max() <= EXACT * e.abs().max()


def test_a_compiled_or_traced_graph_holds_the_fused_operator() -> None:
    q, k, v = (t.detach() for t in heads(4, 4))
    graph = torch.jit.trace(lambda *t: attend(*t, 0.7), (q, k, v), check_trace=False).graph
    assert "scaled_dot_product_attention" in str(graph)


@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (1, 7), (3, 5), (5, 9), (1, 21)], ids=str)
@pytest.mark.parametrize("size", [(6, 9), (2, 3), (1, 1)], ids=str)
def test_depthwise_equals_the_module(kernel: tuple[int, int], size: tuple[int, int]) -> None:
    conv = nn.Conv2d(3, 3, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=3).double()
    x = features(2, 3, *size).requires_grad_()
    y = depthwise(conv, x)
    assert "Depthwise" in type(y.grad_fn).__name__
    assert_same(y, conv(x), [x, conv.weight, conv.bias])


def test_depthwise_has_second_derivatives() -> None:
    conv = nn.Conv2d(2, 2, 5, padding=2, groups=2).double()
    x = features(1, 2, 3, 4).requires_grad_()
    second = []
    for y in (depthwise(conv, x), conv(x)):
        (g,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        second.append(torch.autograd.grad((g**2).sum(), [x, conv.weight]))
    for a, e in zip(*second, strict=True):
        assert (a - e).abs().max() <= EXACT * e.abs().max()


@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_equals_the_module(bias: bool) -> None:
    conv = nn.Conv2d(3, 4, 1, bias=bias).double()
    x = features(2, 3, 8, LARGE_MAP // 8).requires_grad_()
    y = pointwise(conv, x)
    assert "Convolution" not in type(y.grad_fn.next_functions[0][0]).__name__
    assert_same(y, conv(x), [x, *conv.parameters()])


@pytest.mark.parametrize("call", [depthwise, pointwise])
def test_hooks_see_the_module_called(call: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
    kernel, groups = (5, 2) if call is depthwise else (1, 1)
    conv = nn.Conv2d(2, 2, kernel, padding=kernel // 2, groups=groups)
    seen: list[nn.Module] = []
    conv.register_forward_hook(lambda module, *_: seen.append(module))
    call(conv, torch.randn(1, 2, 40, 40, requires_grad=True))
    assert seen == [conv]


@pytest.mark.parametrize("call", [depthwise, pointwise])
def test_without_a_gradient_the_module_runs(call: Callable[[nn.Conv2d, Tensor], Tensor], monkeypatch) -> None:
    kernel, groups = (5, 2) if call is depthwise else (1, 1)
    conv = nn.Conv2d(2, 2, kernel, padding=kernel // 2, groups=groups)
    x, seen = torch.randn(1, 2, 40, 40), []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: seen.append(self) or x)
    with torch.no_grad():
        call(conv, x)
    assert seen == [conv]


def test_depthwise_calls_a_module_that_is_replaced() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    doubled, x = Doubled(4, 4, 7, padding=3, groups=4), torch.randn(1, 4, 6, 6)
    assert torch.equal(depthwise(doubled, x), doubled(x))


def test_depthwise_under_autocast_equals_the_module_in_its_precision() -> None:
    conv = nn.Conv2d(3, 3, 5, padding=2, groups=3)
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    results = []
    for call in (depthwise, nn.Conv2d.__call__):
        with torch.autocast("cpu", torch.bfloat16):
            y = call(conv, x)
        assert y.dtype == torch.bfloat16
        results.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *conv.parameters()])])
    assert "Depthwise" in type(results[0][0].grad_fn).__name__
    for a, e in zip(*results, strict=True):
        assert a.dtype == e.dtype
        assert (a - e).abs().max() <= 0.02 * e.abs().max()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["plain", "autocast"])
def test_a_change_of_format_is_undone_for_the_gradient(dtype: torch.dtype | None) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        inside = channels_last(x)
        y = like(inside * 2, x)
    assert inside.is_contiguous(memory_format=torch.channels_last) and y.is_contiguous()
    grads = []
    inside.register_hook(grads.append)
    weight = torch.randn(2, 3, 4, 5)
    (gx,) = torch.autograd.grad(y, x, weight)
    assert grads[0].is_contiguous(memory_format=torch.channels_last) and gx.is_contiguous()
    assert torch.equal(y, 2 * x) and torch.equal(gx, 2 * weight)
