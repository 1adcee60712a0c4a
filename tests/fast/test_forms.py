"""One contract over the table of fast forms: what stands in for a layer's own operations equals them, or declines."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from yolo_attn.bench.measure import saved_bytes
from yolo_attn.layers import CAA, CPCA, MHSA, BiFormer, CloAttention, CrissCross, DAttention

fast = pytest.importorskip("yolo_attn.fast", reason="the folder is optional")

LIMIT = 1e-11  # float64 noise of other summation orders, relative to the largest entry; a mistake moves 1e-4 and more
# Form -> layers that use it, each with the path of a part that it computes instead of calling.
USERS: dict[str, dict[str, tuple[Callable[[], nn.Module], str | None]]] = {
    "_attention.attend": {
        "MHSA": (lambda: MHSA(8, 2), None),
        "MHSA of one": (lambda: MHSA(8, 8, True, 0.7), None),
        "CloAttention": (lambda: CloAttention(8, 2, (0, 2), (3,), 2), None),
        "BiFormer": (lambda: BiFormer(8, 2, 2, topk=2), None),
        "DAttention": (lambda: DAttention(8, 2, 2), None),
    },
    "_depthwise.depthwise": {
        "CAA": (lambda: CAA(8), "h_conv"),
        "CAA wide": (lambda: CAA(8, 21, 5), "v_conv"),
        "CPCA": (lambda: CPCA(8), "dconv5_5"),
        "CloAttention": (lambda: CloAttention(8, 2, (2, 0), (5,), 2), "convs.0"),
    },
    "caa.box_mean": {"CAA": (lambda: CAA(8), None)},
    "cpca.CPCA.forward": {"CPCA": (lambda: CPCA(8), None)},
    "criss_cross.CrissCross._attend": {
        "once": (lambda: CrissCross(16), "query_conv"),
        "twice": (lambda: CrissCross(5, 2), "value_conv"),
    },
}
CASES = [pytest.param(form, user, id=f"{form}-{user}") for form, users in USERS.items() for user in users]
PARTS = [
    pytest.param(form, user, id=f"{form}-{user}")
    for form, users in USERS.items()
    for user, (_, part) in users.items()
    if part
]
# The kernels of scaled_dot_product_attention have no second derivative; PyTorch's own limit.
TWICE = [case for case in CASES if case.values[0] != "_attention.attend"]


def features(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(form: str, user: str) -> tuple[nn.Module, Tensor]:
    """Return a layer in float64 whose parameters and statistics are all random, and a map for it."""
    torch.manual_seed(2)
    layer = USERS[form][user][0]().double()
    with torch.no_grad():
        for key, value in layer.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value.normal_(0.0, 0.5)
    return layer, features(2, layer.channels, 6, 9)


@pytest.fixture(autouse=True)
def _on() -> Iterator[None]:
    """Turn the forms on, whatever the environment says."""
    token = fast._is_on.set(True)
    yield
    fast._is_on.reset(token)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the list of forms that gave a result, in order."""
    seen: list[str] = []
    find = fast.find

    def watch(name: str, args: tuple) -> Callable | None:
        form = find(name, args)

        def call(*given: object, **named: object) -> object:
            y = form(*given, **named)
            if y is not NotImplemented:
                seen.append(name)
            return y

        return form and call

    monkeypatch.setattr("yolo_attn.layers._fast.find", watch)
    yield seen


def assert_close(actual: Tensor | None, expected: Tensor | None, scale: float = 0.0) -> None:
    actual, expected = (torch.zeros(()) if t is None else t for t in (actual, expected))
    size = max(expected.abs().max().item(), scale) or 1.0
    assert (actual - expected).abs().max().item() <= LIMIT * size


def gradients(y: Tensor, inputs: list[Tensor], **options: bool) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(y, inputs, features(*y.shape, seed=5), allow_unused=True, **options)


def both(layer: nn.Module, call: Callable[[nn.Module], list[Tensor | None]]) -> None:
    """Compare what ``call`` makes of the layer with fast forms and of its copy without."""
    other = copy.deepcopy(layer)
    found = call(layer)
    with fast.plain():
        expected = call(other)
    scale = max(t.abs().max().item() for t in expected if t is not None)
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted, scale)
    for (key, actual), wanted in zip(layer.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(actual.double(), wanted.double(), rtol=LIMIT), key


def test_the_table_names_what_is_there() -> None:
    assert set(USERS) == set(fast.FORMS)
    for devices in fast.FORMS.values():
        assert all(callable(fast._load(path)) for path in devices.values())


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("form", "user"), CASES)
def test_values_gradients_and_buffers(form: str, user: str, train: bool, used: list[str]) -> None:
    layer, x = build(form, user)

    def call(layer: nn.Module) -> list[Tensor | None]:
        inputs = [x.clone().requires_grad_(), *layer.train(train).parameters()]
        y = layer(inputs[0])
        with torch.no_grad():
            calm = layer(x)
        return [y, calm, *gradients(y, inputs)]

    both(layer, call)
    assert form in used


