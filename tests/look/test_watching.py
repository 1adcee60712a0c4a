"""What is read off each layer is what the layer does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_attn import fast, registry
from yolo_attn.contract.checks import features, open_gates
from yolo_attn.errors import ContractError
from yolo_attn.layers.biformer import BiFormer
from yolo_attn.look.gates import numbers
from yolo_attn.look.panels import Bars, Layer, Map, Points, Reading
from yolo_attn.look.reading import read
from yolo_attn.look.scene import Frame
from yolo_attn.look.watching import Applied, Attention, Record, watch
from yolo_attn.look.words import sentences
from yolo_attn.registry import TABLE, TIMM_SLUGS

WIDTH, SIZE = 32, (9, 13)
# 9 x 13 cells of 32 pixels; the image fills rows 1 to 7 of the cells.
FRAME = Frame((224, 416), (288, 416), (224, 416), top=32)
PIXEL = (176.0, 80.0)
CELL = (3, 5)
LAYERS = pytest.mark.parametrize("layer", (*TABLE, *TIMM_SLUGS), ids=lambda row: row.slug if row.given else row.name)

# What is more than gates on the input, or hides its factor: everything else is x times its gates.
NOT_GATES = {
    "DoubleAttention",
    "BiFormer",
    "MHSA",
    "MHSALePE",
    "CloAttention",
    "CrissCross",
    "CoT",
    "CPCA",
    "DAttention",
}
NOT_GATES |= {"Shuffle", "SK", "GC", "timm-gca", "timm-splat", "timm-lambda", "timm-nl"}
# What a reader has to find in the picture.
KINDS = {
    "SE": [Bars], "ECA": [Bars], "CBAM": [Bars, Map], "BAM": [Map, Bars, Map], "CoordAtt": [Map, Bars],
    "PolarizedSeq": [Bars, Map, Map], "Polarized": [Bars, Map, Map], "EMA": [Map, Map, Bars],
    "LSK": [Map, Bars, Map, Map], "SK": [Bars, Map], "CPCA": [Bars, Map], "DAttention": [Points], "BiFormer": [Map],
    "MHSA": [Map], "CrissCross": [Map], "CloAttention": [Map, Bars, Map], "GC": [Map], "timm-nl": [Map],
    "CoT": [Map, Bars],
}  # fmt: skip


def build(layer: registry.Layer, width: int = WIDTH) -> nn.Module:
    torch.manual_seed(0)
    return open_gates(registry.create(layer.name, width, *layer.given)).eval()


def name_of(layer: registry.Layer) -> str:
    return layer.slug if layer.given else layer.name


def look_at(module: nn.Module, x: Tensor, cell: tuple[int, int] = CELL) -> Reading:
    pixel = (cell[1] * 32 + 16.0, cell[0] * 32 + 16.0 - 32)
    return read(module, x, Layer(3, type(module).__name__), FRAME, pixel)


def product(record: Record) -> Tensor:
    """Return the product of the gates between input and output."""
    factor = torch.ones_like(record.x[0])
    for gate in record.of(Applied):
        if not gate.inside:
            values = torch.from_numpy(numbers(gate.gate, gate.onto))
            factor = factor * values.repeat_interleave(len(factor) // len(values), 0)
    return factor


def only(reading: Reading, kind: type) -> np.ndarray:
    (found,) = [panel for panel in reading.panels if isinstance(panel, kind)]
    return found


@LAYERS
@torch.no_grad()
def test_every_layer_has_a_reading_and_is_left_as_it_was(layer: registry.Layer) -> None:
    module, x = build(layer), features(1, WIDTH, *SIZE)
    before, state = module(x), {k: v.clone() for k, v in module.state_dict().items()}
    reading = look_at(module, x)
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert len(reading.panels) > 0 and len(sentences(reading)) == len(reading.panels) + 1
    assert reading.change == pytest.approx(float((before - x)[0, :, 1:8].norm() / x[0, :, 1:8].norm()), rel=1e-4)
    for panel in reading.panels:
        values = panel.values[np.isfinite(panel.values)]
        assert values.size and (isinstance(panel, Map) or values.size == panel.values.size)
        assert all(np.isfinite(raw).all() for raw in panel.raw.values())
        assert "nan" not in panel.words
    if name_of(layer) in KINDS:
        assert [type(panel) for panel in reading.panels] == KINDS[name_of(layer)]


@LAYERS
@torch.no_grad()
def test_the_gates_shown_are_all_that_a_gating_layer_does(layer: registry.Layer) -> None:
    module, x = build(layer), features(1, WIDTH, *SIZE)
    record, reading = watch(module, x), look_at(module, x)
    assert reading.exact is (name_of(layer) not in NOT_GATES)
    torch.testing.assert_close(record.y, module(x), rtol=1e-5, atol=1e-6)
    if reading.exact:
        factor = product(record) + (layer.name == "BAM")  # whose gate is added to 1
        torch.testing.assert_close(x[0] * factor, module(x)[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(reading.raw["factor"], factor, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_panels_of_cbam_are_its_gates() -> None:
    module, x = build(registry.find("CBAM")), features(1, WIDTH, *SIZE)
    reading, y = look_at(module, x), module(x)[0].numpy()
    bars, gate = only(reading, Bars).values[0], only(reading, Map).values
    np.testing.assert_allclose(x[0].numpy() * bars[:, None, None] * gate, y, rtol=1e-4, atol=1e-6)
    assert only(reading, Map).title == "spatial gate" and only(reading, Bars).title == "channel gate"


@torch.no_grad()
def test_the_strips_of_coordatt_make_one_map() -> None:
    module, x = build(registry.find("CoordAtt")), features(1, WIDTH, *SIZE)
    panel = only(look_at(module, x), Map)
    both = panel.raw["row_gate"] * panel.raw["column_gate"]
    np.testing.assert_allclose(x[0].numpy() * both, module(x)[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(panel.values, both.mean(0), rtol=1e-5)


@torch.no_grad()
def test_branches_and_groups() -> None:
    x = features(1, WIDTH, *SIZE)
    shares = look_at(build(registry.find("SK")), x).panels[0]
    assert shares.values.shape == (4, WIDTH) and shares.title == "channel shares of 4 branches"
    np.testing.assert_allclose(shares.values.sum(0), 1, rtol=1e-5)
    splat = look_at(build(next(row for row in TIMM_SLUGS if row.slug == "timm-splat")), x).panels[0]
    np.testing.assert_allclose(splat.values.sum(0), 1, rtol=1e-5)
    assert splat.values.shape == (2, WIDTH)
    titles = [panel.title for panel in look_at(build(registry.find("GAM")), x).panels]
    assert titles[0] == "gate 1, mean of 32 channels" and titles[2] == "gate 2, mean of 32 channels"
    assert titles[-1] == "all gates together, mean of 32 channels"
    ema = look_at(build(registry.find("EMA")), x).panels
    assert ema[0].title == "spatial gate, mean of 8 groups" and ema[1].title.startswith("inside: row times column")


class Opaque(nn.Module):
    """An own layer whose gate no mode sees, for it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.jit.script(_gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x)


