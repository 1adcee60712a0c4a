"""The hand-written gradients of the gates (BAM, CBAM, CoordAtt, SE) against the same layers in plain operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from yolo_attn.bench.measure import saved_bytes
from yolo_attn.layers import BAM, CBAM, SE, CoordAtt, _windows, bam, cbam, coord_att, se
from yolo_attn.layers._maximum import first_index
from yolo_attn.layers._norm import batch_norm, normaliser
from yolo_attn.layers._windows import convolve_windows, convolve_windows_backward

LIMIT = 1e-11  # float64 noise of other summation orders, relative to the largest entry; a mistake moves 1e-4 and more
BUILD: dict[str, Callable[[], nn.Module]] = {
    "SE": lambda: SE(6, 2),
    "SE bias": lambda: SE(6, 2, bias=True),
    "CBAM": lambda: CBAM(6, 2),
    "CBAM bias 3": lambda: CBAM(6, 2, 3, mlp_bias=True),
    "BAM": lambda: BAM(6, 2),
    "BAM product": lambda: BAM(6, 3, 1, 2, "product"),
    "CoordAtt": lambda: CoordAtt(6),
}


def features(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name: str, train: bool = True) -> nn.Module:
    """Return a layer in float64 whose parameters and statistics are all random."""
    torch.manual_seed(2)
    layer = BUILD[name]().double().train(train)
    with torch.no_grad():
        for key, value in layer.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value.normal_(0.0, 0.5)
    return layer


def is_fused(y: Tensor) -> bool:
    assert y.grad_fn is not None
    return y.grad_fn.name() == "_FusedBackward"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return a call after which the layers run in plain operations."""

    def switch() -> None:
        for module in (bam, cbam, coord_att, se):
            monkeypatch.setattr(module, "is_fusible", lambda *_: False)

    yield switch
    monkeypatch.undo()


def assert_close(actual: Tensor | None, expected: Tensor | None, scale: float = 0.0) -> None:
    if expected is None:
        expected = torch.zeros(())
    assert actual is not None
    size = max(expected.abs().max().item(), scale) or 1.0
    assert (actual - expected).abs().max().item() <= LIMIT * size


def derivatives(layer: nn.Module, x: Tensor) -> list[Tensor | None]:
    """Return the result, its gradients, and the gradients of a square of those."""
    x = x.clone().requires_grad_()
    y = layer(x)
    w = features(*y.shape, seed=5).requires_grad_()
    inputs = [x, *layer.parameters()]
    quick = torch.autograd.grad(y, inputs, w, retain_graph=True)
    first = torch.autograd.grad(y, inputs, w, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), [w, *inputs], allow_unused=True)
    return [y, *quick, *first, *second]


@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 6, 3, 7), (3, 6, 1, 1), (1, 6, 1, 1)], ids=str)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", BUILD)
def test_both_forms_have_the_same_derivatives_and_statistics(
    name: str, train: bool, shape: tuple[int, ...], plain: Callable[[], None]
) -> None:
    one, other = build(name, train), build(name, train)
    x = features(*shape)
    assert is_fused(copy.deepcopy(one)(x.clone().requires_grad_()))
    fast = derivatives(one, x)
    plain()
    slow = derivatives(other, x)
    assert not is_fused(copy.deepcopy(other)(x.clone().requires_grad_()))
    count = (len(fast) - 2) // 3  # gradients of the first kind
    largest = max(t.abs().max().item() for t in slow[1 : 1 + count])
    most = max(t.abs().max().item() for t in slow[1 + 2 * count :] if t is not None)
    assert_close(fast[0], slow[0])
    for a, b in zip(fast[1 : 1 + 2 * count], slow[1 : 1 + 2 * count], strict=True):
        assert_close(a, b, largest)
    for a, b in zip(fast[1 + 2 * count :], slow[1 + 2 * count :], strict=True):
        assert_close(torch.zeros(()) if a is None else a, b, most)
    for (key, a), b in zip(one.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b) if key.endswith("tracked") else torch.allclose(a, b, rtol=1e-12), key


