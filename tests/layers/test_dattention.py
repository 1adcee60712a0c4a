"""DAttention where no golden file exists: thin maps, tables at other sizes, no_off, dropout, precision, export."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch.nn import functional as F

from yolo_attn.layers import DAttention, dattention

# Sums of a few hundred products in float64.
EXACT = 1e-11

TERMS = {
    "none": {"use_pe": False},
    "dwc": {},
    "fixed": {"dwc_pe": False, "fixed_pe": True, "q_size": [3, 4]},
    "log": {"dwc_pe": False, "log_cpb": True},
    "table": {"dwc_pe": False, "q_size": 3},
}


def error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    return ((actual.detach().double() - reference.double()).abs().max() / reference.abs().max()).item()


def build(channels: int = 8, **arguments: object) -> DAttention:
    torch.manual_seed(0)
    layer = DAttention(channels, **{"n_heads": 4, "n_groups": 2} | arguments).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return layer


def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """The image (C, H, W) at -1..1, centres of the border pixels at the ends, zero outside."""
    _, h, w = image.shape
    row, column = (y + 1) / 2 * (h - 1), (x + 1) / 2 * (w - 1)
    total = torch.zeros_like(image[:, 0, 0])
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < h and 0 <= c < w:
                total = total + (1 - abs(row - r)) * (1 - abs(column - c)) * image[:, r, c]
    return total


def coordinate(j: int, n: int, shift: float) -> float:
    return 0.0 if n == 1 else 2 * (j + shift) / (n - 1) - 1


def stretch(new: int, old: int) -> torch.Tensor:
    """The matrix that resizes an axis linearly with its ends kept."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for j in range(new):
        at = j * (old - 1) / (new - 1) if new > 1 else 0.0
        for k in range(old):
            matrix[j, k] = max(0.0, 1 - abs(at - k))
    return matrix


