"""Calls of layers that users reported to go wrong, with the result that each must have."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import yolo_attn
from yolo_attn.errors import UnknownLayerError
from yolo_attn.layers import MHSA, SE, BiFormer, CloAttention, CoT, CrissCross, DAttention, DoubleAttention
from yolo_attn.layers._versions import plain_attention

pytestmark = pytest.mark.usefixtures("form")

CLOSE = {"rtol": 1e-9, "atol": 1e-12}  # rounding in float64


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def build(cls: type[nn.Module], *args: object, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return cls(*args, **kwargs).double()


class Twice(nn.Module):
    """An adapter: it has the part's parameters and its own forward."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.weight, self.bias = part, part.weight, part.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.part(x)


@pytest.mark.parametrize(
    ("cls", "shape"), [(DoubleAttention, (2, 64, 20, 20)), (CloAttention, (2, 64, 20, 20)), (CoT, (2, 64, 1, 1))]
)
def test_an_activation_in_place_may_follow(cls: type[nn.Module], shape: tuple[int, ...]) -> None:
    nn.Sequential(build(cls, 64), nn.ReLU(inplace=True))(features(*shape)).sum().backward()


@pytest.mark.parametrize("part", ["0", "3"])
def test_parts_of_cot_are_called(part: str) -> None:
    layer, x = build(CoT, 64).eval(), features(2, 64, 6, 6)
    plain, embed = layer(x), layer.attention_embed
    with embed[int(part)].register_forward_hook(lambda _, __, y: y * 3 + features(*y.shape)):
        assert not torch.allclose(layer(x), plain)
    setattr(embed, part, Twice(embed[int(part)]))
    assert not torch.allclose(layer(x), plain)


def test_cot_can_be_pruned_for_two_steps() -> None:
    layer = build(CoT, 64).train()
    prune.l1_unstructured(layer.attention_embed[0], "weight", amount=0.5)
    for _ in range(2):
        layer(features(2, 64, 6, 6)).sum().backward()


def test_an_adapter_of_a_projection_is_called() -> None:
    wrapped, scaled, x = build(DAttention, 64), build(DAttention, 64), features(2, 64, 6, 6)
    wrapped.proj_q = Twice(wrapped.proj_q)
    with torch.no_grad():
        scaled.proj_q.weight.mul_(2), scaled.proj_q.bias.mul_(2)
    assert torch.allclose(wrapped(x), scaled(x), **CLOSE)


def test_tokens_and_routes_follow_an_adapter_of_qkv() -> None:
    class Turned(Twice):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.part(x)
            return torch.cat([-y[..., :64], y[..., 64:]], -1)  # queries the other way round: other windows are best

    wrapped, turned, x = build(BiFormer, 64), build(BiFormer, 64), features(2, 64, 20, 20)
    wrapped.qkv["qkv"] = Turned(wrapped.qkv["qkv"])
    with torch.no_grad():
        turned.qkv["qkv"].weight[:64].neg_(), turned.qkv["qkv"].bias[:64].neg_()
    assert torch.equal(wrapped(x, ret_attn_mask=True)[2], turned(x, ret_attn_mask=True)[2])
    assert torch.allclose(wrapped(x), turned(x), **CLOSE)


def test_soft_routing_stops_the_gradient_in_every_mode() -> None:
    layer, x = build(BiFormer, 64, soft_routing=True, num_heads=2), features(1, 64, 14, 14)

    def gradient(run: nn.Module) -> torch.Tensor:
        z = x.clone().requires_grad_()
        return torch.autograd.grad(run(z).sin().sum(), z)[0]

    eager = gradient(layer)
    assert torch.allclose(gradient(torch.jit.trace(layer, x)), eager, **CLOSE)
    tangent = features(2, 64, 14, 14)[1:]
    with plain_attention():
        _, forward = torch.func.jvp(lambda z: layer(z).sin().sum(), (x,), (tangent,))
    assert torch.allclose(forward, (eager * tangent).sum(), **CLOSE)


def test_a_patched_forward_of_a_part_is_called() -> None:
    layer, x = build(SE, 64), features(2, 64, 20, 20)
    plain, first = layer(x), layer.fc[0]
    first.forward = lambda z: nn.Linear.forward(first, z) + 5
    assert not torch.allclose(layer(x), plain)


def test_function_transforms() -> None:
    layer, x = build(CrissCross, 64), features(3, 64, 5, 4)
    with torch.no_grad():
        layer.gamma.fill_(0.5)
    one_by_one = torch.stack([layer(z[None])[0] for z in x])
    assert torch.allclose(torch.func.vmap(lambda z: layer(z[None])[0])(x), one_by_one, **CLOSE)
    cot, small = build(CoT, 8).eval(), features(1, 8, 2, 2)
    found = [torch.autograd.functional.jacobian(cot, small, vectorize=vectorize) for vectorize in (True, False)]
    assert torch.allclose(*found, **CLOSE)


def test_an_empty_batch() -> None:
    assert build(BiFormer, 64)(features(2, 64, 20, 20)[:0]).shape == (0, 64, 20, 20)


def test_pasted_keywords() -> None:
    from yolo_attn import BiLevelRoutingAttention, CoordinateAttention, SEAttention

    assert yolo_attn.create("SE", 64, channel=64).channels == 64
    assert SEAttention(channel=512, reduction=8).reduction == 8
    assert BiLevelRoutingAttention(dim=512).channels == CoordinateAttention(inp=512).channels == 512
    assert yolo_attn.DAttention(channel=512, q_size=(20, 20)).q_size == (20, 20)


def test_the_listings_attention_is_named() -> None:
    with pytest.raises(UnknownLayerError, match=r"Attention is MHSA here \(Ultralytics has an Attention of its own"):
        yolo_attn.create("Attention", 64)


def test_parameters_of_cloattention_stand_in_the_listings_order() -> None:
    first = dict.fromkeys(name.split(".")[0] for name, _ in build(CloAttention, 64).named_parameters())
    assert [*first] == ["global_q", "global_kv", "convs", "act_blocks", "qkvs", "proj"]


def test_integers_and_flags_of_other_kinds() -> None:
    import numpy as np

    assert MHSA(64, qkv_bias=1).qkv_bias is True and SE(64, reduction=np.int64(8)).reduction == 8
