"""MHSA, MHSALePE and CloAttention where no golden file exists: options, odd sizes, precision and refusals."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import pytest
import torch

from yolo_attn.bench.measure import saved_bytes
from yolo_attn.layers import MHSA, BiFormer, CloAttention, DAttention, MHSALePE

pytestmark = pytest.mark.usefixtures("form")

# Sums of a few hundred products in float64.
EXACT = 1e-12


def error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    return ((actual.detach().double() - reference.double()).abs().max() / reference.abs().max()).item()


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """Softmax attention on tokens (B, N, C), one head after the other."""
    parts = zip(*(t.chunk(heads, 2) for t in (q, k, v)), strict=True)
    return torch.cat([(scale * a @ b.transpose(1, 2)).softmax(-1) @ c for a, b, c in parts], 2)


def mhsa(layer: MHSA, x: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
    q, k, v = layer.qkv(tokens(x)).chunk(3, 2)
    o = attend(q, k, v, layer.num_heads, layer.scale)
    return layer.proj(o if extra is None else o + extra).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 3)])
@pytest.mark.parametrize("scale", [None, 0, 0.0, 0.3])
def test_mhsa_follows_the_formula(size: tuple[int, int], scale: float | None) -> None:
    torch.manual_seed(0)
    layer = MHSA(12, 3, True, scale).double()
    assert layer.scale == (scale or 0.5)
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    assert error(layer(x), mhsa(layer, x)) < EXACT


@pytest.mark.parametrize("lepe_on", ["x", "v"])
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_lepe_follows_the_formula(lepe_on: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = MHSALePE(12, 3, side_dwconv=3, lepe_on=lepe_on).double()
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    v = layer.qkv(tokens(x)).chunk(3, 2)[2].transpose(1, 2).reshape(x.shape)
    extra = tokens(layer.lepe(x if lepe_on == "x" else v))
    assert error(layer(x), mhsa(layer, x, extra)) < EXACT


@pytest.mark.parametrize("kernel", [0, -1])
def test_lepe_off_has_no_parameters_and_pickles(kernel: int) -> None:
    layer = MHSALePE(8, 2, side_dwconv=kernel)
    assert not [key for key in layer.state_dict() if key.startswith("lepe")]
    plain = MHSA(8, 2)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 8, 3, 4)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), plain(x))


@pytest.mark.parametrize("build", [MHSA, MHSALePE, CloAttention])
def test_dropout_acts_in_train_mode_only_and_lets_gradients_through(build: type) -> None:
    torch.manual_seed(0)
    layer, plain = build(16, attn_drop=0.5, proj_drop=0.2), build(16)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 16, 6, 6, requires_grad=True)
    assert torch.equal(layer.eval()(x), plain(x))
    y = layer.train()(x)
    assert not torch.equal(y, layer(x)) and 0.1 < (y == 0).float().mean() < 0.3
    y.sum().backward()
    assert x.grad.isfinite().all() and all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("build", [MHSA, MHSALePE, CloAttention])
def test_layout_of_the_input_is_kept_and_changes_nothing(build: type) -> None:
    torch.manual_seed(0)
    layer, x = build(16), torch.randn(2, 16, 5, 6)
    y, last = layer(x), layer(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    assert error(last, y) < 1e-5  # other order of summation in float32


def test_large_products_do_not_overflow_in_half_precision() -> None:
    torch.manual_seed(0)
    layer = MHSA(64, 1).half()
    with torch.no_grad():
        layer.qkv.weight.mul_(120)  # raw products beyond 65504, the largest half
    x = torch.randn(1, 64, 6, 6).half()
    q, k, _ = layer.qkv(tokens(x)).double().chunk(3, 2)
    assert (q @ k.transpose(1, 2)).abs().max() > 65504
    assert layer(x).isfinite().all()


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (MHSA, {"channels": 20}, "channels=20 is not divisible by num_heads=8"),
        (MHSA, {"num_heads": "8"}, "num_heads='8'"),
        (MHSA, {"qkv_bias": 2}, "qkv_bias=2"),
        (MHSA, {"qk_scale": -1.0}, r"qk_scale=-1\.0"),
        (MHSA, {"qk_scale": "a"}, "qk_scale='a'"),
        (MHSA, {"attn_drop": 1.0}, r"attn_drop=1\.0"),
        (MHSALePE, {"proj_drop": -0.1}, r"proj_drop=-0\.1"),
        (MHSALePE, {"side_dwconv": 4}, "side_dwconv=4"),
        (MHSALePE, {"lepe_on": "q"}, "lepe_on='q'"),
        (CloAttention, {"channels": 20}, "channels=20 is not divisible by num_heads=8"),
        (CloAttention, {"group_split": [4, 2]}, r"group_split=\[4, 2\] must sum to num_heads=8"),
        (CloAttention, {"group_split": [4, 2, 2]}, r"group_split=\[4, 2, 2\] with kernel_sizes=\(5,\)"),
        (CloAttention, {"group_split": [9, -1]}, "group_split=-1"),
        (CloAttention, {"group_split": 8}, "group_split=8"),
        (CloAttention, {"kernel_sizes": [4]}, "kernel_sizes=4"),
        (CloAttention, {"kernel_sizes": 5}, "kernel_sizes=5"),
        (CloAttention, {"window_size": 0}, "window_size=0"),
        (CloAttention, {"pool": "round"}, "pool='round'"),
    ],
)
def test_refusals(build: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"channels": 16} | arguments)


@pytest.mark.parametrize(
    "build",
    [lambda: MHSA(64), lambda: MHSALePE(64), lambda: DAttention(64), lambda: BiFormer(64, 2, qk_dim=32)],
    ids=["MHSA", "MHSALePE", "DAttention", "BiFormer of two widths"],
)
def test_an_eighth_of_the_weights_is_kept_at_most(build: Callable[[], torch.nn.Module]) -> None:
    side = 40
    kept = saved_bytes(build(), torch.randn(1, 64, side, side, requires_grad=True))
    assert kept < 8 * side**4 * 4 / 8  # 8 heads, float32


def clo(layer: CloAttention, x: torch.Tensor) -> torch.Tensor:
    """The layer branch by branch, pooling cell by cell."""
    parts, used = [], 0
    for heads in layer.group_split[:-1]:
        if heads:
            q, k, v = layer.convs[used](layer.qkvs[used](x)).chunk(3, 1)
            first, _, second = layer.act_blocks[used]["act_block"]
            z = first(q * k)
            parts.append(torch.tanh(layer.scale * second(z * z.sigmoid())) * v)
            used += 1
    assert used == len(layer.qkvs)
    if layer.group_split[-1]:
        wh, ww = (min(layer.window_size, n) for n in x.shape[2:])
        stops = [n - w + 1 if layer.pool == "floor" else n for n, w in zip(x.shape[2:], (wh, ww), strict=True)]
        cells = [x[:, :, r : r + wh, c : c + ww] for r in range(0, stops[0], wh) for c in range(0, stops[1], ww)]
        pooled = torch.stack([cell.mean((2, 3)) for cell in cells], 2)[..., None]
        k, v = layer.global_kv(pooled).chunk(2, 1)
        o = attend(tokens(layer.global_q(x)), tokens(k), tokens(v), layer.group_split[-1], layer.scale)
        parts.append(o.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))
    return layer.proj(torch.cat(parts, 1))


@pytest.mark.parametrize("pool", ["floor", "ceil"])
@pytest.mark.parametrize(
    ("split", "kernels", "window"),
    [([2, 2], [3], 4), ([0, 2, 2], [3, 5], 2), ([0, 4], [3], 4), ([4, 0], [3], 4), ([4], [], 3), ([2, 2], [3], 1)],
)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 6), (5, 9), (1, 7)])
def test_clo_follows_the_formula(pool: str, split: list, kernels: list, window: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = CloAttention(16, 4, split, kernels, window, pool=pool).double()
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    assert error(layer(x), clo(layer, x)) < EXACT


def test_clo_numbers_only_branches_with_heads() -> None:
    layer = CloAttention(16, 8, [0, 2, 6], [3, 5])
    assert layer.convs[0].kernel_size == (5, 5)
    assert {key.split(".")[1] for key in layer.state_dict() if key.startswith(("qkvs", "convs", "act"))} == {"0"}


@pytest.mark.parametrize("split", [[4, 0], [0, 4]], ids=["local", "global"])
def test_clo_drops_attention_in_both_kinds_of_heads(split: list) -> None:
    torch.manual_seed(0)
    layer, x = CloAttention(16, 4, split, attn_drop=0.5), torch.randn(1, 16, 6, 6)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.filterwarnings("ignore")
def test_clo_ceil_exports_with_the_mean_of_the_remainder() -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    layer, file = CloAttention(8, 2, [0, 2], [3], pool="ceil").eval(), io.BytesIO()
    axes = {"x": {2: "h", 3: "w"}, "y": {2: "h", 3: "w"}}
    torch.onnx.export(
        layer, (torch.randn(1, 8, 8, 8),), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes
    )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for size in ((8, 8), (9, 6), (5, 11)):
        x = torch.randn(1, 8, *size)
        (y,) = session.run(None, {"x": x.numpy()})
        assert error(torch.from_numpy(y), layer(x)) < 1e-5, size  # float32 on both sides