def sampling(layer: DAttention, x: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, dict, tuple[int, int]]:
    """The samples (C, S) of one image, every group's positions, and the size of the sample grid."""
    g, width, t, kernel = layer.n_groups, layer.channels // layer.n_groups, layer.stride, layer.ksize
    if layer.no_off:
        h, w = (min(t, n) for n in x.shape[1:])
        rows, columns = (range(0, n - k + 1, k) for n, k in zip(x.shape[1:], (h, w), strict=True))
        cells = [x[:, r : r + h, c : c + w].mean((1, 2)) for r in rows for c in columns]
        return torch.stack(cells, 1), {}, (len(rows), len(columns))
    points, samples = {}, []
    for m in range(g):
        z = q[m * width : (m + 1) * width][None]
        if kernel == t:
            z = F.pad(z, (0, max(0, kernel - z.shape[3]), 0, max(0, kernel - z.shape[2])))
        conv, norm, _, last = layer.conv_offset
        z = F.conv2d(z, conv.weight, conv.bias, t, 0 if kernel == t else kernel // 2, groups=width)[0]
        z = F.layer_norm(z.permute(1, 2, 0), (width,), norm.norm.weight, norm.norm.bias)
        z = z * 0.5 * (1 + torch.erf(z / 2**0.5)) @ last.weight[:, :, 0, 0].T  # (Hk, Wk, 2)
        size = z.shape[:2]
        points[m] = []
        for j in range(size[0]):
            for k in range(size[1]):
                offset = z[j, k]
                if layer.offset_range_factor >= 0:
                    steps = torch.tensor([1 / max(n - 1, 1) for n in size], dtype=torch.float64)
                    offset = offset.tanh() * layer.offset_range_factor * steps
                at = [coordinate(a, n, 0.5) + o for a, n, o in zip((j, k), size, offset.tolist(), strict=True)]
                points[m].append([min(max(a, -1), 1) for a in at] if layer.offset_range_factor < 0 else at)
        group = x[m * width : (m + 1) * width]
        samples.append(torch.stack([bilinear(group, *at) for at in points[m]], 1))
    return torch.cat(samples), points, tuple(size)


def logit_bias(layer: DAttention, points: dict, size: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """The bias (heads, N, S), one number at a time but for the fixed table."""
    (h, w), per = size, layer.n_heads // layer.n_groups
    bias = torch.zeros(layer.n_heads, h * w, grid[0] * grid[1], dtype=torch.float64)
    if layer.term == "fixed":
        native = tuple(n // layer.stride for n in layer.q_size)
        queries = torch.kron(stretch(h, layer.q_size[0]), stretch(w, layer.q_size[1]))
        keys = torch.kron(stretch(grid[0], native[0]), stretch(grid[1], native[1]))
        return queries @ layer.rpe_table @ keys.T
    if layer.term not in ("log", "table"):
        return bias
    for m in range(layer.n_groups):
        for n in range(h * w):
            query = coordinate(n // w, h, 0), coordinate(n % w, w, 0)
            for s, at in enumerate(points[m]):
                d = torch.tensor([a - b for a, b in zip(query, at, strict=True)], dtype=torch.float64)
                if layer.term == "log":
                    values = layer.rpe_table(d.sign() * torch.log2(1 + 4 * d.abs()) / 3)
                else:
                    values = bilinear(layer.rpe_table[m * per : m * per + per], *(d / 2).tolist())
                bias[m * per : m * per + per, n, s] = values
    return bias


@torch.no_grad()
def direct(layer: DAttention, x: torch.Tensor) -> torch.Tensor:
    q, outputs = layer.proj_q(x), []
    for image, query in zip(x, q, strict=True):
        samples, points, grid = sampling(layer, image, query)
        k, v = (conv.weight[:, :, 0, 0] @ samples + conv.bias[:, None] for conv in (layer.proj_k, layer.proj_v))
        bias = logit_bias(layer, points, image.shape[1:], grid)
        heads = zip(*(t.flatten(1).chunk(layer.n_heads) for t in (query, k, v)), bias, strict=True)
        o = torch.cat([c @ ((a.T @ b) / a.shape[0] ** 0.5 + d).softmax(1).T for a, b, c, d in heads])
        o = o.reshape(image.shape)
        outputs.append(o + layer.rpe_table(query[None])[0] if layer.term == "dwc" else o)
    return layer.proj_out(torch.stack(outputs))


@pytest.mark.parametrize("factor", [2, -1])
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (3, 4)])
def test_thin_maps_follow_the_formula(term: str, factor: int, size: tuple[int, int]) -> None:
    layer = build(offset_range_factor=factor, **TERMS[term])
    assert layer.term == ("" if term == "none" else term)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    assert error(layer(x), direct(layer, x)) < EXACT


@pytest.mark.parametrize("grid", [{"stride": 2}, {"stride": 2, "ksize": 2}, {"stride": 3, "ksize": 5}, {"ksize": 4}])
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("size", [(5, 2), (1, 3)])
def test_other_sample_grids_follow_the_formula(term: str, grid: dict, size: tuple[int, int]) -> None:
    layer = build(**{**TERMS[term], **grid})
    x = torch.randn(1, 8, *size, dtype=torch.float64)
    assert error(layer(x), direct(layer, x)) < EXACT


@pytest.mark.parametrize("arguments", [{}, {"use_pe": False}, {"dwc_pe": False}, {"dwc_pe": False, "fixed_pe": True}])
@pytest.mark.parametrize(("size", "stride"), [((5, 7), 2), ((4, 4), 1), ((1, 3), 2)])
def test_no_off_has_no_position_term(arguments: dict, size: tuple[int, int], stride: int) -> None:
    layer = build(no_off=True, stride=stride, **arguments)
    assert not [key for key in layer.state_dict() if key.startswith("rpe_table")]
    assert not any(p.requires_grad for p in layer.conv_offset.parameters())
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    y = layer(x)
    assert error(y, direct(layer, x)) < EXACT
    y.sum().backward()
    assert all((p.grad is None) is name.startswith("conv_offset") for name, p in layer.named_parameters())


def test_fixed_table_is_untouched_at_its_own_size() -> None:
    layer = build(**TERMS["fixed"])
    assert torch.equal(layer._resized_table((3, 4), (3, 4), torch.float64)[0], layer.rpe_table)


def test_tables_have_a_default_size() -> None:
    assert DAttention(8, 4, 2, dwc_pe=False).rpe_table.shape == (4, 39, 39)
    fixed = DAttention(8, 4, 2, dwc_pe=False, fixed_pe=True, stride=4)
    assert fixed.rpe_table.shape == (4, 400, 25)
    # A truncated normal of std 0.01: the standard error of this estimate is 0.5 % and less.
    assert 0.0095 < fixed.rpe_table.std() < 0.0105


def test_log_term_comes_after_fixed_and_dwc() -> None:
    assert DAttention(8, 4, 2, log_cpb=True, fixed_pe=True).term == "dwc"
    assert DAttention(8, 4, 2, log_cpb=True, fixed_pe=True, dwc_pe=False, q_size=2).term == "fixed"


@pytest.mark.parametrize("term", TERMS)
def test_dropout_acts_in_train_mode_only_and_lets_gradients_through(term: str) -> None:
    layer, plain = build(attn_drop=0.5, proj_drop=0.1, **TERMS[term]), build(**TERMS[term])
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(layer(x), plain(x))
    layer.train()
    y = layer(x)
    assert not torch.equal(y, layer(x))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_zero_offset_range_leaves_the_offset_network_in_the_graph() -> None:
    layer = build(offset_range_factor=0)
    layer(torch.randn(1, 8, 4, 4, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.conv_offset.parameters())


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_positions_stay_in_float32(mode: str) -> None:
    # With offsets of zero the positions are known exactly; bfloat16 would put column 79 of 80 at a multiple of 2^-8.
    layer = DAttention(8, 4, 2, offset_range_factor=0)
    q = torch.randn(1, 8, 2, 80)
    if mode == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            points = layer._positions(q.bfloat16(), torch.float32)
    else:
        points = layer.bfloat16()._positions(q.bfloat16(), torch.float32)
    expected = torch.tensor([coordinate(j, 80, 0.5) for j in range(80)])
    assert points.dtype == torch.float32 and (points[0, 1, 0] - expected).abs().max() < 1e-6  # float32 rounding


def test_half_precision_samples_at_float32_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, sample = [], F.grid_sample
    monkeypatch.setattr(F, "grid_sample", lambda x, grid, **k: seen.append(grid.dtype) or sample(x, grid, **k))
    for arguments in ({}, TERMS["table"]):
        build(**arguments).bfloat16()(torch.randn(1, 8, 4, 4).bfloat16())
    assert seen == 3 * [torch.float32]  # the map twice, the table once


@pytest.mark.parametrize("term", TERMS)
def test_half_precision_follows_float32(term: str) -> None:
    layer = build(**TERMS[term])
    for parameter in layer.parameters():
        parameter.data.mul_(0.4)
    layer.bfloat16()
    x = torch.randn(2, 8, 6, 5).bfloat16()
    exact = copy.deepcopy(layer).double()(x.double())
    y = layer(x)
    assert y.dtype == torch.bfloat16
    # Each of some ten roundings on the way costs up to 2^-9 of an intermediate, which offsets can enlarge.
    assert error(y, exact) < 5e-2
    with torch.autocast("cpu", torch.bfloat16):
        assert error(layer.float()(x.float()), exact) < 5e-2


def test_layout_of_the_input_is_kept_and_changes_nothing() -> None:
    for term in TERMS:
        layer, x = build(**TERMS[term]), torch.randn(2, 8, 5, 6, dtype=torch.float64)
        y, last = layer(x), layer(x.contiguous(memory_format=torch.channels_last))
        assert y.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last), term
        assert error(last, y) < EXACT, term


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", [*TERMS.values(), {"no_off": True, "stride": 2}, {"stride": 2}], ids=str)
def test_export_follows_the_map_size(arguments: dict) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    layer, file = build(**arguments).float(), io.BytesIO()
    axes = {name: {0: "b", 2: "h", 3: "w"} for name in "xy"}
    torch.onnx.export(
        layer, (torch.randn(2, 8, 3, 4),), file, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
        dynamic_axes=axes,
    )  # fmt: skip
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for size in ((3, 4), (6, 5), (9, 2)):
        x = torch.randn(1, 8, *size)
        (y,) = session.run(None, {"x": x.numpy()})
        # float32 on both sides; a sample that rounds across a pixel border moves by that rounding only.
        assert error(torch.from_numpy(y), layer(x)) < 2e-5, size


def test_pickles_with_every_term() -> None:
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    for arguments in TERMS.values():
        layer = build(**arguments)
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 20}, "channels=20 is not divisible by n_heads=8"),
        ({"channels": 8, "n_groups": 3}, "channels=8 is not divisible by n_groups=3"),
        ({"n_heads": 2, "dwc_pe": False}, "n_heads=2 is not divisible by n_groups=4"),
        ({"n_heads": 2, "dwc_pe": False, "log_cpb": True}, "n_heads=2 is not divisible by n_groups=4"),
        ({"n_heads": [20, 20]}, r"n_heads=\[20, 20\].*q_size, is the last"),
        ({"n_heads": (20, 20)}, r"n_heads=\(20, 20\).*q_size, is the last"),
        ({"kv_size": [10, 10]}, r"kv_size=\[10, 10\] has no effect; remove it"),
        ({"q_size": [20]}, r"q_size=\[20\]"),
        ({"q_size": "20"}, "q_size='20'"),
        ({"q_size": [20, 0]}, "q_size=0"),
        ({"q_size": True}, "q_size=True"),
        ({"stride": 0}, "stride=0"),
        ({"ksize": 0}, "ksize=0"),
        ({"offset_range_factor": "4"}, "offset_range_factor='4'"),
        ({"attn_drop": 1}, "attn_drop=1"),
        ({"use_pe": None}, "use_pe=None"),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DAttention(**{"channels": 16} | arguments)


