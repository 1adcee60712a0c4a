"""BiFormer where no golden file exists: downsampling in small windows, masked padding, precision, export, refusals."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
from torch.nn import functional as F

from yolo_attn.layers import BiFormer

# Sums of a few hundred products in float64.
EXACT = 1e-12


def error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    return ((actual.detach().double() - reference.double()).abs().max() / reference.abs().max()).item()


def spans(layer: BiFormer, n: int) -> list[tuple[int, int]]:
    """The stretches of one axis of a window of n pixels that become tokens."""
    mode, ratio, kernel = layer.kv_downsample_mode, layer.kv_downsample_ratio, layer.kv_downsample_kernel
    if mode == "identity":
        return [(j, j + 1) for j in range(n)]
    if mode.startswith("ada"):
        m = layer.kv_per_win
        return [(j * n // m, -(-(j + 1) * n // m)) for j in range(m)]
    if mode == "conv":
        return [(j, j + kernel) for j in range(0, max(n, kernel) - kernel + 1, ratio)]
    if mode == "fracpool":
        m = max(1, n // ratio)
        k = min(kernel, n - m + 1)
        step = (n - k) / (m - 1) if m > 1 else 0.0
        starts = [int((j + 0.5) * step) - int(0.5 * step) for j in range(m - 1)] + [n - k]
        return [(j, j + k) for j in starts]
    k = min(ratio, n)
    return [(j, j + k) for j in range(0, n - k + 1, k)]


def downsample(layer: BiFormer, kv: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One window's keys and values (h, w, c) to tokens (M, c), cell by cell, from real pixels alone."""
    tokens, keep = [], []
    for top, bottom in spans(layer, kv.shape[0]):
        for left, right in spans(layer, kv.shape[1]):
            cell, mask = kv[top:bottom, left:right], real[top:bottom, left:right]
            keep.append(bool(mask.any()))
            if not keep[-1]:
                tokens.append(torch.zeros_like(kv[0, 0]))
            elif layer.kv_downsample_mode == "conv":
                weight = layer.kv_down.weight[:, 0, : cell.shape[0], : cell.shape[1]].permute(1, 2, 0)
                tokens.append((weight * cell * mask[..., None]).sum((0, 1)) + layer.kv_down.bias)
            elif "avg" in layer.kv_downsample_mode:
                tokens.append(cell[mask].mean(0))
            else:
                tokens.append(cell[mask].max(0).values)
    return torch.stack(tokens), torch.tensor(keep)


def direct(layer: BiFormer, x: torch.Tensor) -> torch.Tensor:
    """The layer window by window and head by head."""
    (_, c, height, width), p, qk = x.shape, layer.n_win, layer.qk_dim
    h, w = -(-height // p), -(-width // p)
    x = F.pad(x, (0, p * w - width, 0, p * h - height))
    real = torch.ones(p * h, p * w, dtype=torch.bool)
    if layer.mask_pad:
        real[height:], real[:, width:] = False, False
    q, k, v = layer.qkv["qkv"](x.permute(0, 2, 3, 1)).split((qk, qk, c), -1)
    areas = [(slice(r * h, r * h + h), slice(s * w, s * w + w)) for r in range(p) for s in range(p)]
    y = torch.zeros(x.shape[0], p * h, p * w, c, dtype=x.dtype)
    for b in range(x.shape[0]):
        seen = [real[area].any() for area in areas]
        means = [[t[b][area][real[area]].mean(0) for area in areas] for t in (q, k)]
        if layer.param_routing:
            means = [[layer.router["emb"](mean) for mean in row] for row in means]
        for n, area in enumerate(areas):
            logits = torch.stack([layer.scale * means[0][n] @ mean for mean in means[1]])
            logits[~torch.stack(seen)] = float("-inf")
            if not seen[n]:
                continue  # it is cropped
            chosen = logits.topk(min(layer.topk, p * p))
            tokens, keep = [], []
            for j, weight in zip(chosen.indices.tolist(), chosen.values.softmax(0), strict=True):
                token, kept = downsample(layer, torch.cat((k, v), -1)[b][areas[j]], real[areas[j]])
                tokens.append(token * weight if layer.soft_routing else token)
                keep.append(kept)
            keys, values = torch.cat(tokens)[torch.cat(keep)].split((qk, c), 1)
            queries = q[b][area].reshape(-1, qk)
            heads = zip(*(t.chunk(layer.num_heads, 1) for t in (queries, keys, values)), strict=True)
            o = torch.cat([(layer.scale * i @ j.T).softmax(1) @ m for i, j, m in heads], 1)
            y[b][area] = o.reshape(h, w, c)
    y = y + layer.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return layer.wo(y[:, :height, :width]).permute(0, 3, 1, 2)


def build(**arguments: object) -> BiFormer:
    torch.manual_seed(0)
    layer = BiFormer(8, **{"n_win": 2, "num_heads": 2, "topk": 2} | arguments).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("mask_pad", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"topk": 4},
        {"topk": 99},
        {"kv_downsample_mode": "avgpool", "kv_downsample_ratio": 3},
        {"kv_downsample_mode": "maxpool", "kv_downsample_ratio": 3, "qk_dim": 4},
        {"kv_downsample_mode": "maxpool", "kv_downsample_ratio": 1},
        {"kv_downsample_mode": "ada_avgpool", "kv_per_win": 2, "topk": 4},
        {"kv_downsample_mode": "ada_maxpool", "kv_per_win": 2},
        {"kv_downsample_mode": "conv", "kv_downsample_ratio": 2},
        {"kv_downsample_mode": "conv", "kv_downsample_ratio": 2, "kv_downsample_kernel": 3, "qk_dim": 4},
        {"kv_downsample_mode": "fracpool", "kv_downsample_ratio": 2},
        {"kv_downsample_mode": "fracpool", "kv_downsample_ratio": 2, "kv_downsample_kernel": 5},
        {"soft_routing": True, "topk": 3},
        {"soft_routing": True, "topk": 9},
        {"soft_routing": True, "diff_routing": True, "param_routing": True, "topk": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (7, 4), (3, 9)])
