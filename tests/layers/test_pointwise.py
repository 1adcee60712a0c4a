"""The control of studies: a formula of three lines, parameters as counted, and no place among the layers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import yolo_attn
from yolo_attn import listing
from yolo_attn.layers import Pointwise


@pytest.mark.parametrize(("channels", "hidden"), [(8, 1), (16, 5), (3, 40)])
def test_it_is_its_formula(channels: int, hidden: int) -> None:
    torch.manual_seed(0)
    layer, x = Pointwise(channels, hidden).eval(), torch.randn(2, channels, 5, 4)
    with torch.no_grad():
        layer.bn.running_mean.uniform_(-1, 1)
        layer.bn.running_var.uniform_(0.5, 2)
        inner = F.linear(x.movedim(1, -1), layer.conv1.weight[..., 0, 0])
        inner = F.silu((inner - layer.bn.running_mean) / (layer.bn.running_var + layer.bn.eps).sqrt())
        expected = x + F.linear(inner, layer.conv2.weight[..., 0, 0]).movedim(-1, 1)
        torch.testing.assert_close(layer(x), expected)
    assert sum(p.numel() for p in layer.parameters()) == hidden * (2 * channels + 2)


def test_lists_of_layers_do_not_show_it_but_rows_and_create_know_it() -> None:
    assert "Pointwise" not in yolo_attn.list_layers() and "Pointwise" not in listing.text()
    assert yolo_attn.create("Pointwise", 8, hidden=3).hidden == 3