@pytest.mark.parametrize(("form", "user"), TWICE)
def test_second_derivatives(form: str, user: str, used: list[str]) -> None:
    layer, x = build(form, user)

    def call(layer: nn.Module) -> list[Tensor | None]:
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        first = gradients(layer(inputs[0]), inputs, create_graph=True)
        whole = sum((g**2).sum() for g in first if g is not None)
        return [*first, *torch.autograd.grad(whole, inputs, allow_unused=True)]

    both(layer.eval(), call)
    assert form in used


@pytest.mark.parametrize(("form", "user"), CASES)
def test_any_input_may_be_frozen(form: str, user: str, used: list[str]) -> None:
    layer, x = build(form, user)
    inputs = {"x": x.requires_grad_(), **dict(layer.eval().named_parameters())}
    with fast.plain():
        expected = dict(zip(inputs, gradients(layer(x), list(inputs.values())), strict=True))
    scale = max(g.abs().max().item() for g in expected.values() if g is not None)
    for alone in inputs:
        for key, tensor in inputs.items():
            tensor.requires_grad_(key == alone)
        if expected[alone] is not None:
            assert_close(*gradients(layer(x), [inputs[alone]]), expected[alone], scale)
    assert form in used


@pytest.mark.parametrize(("form", "user"), CASES)
def test_a_map_made_from_a_parameter_gets_each_share_once(form: str, user: str) -> None:
    layer, x = build(form, user)

    def call(layer: nn.Module) -> list[Tensor | None]:
        weight = next(layer.parameters())
        return list(gradients(layer(x * weight.sum()), [weight]))

    both(layer.eval(), call)


@pytest.mark.parametrize(("form", "user"), CASES)
def test_inputs_of_other_strides(form: str, user: str, used: list[str]) -> None:
    layer, x = build(form, user)
    layer.eval()
    last = x.contiguous(memory_format=torch.channels_last)
    for given in (x[:1].expand(3, -1, -1, -1), x[..., ::2], x.transpose(2, 3), last):
        both(layer, lambda layer, given=given: [layer(given), *gradients(layer(given), list(layer.parameters()))])
    if form not in ("cpca.CPCA.forward", "criss_cross.CrissCross._attend"):  # these serve contiguous maps
        assert form in used


@pytest.mark.parametrize(("form", "user"), CASES)
def test_an_empty_batch_takes_the_plain_form(form: str, user: str, used: list[str]) -> None:
    layer, x = build(form, user)
    assert layer.eval()(x[:0]).shape == x[:0].shape
    assert form not in used


@pytest.mark.parametrize(("form", "user"), CASES)
def test_no_form_keeps_more_than_plain_operations_do(form: str, user: str, used: list[str]) -> None:
    layer, x = build(form, user)
    kept = saved_bytes(layer.float(), x.float().requires_grad_())
    assert form in used
    with fast.plain():
        plain = saved_bytes(layer, x.float().requires_grad_())
    # Heads padded to whole vectors are up to 16 times as wide (of width 1); everything else keeps the same or less.
    assert kept <= plain * (1.05 if form != "_attention.attend" else 16)


@pytest.mark.parametrize(("form", "user"), CASES)
def test_it_leaves_nothing_in_the_layer(form: str, user: str) -> None:
    layer, x = build(form, user)
    before = {name: set(vars(module)) for name, module in layer.named_modules()}
    layer(x.requires_grad_()).sum().backward()
    assert {name: set(vars(module)) for name, module in layer.named_modules()} == before


# ------------------------------------------------------------------------------------------------ reasons to decline


