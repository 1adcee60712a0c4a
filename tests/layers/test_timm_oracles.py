"""Layers that timm has too: with its weights ours compute what its own do, or a test says what differs."""

from __future__ import annotations

import pytest
import torch
from oracles import LIMIT, distance, features, randomise
from timm.layers import create_attn
from torch import nn

from yolo_attn.layers import CBAM, ECA, ELA, GC, SE, CoordAtt

pytestmark = pytest.mark.usefixtures("form")
MAP = (13, 11)


def timm(name: str, width: int, **options: object) -> nn.Module:
    return randomise(create_attn(name, width, **options))


def given(ours: nn.Module, names: dict[str, str], theirs: nn.Module) -> nn.Module:
    """Return our layer with timm's weights: ours -> theirs, by the beginnings of keys."""
    state, wanted = theirs.state_dict(), {}
    for key, value in ours.double().state_dict().items():
        start = next(start for start in sorted(names, key=len, reverse=True) if key.startswith(start))
        wanted[key] = state[names[start] + key[len(start) :]].reshape(value.shape)
    ours.load_state_dict(wanted)
    return ours


@pytest.mark.parametrize("train", [True, False])
def test_ours_agree_with_timms(train: bool) -> None:
    pairs = []
    se = timm("se", 48, rd_channels=12)
    pairs.append((given(SE(48, 4, bias=True), {"fc.0": "fc1", "fc.2": "fc2"}, se), se))
    for width in (8, 64, 144):
        eca = timm("eca", width)
        pairs.append((given(ECA(width), {"conv": "conv"}, eca), eca))
    coord = timm("coord", 48, rd_channels=12, bias=True)
    pairs.append((given(CoordAtt(48, 4), {"": ""}, coord), coord))
    for name, fusion in (("gc", "channel_mul"), ("gca", "channel_add")):
        gc = timm(name, 48)
        mlp = f"mlp_{fusion.removeprefix('channel_').replace('mul', 'scale')}"
        names = {f"{fusion}_conv.{i}": f"{mlp}.{part}" for i, part in ((0, "fc1"), (1, "norm"), (3, "fc2"))}
        ours = given(GC(48, 1 / 8, fusion_types=[fusion]), {**names, "conv_mask": "conv_attn"}, gc)
        getattr(ours, f"{fusion}_conv")[1].eps = 1e-6  # timm's
        pairs.append((ours, gc))
    cbam = timm("cbam", 48)
    channel = {"channel_attention.se_block.0": "channel.fc1", "channel_attention.se_block.2": "channel.fc2"}
    ours = given(CBAM(48, spatial_bn=True), {**channel, "spatial_attention": "spatial.conv"}, cbam)
    with torch.no_grad():  # ours puts the maximum first, timm the mean
        ours.spatial_attention.conv.weight.copy_(cbam.spatial.conv.conv.weight.flip(1))
    pairs.append((ours, cbam))
    for ours, theirs in pairs:
        for size in (MAP, (1, 7), (4, 1)):
            x = features(2, ours.channels, *size)
            assert distance(ours.train(train)(x), theirs.train(train)(x)) < LIMIT, type(ours).__name__


def test_timms_ela_is_another_function() -> None:
    theirs = timm("ela", 16)
    ours = ELA(16, num_groups=1).double()
    with torch.no_grad():  # one convolution and norm for both axes, as ours has
        for key in ("conv", "norm"):
            getattr(theirs, f"{key}_w").load_state_dict(
                {
                    k: v.transpose(2, 3) if v.dim() == 4 else v
                    for k, v in getattr(theirs, f"{key}_h").state_dict().items()
                }
            )
        ours.conv.weight.copy_(theirs.conv_h.weight[..., 0])
        ours.gn.load_state_dict(theirs.norm_h.state_dict())
    x = features(2, 16, *MAP)
    assert distance(ours(x), theirs(x)) > 0.01  # timm has a SiLU before the sigmoid
    theirs.act = nn.Identity()
    assert distance(ours(x), theirs(x)) < LIMIT


def test_timms_eca_has_three_taps_where_ours_has_one() -> None:
    assert (ECA(4).kernel_size, timm("eca", 4).conv.kernel_size) == (1, (3,))
