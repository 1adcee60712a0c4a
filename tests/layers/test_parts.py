"""What users put into a layer's parts takes part (hooks, wrappers, patches, pruning), as after any module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from yolo_attn import registry
from yolo_attn.layers import CloAttention, CoordAtt, CoT
from yolo_attn.layers._attention import attend

pytestmark = pytest.mark.usefixtures("form")

WIDTH = 16
LAYERS = [layer.name for layer in registry.TABLE]
# A hidden layer of one unit may be dead behind its ReLU, or constant behind its norm.
OPTIONS = {"BAM": {"reduction": 2}, "GC": {"ratio": 0.25}}
PARTS = [
    (layer, name)
    for layer in LAYERS
    for name, part in registry.create(layer, WIDTH, **OPTIONS.get(layer, {})).named_modules()
    if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear))
]


def features(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def build(name: str) -> nn.Module:
    """Return a layer in eval mode that starts as itself: what is zero at the start is opened."""
    torch.manual_seed(1)
    layer = registry.create(name, WIDTH, **OPTIONS.get(name, {})).eval()
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if key.endswith("gamma"):
                parameter.fill_(0.8)
            elif not parameter.any():
                parameter.normal_(std=0.3)
    return layer


class Adapter(nn.Module):
    """A wrapper with a weight and a forward of its own, as adapters of low rank have."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.weight, self.bias = part, part.weight, part.bias

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        return y + torch.sin(3 * y) + 0.5 * torch.cos(2 * y)


def place(layer: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(layer.get_submodule(parent), name, part)


@pytest.mark.parametrize(("name", "path"), PARTS)
def test_a_wrapped_part_is_called(name: str, path: str) -> None:
    layer, x = build(name), features(2, WIDTH, 9, 8)
    before = layer(x)
    place(layer, path, Adapter(layer.get_submodule(path)))
    assert not torch.allclose(layer(x), before)


@pytest.mark.parametrize(("name", "path"), PARTS)
def test_hooks_of_all_kinds_fire(name: str, path: str) -> None:
    layer, seen = build(name), []
    part = layer.get_submodule(path)
    part.register_forward_pre_hook(lambda *_: seen.append("before"))
    part.register_forward_hook(lambda *_: seen.append("after"))
    part.register_full_backward_hook(lambda *_: seen.append("backward"))
    layer(features(2, WIDTH, 9, 8).requires_grad_()).square().sum().backward()
    assert {"before", "after"} <= set(seen)
    # Routes are chosen, not differentiated; a shared part is called more than once.
    assert seen.count("backward") >= 1


@pytest.mark.parametrize(("name", "path"), PARTS)
def test_a_patched_forward_is_called(name: str, path: str) -> None:
    layer, seen = build(name), []
    part = layer.get_submodule(path)
    forward = part.forward
    part.forward = lambda x: seen.append(1) or forward(x)
    layer(features(2, WIDTH, 9, 8))
    assert seen


@pytest.mark.parametrize(("name", "path"), PARTS)
def test_a_pruned_part_trains(name: str, path: str) -> None:
    layer, x = build(name), features(2, WIDTH, 9, 8)
    part = layer.get_submodule(path)
    prune.random_unstructured(part, "weight", 0.5)
    for _ in range(2):  # the pruned weight is made anew in every step
        layer(x).square().sum().backward()
    grad = part.weight_orig.grad
    assert (grad[part.weight_mask == 0] == 0).all() and (grad != 0).any()


@pytest.mark.parametrize("name", LAYERS)
def test_norms_and_activations_are_called(name: str) -> None:
    layer, seen = build(name), set()
    parts = {n for n, m in layer.named_modules() if not list(m.children())}
    for path in parts:
        layer.get_submodule(path).register_forward_hook(lambda *_, path=path: seen.add(path))
    layer(features(2, WIDTH, 9, 8))
    assert seen == parts


def test_hooks_on_every_module_see_the_parts() -> None:
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        registry.create("SE", 8)(features(1, 8, 4, 4))
    finally:
        handle.remove()
    assert seen.count("Linear") == 2


def test_a_part_of_another_setting_is_called() -> None:
    cbam, x = registry.create("CBAM", 8), features(1, 8, 6, 6)
    before = cbam(x)
    cbam.spatial_attention.conv.padding_mode = "reflect"
    cbam.spatial_attention.conv._reversed_padding_repeated_twice = [3, 3, 3, 3]
    assert not torch.allclose(cbam(x), before)
    cot = CoT(8).eval()
    before = cot(x)
    cot.value_embed[0].bias = nn.Parameter(torch.ones(8))
    assert not torch.allclose(cot(x), before)


def test_cot_called_and_averaged_agree() -> None:
    layer, x = CoT(8).double().eval(), features(2, 8, 5, 6, dtype=torch.float64)
    averaged = layer(x)
    layer.attention_embed[3].register_forward_hook(lambda *_: None)
    assert torch.allclose(layer(x), averaged, rtol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(6, 6), (1, 1)], ids=str)
def test_the_result_may_be_written_in_place(name: str, size: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), build(name), nn.ReLU(inplace=True))
    model(features(2, WIDTH, *size)).sum().backward()


def test_a_hook_may_change_the_memory_order_inside_clo_attention() -> None:
    layer, x = CloAttention(16, 4, (2, 2), (3,), 2), features(2, 16, 5, 6).requires_grad_()
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x).square().sum(), inputs)
    layer.convs[0].register_forward_hook(lambda module, given, y: y.contiguous(memory_format=torch.channels_last))
    for a, e in zip(torch.autograd.grad(layer(x).square().sum(), inputs), expected, strict=True):
        assert torch.allclose(a, e, rtol=1e-4, atol=1e-5)


def test_statistics_that_are_not_tracked_stay() -> None:
    layer, x = CoordAtt(8).train(), features(2, 8, 4, 4)
    y = layer(x)
    state = {name: t.clone() for name, t in layer.bn1.state_dict().items()}
    layer.bn1.track_running_stats = False
    assert torch.allclose(layer(x), y)  # the batch's own statistics, as before
    assert all(torch.equal(t, state[name]) for name, t in layer.bn1.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1.0, 6.0, 40.0])
def test_logits_of_half_precision_are_not_rounded(dtype: torch.dtype, size: float) -> None:
    q, k, v = (size * features(1, 2, 20, 16 + i).to(dtype)[..., :16] for i in range(3))
    exact = (q.double() @ k.double().transpose(2, 3)).softmax(-1) @ v.double()
    error = (attend(q, k, v, 1.0).double() - exact).abs().max() / exact.abs().max()
    assert error < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", LAYERS)
def test_functional_gradients(name: str) -> None:
    layer, x = build(name).double(), features(1, WIDTH, 6, 6, dtype=torch.float64)
    found = torch.func.grad(lambda x: layer(x).square().sum())(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_equals_a_loop(name: str) -> None:
    layer, x = build(name).double(), features(3, 1, WIDTH, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(torch.func.vmap(layer)(x), torch.stack([layer(one) for one in x]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_a_backward_pass_inside_autocast(name: str) -> None:
    layer, x = build(name), features(1, WIDTH, 6, 6).requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    y = layer(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(y, x)
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch(name: str) -> None:
    layer = build(name)
    assert layer(torch.zeros(0, WIDTH, 4, 4)).shape == (0, WIDTH, 4, 4)


def test_a_wrong_width_is_named_by_the_convolution() -> None:
    call: Callable[[], Tensor] = lambda: CoT(8)(torch.zeros(1, 4, 5, 5))  # noqa: E731
    with pytest.raises(RuntimeError, match="channels"):
        call()