def test_groups_need_not_divide_heads_without_a_grouped_term() -> None:
    x = torch.randn(1, 16, 4, 4)
    for arguments in ({}, {"use_pe": False}, {"no_off": True, "dwc_pe": False}):
        assert DAttention(16, 2, 4, **arguments)(x).shape == x.shape


@pytest.mark.parametrize("term", ["log", "table"])
def test_a_map_worked_through_in_rows_is_the_same_map(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build(**TERMS[term])
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for chunk in (2**22, 6000, 1):  # all rows, some (in the log case), one at a time
        monkeypatch.setattr(dattention, "CHUNK", chunk)
        y = layer(x)
        with torch.no_grad():
            assert error(layer(x), y.detach()) < EXACT
        parameters = [p for p in layer.parameters() if p.requires_grad]
        results.append([y, *torch.autograd.grad((y * y.detach().sin()).sum(), [x, *parameters])])
    for other in results[1:]:
        zero = 1e-10  # the key bias: its gradient is rounding noise
        assert all((a - b).abs().max() < EXACT * b.abs().max() + zero for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("term", ["log", "table"])
def test_a_large_map_keeps_nothing_of_its_position_term(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dattention, "CHUNK", 1)
    saved: list[int] = []
    layer, x = build(**TERMS[term]), torch.randn(1, 8, 12, 12, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert max(saved) < 144 * 144 / 4  # four heads of 144 x 144 biases otherwise


def test_dropout_is_the_same_when_rows_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dattention, "CHUNK", 1)
    layer, grads = build(attn_drop=0.5, **TERMS["log"]).train(), []
    v = layer.proj_v.weight
    for step in (0.0, 1e-3, -1e-3):
        torch.manual_seed(5)
        with torch.no_grad():
            v[0, 0] += step
        loss = layer(torch.ones(1, 8, 4, 4, dtype=torch.float64)).sum()
        grads.append((loss.item(), torch.autograd.grad(loss, v)[0][0, 0].item()))
        with torch.no_grad():
            v[0, 0] -= step
    slope = (grads[1][0] - grads[2][0]) / 2e-3  # the output is linear in v
    assert abs(slope - grads[0][1]) < 1e-6 * abs(slope)


def test_hooks_see_every_module_called() -> None:
    layer = build()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    expected = layer(x)
    for name, module in layer.named_modules():
        seen: list[str] = []
        with module.register_forward_hook(lambda *_, name=name, seen=seen: seen.append(name)):
            assert error(layer(x), expected) < EXACT
        assert seen == [name]