def test_follows_the_formula(arguments: dict, mask_pad: bool, size: tuple[int, int]) -> None:
    layer = build(mask_pad=mask_pad, **arguments)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    assert error(layer(x), direct(layer, x)) < EXACT


def test_mask_pad_changes_nothing_without_padding() -> None:
    plain, masked = build(), build(mask_pad=True)
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    assert torch.equal(plain(x), masked(x))
    assert not torch.allclose(plain(x[:, :, :5]), masked(x[:, :, :5]))


def test_masked_padding_gets_no_gradient_through_values() -> None:
    layer = build(mask_pad=True, side_dwconv=0, n_win=3, topk=3)
    y = layer(torch.zeros(1, 8, 1, 1, dtype=torch.float64))
    # One real pixel attends to itself alone, so the output is its own value.
    v = layer.qkv["qkv"].bias[16:]
    assert error(y[0, :, 0, 0], layer.wo(v)) < EXACT


def test_fractional_pooling_keeps_keys_and_values_aligned() -> None:
    layer = build(kv_downsample_mode="fracpool", kv_downsample_ratio=2).train()
    kv = torch.randn(4, 9, 9, 1, dtype=torch.float64).expand(4, 9, 9, 16)
    drawn = {tuple(layer._downsample(kv, None)[0][0, :, 0].tolist()) for _ in range(10)}
    assert len(drawn) > 1
    tokens, _ = layer._downsample(kv, None)
    assert tokens.shape == (4, 16, 16) and torch.equal(tokens, tokens[..., :1].expand_as(tokens))
    layer.eval()
    assert torch.equal(layer._downsample(kv, None)[0], layer._downsample(kv, None)[0])