def _gate(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(1, keepdim=True))


class Own(nn.Module):
    """SE as people write it, and a hand-written swish before it, which is no gate of the map."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.fc, self.in_place = nn.Linear(WIDTH, WIDTH), in_place

    def forward(self, x: Tensor) -> Tensor:
        t = F.adaptive_avg_pool2d(x * torch.sigmoid(x), 1)
        t = t * torch.sigmoid(t + 3)  # not the map
        y = torch.sigmoid(self.fc(t.view(1, WIDTH))).view(1, WIDTH, 1, 1)
        return x.mul_(y) if self.in_place else x * y.expand_as(x)


class Heads(nn.Module):
    """Attention of all pixels by PyTorch's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)
        y = self.attention(t, t, t, need_weights=False)[0]
        return x + y.transpose(1, 2).reshape(x.shape)


@torch.no_grad()
def test_what_cannot_be_seen_is_measured() -> None:
    x = features(1, WIDTH, *SIZE)
    reading = look_at(Opaque(), x)
    (panel,) = reading.panels
    assert panel.title == "measured factor of each pixel" and not reading.exact
    np.testing.assert_allclose(panel.values, torch.sigmoid(x.mean(1))[0], rtol=1e-4)
    assert "0% of the output is not the input times that" in panel.words


@pytest.mark.parametrize("in_place", [False, True])
@torch.no_grad()
def test_a_layer_of_ones_own(in_place: bool) -> None:
    torch.manual_seed(0)
    module, x = Own(in_place), features(1, WIDTH, *SIZE)
    before = x.clone()
    reading = look_at(module, x)
    assert torch.equal(x, before) and reading.exact
    (panel,) = reading.panels
    assert panel.title == "channel gate"
    np.testing.assert_allclose(x[0].numpy() * panel.values[0][:, None, None], module(x.clone())[0], rtol=1e-5)


