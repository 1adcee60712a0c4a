"""BiFormer and DAttention call their parts as modules, whatever the options, and serve empty batches and compilers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_attn.layers import BiFormer, DAttention, dattention

WINDOWS, HEADS = {"n_win": 2, "num_heads": 2, "topk": 2}, {"n_heads": 4, "n_groups": 2}
LAYERS = [
    (BiFormer, WINDOWS),
    (BiFormer, WINDOWS | {"topk": 4}),
    (BiFormer, WINDOWS | {"mask_pad": True, "kv_downsample_mode": "conv", "kv_downsample_ratio": 2}),
    (BiFormer, WINDOWS | {"mask_pad": True, "topk": 4, "kv_downsample_mode": "ada_avgpool"}),
    (BiFormer, WINDOWS | {"mask_pad": True, "kv_downsample_mode": "ada_maxpool"}),
    (BiFormer, WINDOWS | {"kv_downsample_mode": "fracpool", "kv_downsample_ratio": 2}),
    (BiFormer, WINDOWS | {"soft_routing": True, "diff_routing": True, "param_routing": True}),
    (DAttention, HEADS),
    (DAttention, HEADS | {"dwc_pe": False}),
    (DAttention, HEADS | {"dwc_pe": False, "log_cpb": True}),
    (DAttention, HEADS | {"dwc_pe": False, "fixed_pe": True, "q_size": 4}),
    (DAttention, HEADS | {"no_off": True, "stride": 2}),
]
LISTED = pytest.mark.parametrize(("cls", "arguments"), LAYERS, ids=lambda v: getattr(v, "__name__", str(v)))


def build(cls: type[nn.Module], arguments: dict) -> nn.Module:
    torch.manual_seed(0)
    return cls(8, **arguments).double().eval()


@LISTED
def test_hooks_see_and_change_every_part(cls: type[nn.Module], arguments: dict) -> None:
    layer, x = build(cls, arguments), torch.randn(1, 8, 7, 6, dtype=torch.float64)
    expected = layer(x)
    for name, module in layer.named_modules():
        unused = arguments.get("no_off") and name.startswith("conv_offset")
        if isinstance(module, nn.ModuleDict) or unused:
            continue
        seen: list[str] = []
        with module.register_forward_hook(lambda *_, name=name, seen=seen: seen.append(name)):
            assert torch.equal(layer(x), expected)
        assert set(seen) == {name}
        with module.register_forward_hook(lambda _, __, y: 1.5 * y + 0.1):
            assert not torch.allclose(layer(x), expected), name


class Doubled(nn.Module):
    """A wrapper that shows the parameters of its part but gives something else, as adapters do."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.weight, self.bias = part, part.weight, part.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.part(x)


@pytest.mark.parametrize("name", ["proj_q", "proj_k", "proj_v", "proj_out"])
def test_a_wrapped_projection_is_called(name: str) -> None:
    wrapped, scaled = build(*LAYERS[7]), build(*LAYERS[7])
    part, x = getattr(scaled, name), torch.randn(1, 8, 5, 6, dtype=torch.float64)
    setattr(wrapped, name, Doubled(getattr(wrapped, name)))
    plain = scaled(x)
    with torch.no_grad():
        part.weight.mul_(2), part.bias.mul_(2)
    assert not torch.allclose(scaled(x), plain)
    assert torch.allclose(wrapped(x), scaled(x), rtol=1e-12, atol=1e-12)  # rounding in float64


@LISTED
@pytest.mark.parametrize("size", [(1, 1), (7, 9)])
def test_an_empty_batch_gives_an_empty_map(cls: type[nn.Module], arguments: dict, size: tuple[int, int]) -> None:
    layer = build(cls, arguments).train()
    x = torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
    y = layer(x[:0])
    assert y.shape == (0, 8, *size)
    y.sum().backward()
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize(("cls", "arguments"), LAYERS[::3], ids=lambda v: getattr(v, "__name__", str(v)))
def test_compiles_and_exports_without_a_break(cls: type[nn.Module], arguments: dict) -> None:
    layer, x = build(cls, arguments), torch.randn(2, 8, 7, 9, dtype=torch.float64)
    other = torch.randn(1, 8, 12, 10, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for z in (x, other):
        assert torch.allclose(compiled(z), layer(z), rtol=1e-12, atol=1e-12)
    if "2.3" <= torch.__version__ < "2.5":
        pytest.skip("torch.export of PyTorch 2.4 cannot hold an autocast region")
    assert torch.allclose(torch.export.export(layer, (x,)).module()(x), layer(x), rtol=1e-12, atol=1e-12)


def test_function_transforms_hold_a_large_position_term(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = build(*LAYERS[9]), torch.randn(1, 8, 4, 4, dtype=torch.float64)
    z = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(layer(z).sin().sum(), z)
    monkeypatch.setattr(dattention, "CHUNK", 1)
    assert torch.allclose(torch.func.grad(lambda x: layer(x).sin().sum())(x), expected, rtol=1e-9, atol=1e-12)