def test_conv_mode_trains_its_kernel() -> None:
    layer = build(kv_downsample_mode="conv", kv_downsample_ratio=2, qk_dim=4)
    assert layer.kv_down.weight.shape == (12, 1, 2, 2)
    layer(torch.randn(1, 8, 6, 6, dtype=torch.float64)).sum().backward()
    assert layer.kv_down.weight.grad.abs().sum((1, 2, 3)).min() > 0


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_routes_are_decided_in_float32(mode: str) -> None:
    torch.manual_seed(0)
    layer = BiFormer(64)
    q, k = torch.randn(2, 4, 49, 3, 3, 64).bfloat16()
    exact, _ = layer._route(q.double(), k.double(), None)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        routes, weights = layer._route(q, k, None)
    assert weights.dtype == torch.float32
    # Deciding in bfloat16 changes dozens of these 784 choices; float32 none, as none is that near a tie.
    assert torch.equal(routes, exact)


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision_keeps_a_learned_router(mode: str) -> None:
    layer = build(soft_routing=True, diff_routing=True, param_routing=True)
    x = torch.randn(1, 8, 5, 6)
    exact = layer(x.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        y = layer.float()(x) if mode == "autocast" else layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert error(y, exact) < 5e-2  # some ten roundings of up to 2^-9


def test_hard_routing_needs_no_graph() -> None:
    layer = BiFormer(16)
    q, k = torch.randn(2, 1, 49, 2, 2, 16, requires_grad=True)
    index, weights = layer._route(q, k, None)
    assert index.shape == (1, 49, 4) and not weights.requires_grad


class Negated(torch.nn.Module):
    """A wrapper that keeps the parameters in sight but changes what they give, as adapters do."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor:
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.base(x).chunk(3, -1)
        return torch.cat((q, -k, v), -1)


def test_a_wrapped_projection_moves_the_routes_too() -> None:
    layer, x = build(topk=1), torch.randn(2, 8, 6, 4, dtype=torch.float64)
    layer.qkv["qkv"] = Negated(layer.qkv["qkv"])
    assert error(layer(x), direct(layer, x)) < EXACT


def test_a_replaced_router_is_called() -> None:
    layer = build(soft_routing=True, diff_routing=True, param_routing=True)
    layer.router["emb"] = torch.nn.Tanh()
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    assert error(layer(x), direct(layer, x)) < EXACT


@pytest.mark.filterwarnings("ignore")
def test_weights_of_soft_routing_are_constants_for_every_kind_of_derivative() -> None:
    layer, x = build(soft_routing=True), torch.randn(1, 8, 6, 4, dtype=torch.float64)
    other, v = torch.randn(2, *x.shape, dtype=torch.float64)

    def gradient(call: torch.nn.Module) -> torch.Tensor:
        z = x.clone().requires_grad_()
        return torch.autograd.grad((call(z) * other).sum(), z)[0]

    expected = gradient(layer)
    assert error(gradient(torch.jit.trace(layer, x)), expected) < EXACT
    attention = pytest.importorskip("torch.nn.attention")
    with attention.sdpa_kernel(attention.SDPBackend.MATH):  # the fused kernel has no forward derivative
        _, tangent = torch.func.jvp(layer, (x,), (v,))
    assert abs((tangent * other).sum() / (expected * v).sum() - 1) < EXACT
    # The true derivative, which moves the weights as well, is another one.
    slope = ((layer(x + 1e-6 * v) - layer(x - 1e-6 * v)) * other).sum() / 2e-6
    assert abs(slope / (expected * v).sum() - 1) > 1e-2
    layer.diff_routing = True
    assert abs(slope / (gradient(layer) * v).sum() - 1) < 1e-6  # of a difference quotient


@pytest.mark.parametrize("kernel", [0, -1])
def test_off_switches_leave_no_keys_and_pickle(kernel: int) -> None:
    layer = pickle.loads(pickle.dumps(BiFormer(8, 2, 2, side_dwconv=kernel, param_attention="qkv")))
    assert set(layer.state_dict()) == {"qkv.qkv.weight", "qkv.qkv.bias"}
    assert layer(torch.randn(1, 8, 5, 5)).shape == (1, 8, 5, 5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(8, 6), (7, 9)], ids=["without padding", "with padding"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"mask_pad": True, "kv_downsample_mode": "conv"},
        {"mask_pad": True, "kv_downsample_mode": "ada_avgpool", "kv_per_win": 2},
        {"kv_downsample_mode": "ada_maxpool", "kv_per_win": 3},
    ],
    ids=str,
)
def test_export_follows_the_map_size(arguments: dict, size: tuple[int, int]) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    layer, file = BiFormer(8, 2, 2, topk=2, kv_downsample_ratio=2, **arguments).eval(), io.BytesIO()
    axes = {name: {0: "b", 2: "h", 3: "w"} for name in "xy"}
    torch.onnx.export(
        layer, (torch.randn(2, 8, *size),), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes
    )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for other in ((8, 6), (7, 9), (12, 5)):
        x = torch.randn(1, 8, *other)
        (y,) = session.run(None, {"x": x.numpy()})
        assert error(torch.from_numpy(y), layer(x)) < 1e-5, other  # float32 on both sides


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 20}, "channels=20 is not divisible by num_heads=8"),
        ({"qk_dim": 12}, "qk_dim=12 is not divisible by num_heads=8"),
        ({"qk_dim": 0}, "qk_dim=0"),
        ({"qk_scale": -1}, "qk_scale=-1"),
        ({"n_win": 0}, "n_win=0"),
        ({"topk": 0}, "topk=0"),
        ({"topk": -1}, "topk=-1"),
        ({"kv_per_win": 0}, "kv_per_win=0"),
        ({"kv_downsample_ratio": 0}, "kv_downsample_ratio=0"),
        ({"kv_downsample_kernel": 0}, "kv_downsample_kernel=0"),
        ({"kv_downsample_mode": "mean"}, "kv_downsample_mode='mean'.*'fracpool'"),
        ({"param_attention": "none"}, "param_attention='none'"),
        ({"diff_routing": True}, "diff_routing=True needs soft_routing=True"),
        ({"param_routing": True}, "param_routing=True needs diff_routing=True"),
        ({"param_routing": True, "soft_routing": True}, "param_routing=True needs diff_routing=True"),
        ({"side_dwconv": 2}, "side_dwconv=2"),
        ({"auto_pad": "yes"}, "auto_pad='yes'"),
        ({"mask_pad": 2}, "mask_pad=2"),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BiFormer(**{"channels": 16} | arguments)


def test_no_auto_pad_refuses_maps_that_windows_do_not_divide() -> None:
    layer = BiFormer(8, 2, 2, auto_pad=False)
    assert layer(torch.randn(1, 8, 4, 6)).shape == (1, 8, 4, 6)
    with pytest.raises(ValueError, match="map 4x5 is not divisible by n_win=2"):
        layer(torch.randn(1, 8, 4, 5))