@pytest.mark.parametrize(
    "scale", [lambda x: torch.mul(x, other=0.5), lambda x: x * np.float32(0.5)], ids=["named", "numpy"]
)
def test_a_number_may_be_multiplied_in_any_form(scale: Callable[[Tensor], Tensor]) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return scale(x)

    assert look_at(Scaled(), features(1, WIDTH, *SIZE)).change == pytest.approx(0.5)


class Halves(nn.Module):
    """The mean of a channel gate and a pixel gate; what is on while it runs."""

    def forward(self, x: Tensor) -> Tensor:
        self.is_fast = fast._is_on.get()
        return x * ((x.mean((2, 3), keepdim=True).sigmoid() + x.mean(1, keepdim=True).sigmoid()) / 2)


@torch.no_grad()
def test_gates_that_are_added_are_shown_one_by_one() -> None:
    module, x = Halves(), features(1, WIDTH, *SIZE)
    reading = look_at(module, x)
    assert [panel.title for panel in reading.panels] == ["added channel gate", "added spatial gate"]
    both = reading.panels[0].values.reshape(-1, 1, 1) + reading.panels[1].values
    np.testing.assert_allclose(reading.raw["factor"], both / 2, rtol=1e-5)
    assert module.is_fast is False


@torch.no_grad()
def test_means_over_the_image_leave_the_padding_out() -> None:
    module, x = build(registry.find("SimAM")), features(1, WIDTH, *SIZE)
    x[:, :, [0, 8]] *= 50
    reading = look_at(module, x)
    shown, single = only(reading, Bars).values[0], only(reading, Map).raw["values"]
    np.testing.assert_allclose(shown, single[:, 1:8].mean((1, 2)), rtol=1e-5)


@torch.no_grad()
def test_weights_of_groups_are_not_those_of_pixels() -> None:
    module = build(registry.find("EMA"))  # eight groups, and a softmax over the channels of each
    assert not any("weights" in panel.title for panel in look_at(module, features(1, WIDTH, 2, 4)).panels)


@torch.no_grad()
def test_pytorchs_own_multi_head_attention() -> None:
    torch.manual_seed(0)
    module, x = Heads().eval(), features(1, WIDTH, *SIZE)
    t = x.flatten(2).transpose(1, 2)
    weights = module.attention(t, t, t, average_attn_weights=False)[1][0, :, CELL[0] * 13 + CELL[1]]
    panel = only(look_at(module, x), Map)
    np.testing.assert_allclose(panel.raw["weights"].reshape(4, -1), weights, rtol=1e-4)
    torch.testing.assert_close(watch(module, x).y, module(x))


@torch.no_grad()
def test_as_many_channels_as_pixels_are_no_pixels() -> None:
    x = features(1, 64, 8, 8)
    panels = look_at(build(registry.find("SCSA"), 64), x).panels
    assert [panel.title for panel in panels if "weights" in panel.title] == []


@torch.no_grad()
def test_values_that_are_no_numbers_are_an_error() -> None:
    x = features(1, WIDTH, *SIZE)
    x[0, 0, 0, 0] = math.nan
    with pytest.raises(ContractError, match="row 3, CBAM: its map holds values that are no numbers"):
        look_at(build(registry.find("CBAM")), x)


@torch.no_grad()
def test_the_row_of_a_fused_attention_with_masks() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    for mask in (None, torch.randn(5, 7), torch.rand(2, 1, 5, 7) > 0.3, torch.randn(2, 3, 5, 7)):
        event = Attention(q, k, v, mask, 0.7)
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=0.7)
        found = torch.einsum("hm,hmd->hd", event.row(2, 1), v[1])
        torch.testing.assert_close(found, y[1, :, 2], rtol=1e-4, atol=1e-5)


def test_biformer_needs_no_topk_where_all_windows_are_seen() -> None:
    module, x = BiFormer(WIDTH, n_win=3, num_heads=4, topk=9).eval(), features(1, WIDTH, *SIZE)
    panel = only(look_at(module, x), Map)
    assert panel.title == "weights of the pixel in 9 of 9 windows" and np.isfinite(panel.values).all()
