"""The weights shown for a pixel are those that make the layer's output there."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolo_attn import registry
from yolo_attn.contract.checks import features, open_gates
from yolo_attn.layers.biformer import BiFormer
from yolo_attn.layers.clo_attention import CloAttention
from yolo_attn.layers.criss_cross import CrissCross
from yolo_attn.layers.dattention import DAttention
from yolo_attn.layers.double_attention import DoubleAttention
from yolo_attn.layers.mhsa import MHSA
from yolo_attn.look.panels import Layer, Map, Panel, Points
from yolo_attn.look.reading import read
from yolo_attn.look.scene import Frame

WIDTH, H, W = 32, 9, 13
FRAME = Frame((H * 8, W * 8), (H * 8, W * 8), (H * 8, W * 8))
CELLS = pytest.mark.parametrize("cell", [(3, 5), (0, 0), (8, 12)], ids=str)


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def panel_of(module: nn.Module, x: Tensor, cell: tuple[int, int], kind: type = Map) -> Panel:
    pixel = (cell[1] * 8 + 4.0, cell[0] * 8 + 4.0)
    panels = read(module, x, Layer(1, "layer"), FRAME, pixel).panels
    return next(p for p in panels if isinstance(p, kind) and re.match(r"weights of the pixel\b", p.title))


def mixed(weights: np.ndarray, values: Tensor) -> Tensor:
    """Return each head's mixture of the values ``(C, M)``, side by side."""
    heads = values.reshape(len(weights), -1, values.shape[1])
    return torch.einsum("hm,hdm->hd", torch.from_numpy(weights), heads).flatten()


@CELLS
def test_mhsa(cell: tuple[int, int]) -> None:
    module, x = MHSA(WIDTH, 4).eval(), features(1, WIDTH, H, W)
    panel = panel_of(module, x, cell)
    weights = panel.raw["weights"].reshape(4, -1)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    values = module.qkv(x.flatten(2).transpose(1, 2))[0, :, 2 * WIDTH :].T
    torch.testing.assert_close(module.proj(mixed(weights, values)), module(x)[0, :, cell[0], cell[1]])
    np.testing.assert_allclose(panel.values, weights.mean(0).reshape(H, W))
    assert panel.of_pixel and panel.area == (0, 0, W, H)


@CELLS
def test_crisscross(cell: tuple[int, int]) -> None:
    module, x = open_gates(CrissCross(WIDTH)).eval(), features(1, WIDTH, H, W)
    panel = panel_of(module, x, cell)
    shown = np.argwhere(np.isfinite(panel.values))
    assert {tuple(c) for c in shown} == {(y, cell[1]) for y in range(H)} | {(cell[0], x) for x in range(W)}
    assert np.nansum(panel.values) == pytest.approx(1)
    weights = torch.from_numpy(np.nan_to_num(panel.values)).float()
    found = (module.value_conv(x)[0] * weights).sum((1, 2)) * module.gamma + x[0, :, cell[0], cell[1]]
    torch.testing.assert_close(found, module(x)[0, :, cell[0], cell[1]], rtol=1e-4, atol=1e-5)


@CELLS
def test_double_attention(cell: tuple[int, int]) -> None:
    module, x = DoubleAttention(WIDTH, 16, 12).eval(), features(1, WIDTH, H, W)
    weights = torch.from_numpy(panel_of(module, x, cell).raw["weights"])
    assert float(weights.sum()) == pytest.approx(1, rel=1e-5)
    mean = (x[0] * weights).sum((1, 2))[None, :, None, None]
    found = module.conv_reconstruct(module.convA(mean))[0, :, 0, 0]
    torch.testing.assert_close(found, module(x)[0, :, cell[0], cell[1]], rtol=1e-4, atol=1e-5)


def test_timms_non_local() -> None:
    module, x = open_gates(registry.create("TimmAttention", WIDTH, "nl")).eval(), features(1, WIDTH, H, W)
    layer, (row, column) = module.layer, (3, 5)
    weights = torch.from_numpy(panel_of(module, x, (3, 5)).raw["weights"][0])
    mean = (layer.g(x)[0] * weights).sum((1, 2))
    y = layer.norm(layer.z(mean[None, :, None, None]))[0, :, 0, 0] + x[0, :, row, column]
    torch.testing.assert_close(y, module(x)[0, :, row, column], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"stride": 2, "ksize": 5}, {"dwc_pe": False, "log_cpb": True}], ids=str)
def test_the_points_of_dattention(arguments: dict) -> None:
    module, x, cell = DAttention(WIDTH, 8, 4, **arguments).eval(), features(1, WIDTH, H, W), (3, 5)
    panel = panel_of(module, x, cell, Points)
    grid = module._positions(module.proj_q(x), torch.float32)  # rows and columns from -1 to 1
    rows, columns = ((axis + 1) / 2 * (n - 1) + 0.5 for axis, n in ((grid[:, 0], H), (grid[:, 1], W)))
    np.testing.assert_allclose(panel.raw["points"], torch.stack([columns, rows], -1).flatten(1, 2), atol=1e-5)
    assert len(panel.places) == 4 * rows[0].numel() and panel.values.sum() == pytest.approx(1, rel=1e-5)
    weights = panel.raw["weights"]
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    if module.term == "dwc":
        values = module.proj_v(module._sample(x, grid))[0].flatten(1)
        attended = mixed(weights, values)[:, None, None] + module.rpe_table(module.proj_q(x))[0, :, 3:4, 5:6]
        torch.testing.assert_close(module.proj_out(attended[None])[0, :, 0, 0], module(x)[0, :, 3, 5])


