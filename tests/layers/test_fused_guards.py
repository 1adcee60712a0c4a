"""Layers that run as few autograd nodes call what is hooked or replaced, and keep to what autograd's users expect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolo_attn import registry
from yolo_attn.layers import BAM, CBAM, CPCA, MHSA, SE, CloAttention, CoordAtt, CoT, DAttention
from yolo_attn.layers._attention import attend

LAYERS = [layer.name for layer in registry.TABLE]


def features(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


class Marked(nn.Module):
    """Stands for a module of a user; its result is told from every other."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(self.shape)


@pytest.mark.parametrize(
    ("layer", "path", "shape"),
    [
        (SE(8), "fc", (1, 8)),
        (CBAM(8), "channel_attention", (1, 8, 1, 1)),
        (CBAM(8), "spatial_attention", (1, 1, 4, 4)),
        (CoordAtt(8), "conv1", (1, 8, 8, 1)),
    ],
    ids=str,
)
def test_a_replaced_part_is_called(layer: nn.Module, path: str, shape: tuple[int, ...]) -> None:
    x = features(1, 8, 4, 4)
    before = layer.eval()(x)
    setattr(layer, path, Marked(*shape))
    assert not torch.allclose(layer(x), before)


@pytest.mark.parametrize(("path", "shape"), [("ca", (1, 16, 1, 1)), ("sa", (1, 1, 4, 4))])
def test_a_replaced_branch_of_bam_is_called(path: str, shape: tuple[int, ...]) -> None:
    layer, x = BAM(16).eval(), features(1, 16, 4, 4)
    setattr(layer, path, Marked(*shape))
    other = layer.sa(x) if path == "ca" else layer.ca(x)
    assert torch.allclose(layer(x), x * (1 + other.sigmoid()))


def test_parts_of_another_kind_or_setting_are_called() -> None:
    x = features(1, 8, 6, 6)
    se = SE(8)
    se.fc[1] = nn.Sigmoid()
    assert torch.allclose(se(x), x * se.fc(x.mean((2, 3)))[:, :, None, None])
    cbam = CBAM(8)
    before = cbam(x)
    cbam.spatial_attention.conv.padding_mode = "reflect"
    cbam.spatial_attention.conv._reversed_padding_repeated_twice = [3, 3, 3, 3]
    assert not torch.allclose(cbam(x), before)
    cot = CoT(8).eval()
    before = cot(x)
    cot.value_embed[0].bias = nn.Parameter(torch.ones(8))
    assert not torch.allclose(cot(x), before)


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        (MHSA(16, 2), "qkv"), (MHSA(16, 2), "proj"), (DAttention(16, 2, 2), "proj_q"),
        (DAttention(16, 2, 2), "conv_offset.3"), (CPCA(16), "dconv5_5"), (SE(16), "fc.0"),
    ],
    ids=str,
)  # fmt: skip
def test_backward_hooks_of_parts_fire(layer: nn.Module, part: str) -> None:
    fired: list[int] = []
    layer.get_submodule(part).register_full_backward_hook(lambda *_: fired.append(1))
    layer(features(1, 16, 6, 6).requires_grad_()).sum().backward()
    assert fired == [1]


def test_hooks_on_every_module_see_the_parts() -> None:
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        SE(8)(features(1, 8, 4, 4))
    finally:
        handle.remove()
    assert seen.count("Linear") == 2


def test_a_hook_may_change_the_memory_order_inside_clo_attention() -> None:
    layer, x = CloAttention(16, 4, (2, 2), (3,), 2), features(2, 16, 5, 6).requires_grad_()
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x).square().sum(), inputs)
    layer.convs[0].register_forward_hook(lambda module, given, y: y.contiguous())
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
    layer, x = registry.create(name, 16).double().eval(), features(1, 16, 6, 6, dtype=torch.float64)
    found = torch.func.grad(lambda x: layer(x).square().sum())(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_a_backward_pass_inside_autocast(name: str) -> None:
    layer, x = registry.create(name, 16).eval(), features(1, 16, 6, 6).requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    y = layer(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(y, x)
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("name", ["MHSA", "MHSALePE", "DoubleAttention", "SE", "CBAM", "CrissCross"])
def test_an_empty_batch(name: str) -> None:
    layer = registry.create(name, 256)
    assert layer.eval()(torch.zeros(0, 256, 4, 4)).shape == (0, 256, 4, 4)


def test_a_wrong_width_is_named_by_the_convolution() -> None:
    call: Callable[[], Tensor] = lambda: CoT(8)(torch.zeros(1, 4, 5, 5))  # noqa: E731
    with pytest.raises(RuntimeError, match="channels"):
        call()