@pytest.mark.parametrize("name", BUILD)
def test_gradcheck(name: str) -> None:
    layer = build(name)
    names, values = zip(*layer.named_parameters(), strict=True)
    values = tuple(v.detach().requires_grad_() for v in values)
    x = features(2, 6, 3, 2).requires_grad_()

    def call(x: Tensor, *values: Tensor) -> Tensor:
        twin = copy.deepcopy(layer)  # the statistics move with every call
        for key, value in zip(names, values, strict=True):
            parent, _, leaf = key.rpartition(".")
            del twin.get_submodule(parent)._parameters[leaf]
            setattr(twin.get_submodule(parent), leaf, value)
        y = twin(x)
        assert is_fused(y)
        return y

    assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, *values), fast_mode=True)


@pytest.mark.parametrize("name", BUILD)
def test_any_part_may_be_frozen(name: str) -> None:
    layer, x, w = build(name, False), features(2, 6, 4, 3), features(2, 6, 4, 3, seed=5)
    inputs = {"x": x.requires_grad_(), **dict(layer.named_parameters())}
    expected = dict(zip(inputs, torch.autograd.grad(layer(x), [*inputs.values()], w), strict=True))
    for alone in inputs:
        for key, tensor in inputs.items():
            tensor.requires_grad_(key == alone)
        (grad,) = torch.autograd.grad(layer(x), [inputs[alone]], w)
        assert_close(grad, expected[alone])


def test_an_input_made_from_a_parameter_gets_each_share_once(plain: Callable[[], None]) -> None:
    layer, x = build("SE"), features(2, 6, 4, 3)
    weight = layer.fc[0].weight
    found = []
    for _ in range(2):
        y = layer(x * weight.sum())
        (first,) = torch.autograd.grad((y**2).sum(), weight, create_graph=True)
        found.append((first, *torch.autograd.grad((first**2).sum(), weight)))
        plain()
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["CBAM", "CBAM bias 3"])
@pytest.mark.parametrize("kind", ["constant", "rounded", "rectified"])
def test_of_equal_maxima_the_first_gets_the_gradient(name: str, kind: str, plain: Callable[[], None]) -> None:
    layer, x = build(name), features(2, 6, 5, 4)
    x = {"constant": torch.ones_like(x), "rounded": x.round(), "rectified": x.relu()}[kind]
    fast = derivatives(layer, x)
    plain()
    for a, b in zip(fast, derivatives(layer, x), strict=True):
        assert_close(torch.zeros(()) if a is None else a, b, 1.0)


@pytest.mark.parametrize("dim", [1, 2])
def test_first_index_is_that_of_max(dim: int) -> None:
    x = features(3, 7, 11).mul(2).round()
    values, index = x.max(dim, keepdim=True)
    assert torch.equal(first_index(x, values, dim), index)
    assert torch.equal(first_index(x.clone(), values, dim, x), index)


def test_first_index_stays_within_the_map_without_a_number() -> None:
    x = torch.full((1, 3, 2), torch.nan)
    assert first_index(x, x.amax(1, keepdim=True), 1).tolist() == [[[2, 2]]]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("few", [0, 2**18], ids=["backend", "windows"])