def test_dattention_without_offsets_has_squares() -> None:
    module, x = DAttention(WIDTH, 8, 4, no_off=True, stride=3).eval(), features(1, WIDTH, H, W)
    panel = panel_of(module, x, (3, 5))
    assert panel.values.shape == (3, 4) and panel.area == (0, 0, 12, 9)


@pytest.mark.parametrize("pool", ["floor", "ceil"])
def test_the_squares_of_cloattention(pool: str) -> None:
    module = CloAttention(WIDTH, 8, (4, 4), (5,), 4, pool=pool).eval()
    x, cell = features(1, WIDTH, H, W), (3, 5)
    panel = panel_of(module, x, cell)
    rows, columns = (2, 3) if pool == "floor" else (3, 4)
    assert panel.values.shape == (rows, columns) and panel.area == (0, 0, columns * 4, rows * 4)
    v = module.global_kv(module._pool(x)).chunk(2, 1)[1]
    weights = panel.raw["weights"].reshape(4, -1)
    branches = zip(module.qkvs, module.convs, module.act_blocks, strict=True)
    local = torch.cat([module._local(conv(qkv(x)), act["act_block"]) for qkv, conv, act in branches], 1)
    joined = torch.cat([local[0, :, cell[0], cell[1]], mixed(weights, v[0].flatten(1))])
    found = module.proj(joined[None, :, None, None])[0, :, 0, 0]
    torch.testing.assert_close(found, module(x)[0, :, cell[0], cell[1]], rtol=1e-4, atol=1e-5)


BIFORMERS = [
    {"n_win": 3},
    {"n_win": 3, "topk": 2, "mask_pad": True},
    {"n_win": 3, "topk": 9},
    {"n_win": 3, "topk": 9, "soft_routing": True},
    {"n_win": 2, "topk": 2, "kv_downsample_mode": "ada_avgpool", "kv_per_win": 2},
]


@CELLS
@pytest.mark.parametrize("arguments", BIFORMERS, ids=str)
def test_the_windows_of_biformer(arguments: dict, cell: tuple[int, int]) -> None:
    module, x = BiFormer(WIDTH, num_heads=4, **arguments).eval(), features(1, WIDTH, H, W)
    n = module.n_win
    h, w = -(-H // n), -(-W // n)
    own, token = cell[0] // h * n + cell[1] // w, cell[0] % h * w + cell[1] % w
    _, _, index, attention = module(x, ret_attn_mask=True)
    panel = panel_of(module, x, cell)
    windows, weights = panel.raw["windows"], panel.raw["weights"]
    assert panel.raw["own_window"] == own and set(windows) == set(index[0, own].tolist())
    expected = attention.reshape(n * n, 4, h * w, len(windows), -1)[own, :, token]
    order = [index[0, own].tolist().index(window) for window in windows]
    np.testing.assert_allclose(weights, expected[:, order], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-5)
    seen = np.isfinite(panel.values)
    rows, columns = np.indices((H, W))
    assert (seen == np.isin(rows // h * n + columns // w, windows)).all()
    top, left = own // n * h, own % n * w
    assert panel.boxes[0] == (left, top, left + w, top + h) and len(panel.boxes) == len(windows) + 1
    if expected.shape[-1] == h * w:  # each token has its own place
        whole = np.zeros((n * h, n * w))
        for window, values in zip(windows, weights.mean(0), strict=True):
            y, a = window // n * h, window % n * w
            whole[y : y + h, a : a + w] = values.reshape(h, w)
        np.testing.assert_allclose(np.nan_to_num(panel.values), whole[:H, :W], rtol=1e-5)


def test_biformer_on_a_map_smaller_than_its_windows() -> None:
    module, x = BiFormer(WIDTH, num_heads=4, topk=40).eval(), features(1, WIDTH, 2, 2)
    seen = 0
    for seed in range(8):
        torch.manual_seed(seed)
        module.topk = 1
        module.qkv["qkv"].reset_parameters()
        index = module(x, ret_attn_mask=True)[2][0, 0, 0]
        frame = Frame((16, 16), (16, 16), (16, 16))
        (panel,) = read(module, x, Layer(1, "BiFormer"), frame, (4.0, 4.0)).panels
        is_filling = int(index) // 7 > 1 or int(index) % 7 > 1  # only four of the 49 windows hold a pixel
        assert np.isnan(panel.values).all() == is_filling
        assert panel.words.endswith("; 100% lies on what fills up the windows") == is_filling
        seen += is_filling
    assert seen > 0