@pytest.mark.parametrize("reason", ["off", "trace", "compile", "vmap", "grad", "dual", "counted", "meta"])
@pytest.mark.parametrize(("form", "user"), CASES)
def test_whoever_looks_at_the_operations_gets_the_plain_ones(
    form: str, user: str, reason: str, used: list[str]
) -> None:
    layer, x = build(form, user)
    layer.eval()
    if reason == "off":
        with fast.plain():
            layer(x)
    elif reason == "trace":
        torch.jit.trace(layer, x, check_trace=False)
    elif reason == "compile":
        torch.compile(layer, backend="eager", fullgraph=True)(x)
    elif reason == "vmap":
        torch.func.vmap(layer)(x.unsqueeze(1))
    elif reason == "grad":
        torch.func.grad(lambda x: layer(x).square().sum())(x)
    elif reason == "dual":
        if form == "_attention.attend":
            pytest.skip("scaled_dot_product_attention has no forward derivative")
        with forward_ad.dual_level():
            layer(forward_ad.make_dual(x, torch.ones_like(x)))
    elif reason == "counted":
        with FlopCounterMode(display=False):
            layer(x)
    else:
        layer.to("meta")(x.to("meta"))
    assert not used


@pytest.mark.parametrize("setting", ["dilation", "padding mode", "bias"])
@pytest.mark.parametrize(("form", "user"), PARTS)
def test_a_part_of_another_setting_gives_what_it_gives_plainly(
    form: str, user: str, setting: str, used: list[str]
) -> None:
    layer, x = build(form, user)
    part = layer.get_submodule(USERS[form][user][1])
    if setting == "bias":
        part.bias = None
    elif part.kernel_size == (1, 1):
        pytest.skip("shows in wider kernels alone")
    elif setting == "dilation":
        part.dilation, part.padding = (2, 2), tuple(2 * n for n in part.padding)
    else:
        part.padding_mode, (h, w) = "circular", part.padding
        part._reversed_padding_repeated_twice = [w, w, h, h]

    def call(layer: nn.Module) -> list[Tensor | None]:
        y = layer.eval()(x)
        return [y, *gradients(y, list(layer.parameters()))]

    both(layer, call)


@pytest.mark.parametrize("how", ["hook", "subclass", "patch"])
@pytest.mark.parametrize(("form", "user"), CASES)
def test_what_is_around_the_layer_happens_once(form: str, user: str, how: str) -> None:
    layer, x = build(form, user)
    seen: list[int] = []
    forward = type(layer).forward
    if how == "hook":
        layer.register_forward_hook(lambda *_: seen.append(1))
    elif how == "subclass":
        layer.__class__ = type("Mine", (type(layer),), {"forward": lambda self, x: seen.append(1) or forward(self, x)})
    else:
        layer.forward = lambda x: seen.append(1) or forward(layer, x)
    layer.eval()(x)
    assert seen == [1]


def test_parameters_may_be_shared(used: list[str]) -> None:
    layer, x = build("criss_cross.CrissCross._attend", "once")

    def call(layer: nn.Module) -> list[Tensor | None]:
        layer.key_conv.weight = layer.query_conv.weight
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        first = gradients(layer(inputs[0]), inputs, create_graph=True)
        return [*first, *torch.autograd.grad(sum((g**2).sum() for g in first), inputs)]

    both(layer, call)
    assert used


@pytest.mark.parametrize("precision", ["half", "autocast", "backward in autocast"])
@pytest.mark.parametrize(("form", "user"), CASES)
def test_other_precisions_agree_with_plain_operations(form: str, user: str, precision: str, used: list[str]) -> None:
    layer, x = build(form, user)
    layer, x = layer.float().eval(), x.float()
    if precision == "half":
        layer, x = layer.bfloat16(), x.bfloat16()

    def call() -> list[Tensor]:
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            y = layer(inputs[0])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "backward in autocast"):
            found = torch.autograd.grad(y.float().square().sum(), inputs, allow_unused=True)
        return [y, *(g for g in found if g is not None)]

    found = call()
    everywhere = ("_depthwise.depthwise", "cpca.CPCA.forward")
    served = {"half": everywhere, "autocast": (*everywhere, "caa.box_mean")}.get(precision, tuple(USERS))
    assert (form in used) == (form in served)
    with fast.plain():
        expected = call()
    # A few roundings of 2^-8, which both sides make in another order.
    largest = max(t.abs().max().item() for t in expected[1:])
    assert (found[0] - expected[0]).abs().max() <= 0.05 * expected[0].abs().max()
    for a, e in zip(found[1:], expected[1:], strict=True):
        assert a.dtype == e.dtype and (a - e).abs().max() <= 0.05 * largest


@pytest.mark.parametrize("value", ["0", "false", "off"])
def test_the_environment_turns_all_off(value: str) -> None:
    code = "from yolo_attn import fast; import torch; print(fast.find('_attention.attend', (torch.ones(1),)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "YOLO_ATTN_FAST": value}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "None", done.stderr