@pytest.mark.parametrize(("k", "dilation", "size"), [(1, 1, (4, 3)), (3, 1, (5, 4)), (3, 4, (3, 6)), (7, 1, (2, 9))])
def test_windows_equal_the_convolution(
    few: int, batch: int, k: int, dilation: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_windows, "_FEW", few)
    monkeypatch.setattr(_windows, "_MANY", few)  # backward, too
    x, weight = features(batch, 2, *size).requires_grad_(), features(3, 2, k, k, seed=4).requires_grad_()
    bias, grad = features(3, seed=6), features(batch, 3, *size, seed=7)
    expected = nn.functional.conv2d(x, weight, bias, 1, k // 2 * dilation, dilation)
    with torch.no_grad():
        assert_close(convolve_windows(x, weight, bias, dilation), expected)
        found = convolve_windows_backward(grad, x, weight, dilation)
    for a, b in zip(found, torch.autograd.grad(expected, [x, weight], grad), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", ["train", "eval", "untracked", "plain"])
def test_a_normaliser_does_what_the_module_does(kind: str, momentum: float | None) -> None:
    module = nn.BatchNorm2d(3, 1e-3, momentum, kind != "plain", kind != "untracked").double().train(kind != "eval")
    twin = copy.deepcopy(module)
    for seed in range(3):
        x = features(2, 3, 4, 5, seed=seed)
        norm = normaliser(module, 40)
        assert norm is not None
        y = batch_norm(twin, x)
        assert_close(norm(x, module.weight, module.bias)[0], y)
        assert_close(norm.plain(x, module.weight, module.bias), y)
    for a, b in zip(module.buffers(), twin.buffers(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("reason", ["hook", "pre-hook", "backward hook", "subclass", "format", "half", "vmap", "dual"])
def test_whoever_needs_the_parts_gets_them_called(name: str, reason: str) -> None:
    layer, x = build(name, False), features(2, 6, 4, 3).requires_grad_()
    assert is_fused(layer(x))
    part = [m for m in layer.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    calls: list[int] = []
    if reason == "hook":
        part.register_forward_hook(lambda *_: calls.append(1))
    elif reason == "pre-hook":
        part.register_forward_pre_hook(lambda *_: calls.append(1))
    elif reason == "backward hook":
        part.register_full_backward_hook(lambda *_: calls.append(1))
    elif reason == "subclass":
        kind = type(part)
        part.__class__ = type("Other", (kind,), {"forward": lambda self, x: calls.append(1) or kind.forward(self, x)})
    elif reason == "format":
        assert not is_fused(layer(x.to(memory_format=torch.channels_last)))
        return
    elif reason == "half":
        assert not is_fused(layer.bfloat16()(x.bfloat16()))
        return
    elif reason == "vmap":
        y = torch.func.vmap(layer)(x.detach().unsqueeze(1)).squeeze(1)
        assert_close(y, layer(x))
        gradient = torch.func.grad(lambda x: layer(x).square().sum())(x.detach())
        assert_close(gradient, torch.autograd.grad(layer(x).square().sum(), x)[0])
        return
    else:
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x.detach(), torch.ones_like(x)))).tangent
        gradient = torch.autograd.functional.jvp(layer, x.detach(), torch.ones_like(x))[1]
        assert_close(tangent, gradient)
        return
    y = layer(x)
    torch.autograd.grad(y.sum(), x)
    assert calls
    assert not is_fused(y)


@pytest.mark.parametrize("name", ["CBAM", "BAM", "CoordAtt"])
def test_folded_layers_are_fused_too(name: str) -> None:
    layer, x = build(name, False), features(2, 6, 4, 3).requires_grad_()
    y = layer(x)
    for module in list(layer.modules()):
        if hasattr(module, "fold_for_inference"):
            module.fold_for_inference()
    assert is_fused(layer(x))
    assert_close(layer(x), y)
    torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])
    with torch.no_grad():
        assert_close(layer(x), y)


@pytest.mark.parametrize("name", ["SE", "CBAM", "CoordAtt", "BAM"])
def test_at_most_the_map_and_one_more_are_kept_for_backward(name: str) -> None:
    width = 64
    layer = {"SE": SE, "CBAM": CBAM, "CoordAtt": CoordAtt, "BAM": BAM}[name](width)
    x = torch.randn(2, width, 24, 24, requires_grad=True)
    maps = saved_bytes(layer, x) / (x.numel() * x.element_size())
    assert maps < (2.6 if name == "BAM" else 1.3)  # the rest is narrow


def test_statistics_that_move_before_the_backward_pass_raise() -> None:
    layer, x = build("CoordAtt", False), features(2, 6, 4, 3).requires_grad_()
    y = layer(x)
    layer.bn1.running_mean.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
