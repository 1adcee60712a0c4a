"""Orders in which other classes of a layer's name have their arguments, and how to tell from what is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Positional arguments behind the width, the width, whether it was given twice -> yes or no.
Test = Callable[[Sequence[Any], Any, bool], bool]


@dataclass(frozen=True)
class Order:
    """How another class of a layer's name has its arguments behind the width, and what its calls look like.

    Arguments that we do not have are refused, except those in ``unused``; ``implied`` is what that class does without
    an argument that says so. ``may_be`` tells rows that can be meant in this order and are read in ours, under the
    names ``may_be_under``.
    """

    usage: str
    arguments: tuple[str, ...]
    fits: Test
    unused: tuple[str, ...] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)
    in_rows_only: bool = False
    may_be: Test = lambda given, width, is_twice: True
    may_be_under: tuple[str, ...] = ()


def _order(usage: str, arguments: str, fits: Test, **more: Any) -> Order:
    return Order(usage, tuple(arguments.split()), fits, **more)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_ints(given: Sequence[Any]) -> bool:
    return all(map(_is_int, given))


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and _are_ints(value)


def _is_one_int(given: Sequence[Any], width: Any, is_twice: bool) -> bool:
    return len(given) == 1 and _is_int(given[0])


def _is_botnets(given: Sequence[Any], width: Any, is_twice: bool) -> bool:
    ranges: tuple[Any, ...] = (range(2, 4096), range(2, 4096), range(1, 4096), (False, True))
    pairs = zip(given, ranges, strict=False)
    return 2 <= len(given) <= 4 and all(isinstance(value, int) and value in meant for value, meant in pairs)


def _is_heads_first(given: Sequence[Any], width: Any, is_twice: bool) -> bool:
    """Tell BiFormer's official order by what cannot be: heads that do not divide the width."""
    if len(given) < 2 or not _are_ints([width, *given[:2]]) or min(given[:2]) < 1:
        return False
    heads, windows = given[:2]
    return width % heads == 0 and width % windows != 0


def _may_be_heads_first(given: Sequence[Any], width: Any, is_twice: bool) -> bool:
    if not given or not _are_ints([width, *given[:2]]) or given[0] < 1 or width % given[0]:
        return False
    return len(given) == 1 or given[0] != given[1]


_HEADS_FIRST = "the official BiLevelRoutingAttention(dim, num_heads=8, n_win=7, ...)"
_IN_BIFORMER = (
    "num_heads n_win qk_dim qk_scale kv_per_win kv_downsample_ratio kv_downsample_kernel kv_downsample_mode topk "
    "param_attention param_routing diff_routing soft_routing side_dwconv auto_pad"
)
_IN_DATTENTION = "attn_drop proj_drop stride offset_range_factor use_pe dwc_pe no_off fixed_pe ksize log_cpb kv_size"
_GAMS = "GAM_Attention(c1, c2, group=True, rate=4) of YOLO forks"
_OLD_GAM = "GAM_Attention(in_channels, out_channels, rate=4), which has no sigmoid in its channel gate"
_PSA = _order(
    "the authors' (inplanes, planes, kernel_size=1, stride=1)", "kernel_size stride",
    lambda given, width, is_twice: bool(given) and all(value == 1 for value in given), unused=("kernel_size", "stride"),
)  # fmt: skip

ORDERS: dict[str, tuple[Order, ...]] = {
    "BiFormer": (_order(_HEADS_FIRST, _IN_BIFORMER, _is_heads_first, may_be=_may_be_heads_first,
               may_be_under=("BiLevelRoutingAttention", "BRA")),),
    "CBAM": (
        _order(
            "Ultralytics' own CBAM(c1, kernel_size=7)", "kernel_size",
            lambda given, width, is_twice: len(given) == 1 and _is_int(given[0]) and given[0] in (3, 7),
            in_rows_only=True,
        ),
        _order(
            "the authors' CBAM(gate_channels, reduction_ratio=16, pool_types=['avg', 'max'], no_spatial=False)",
            "reduction pool_types no_spatial",
            lambda given, width, is_twice: len(given) > 1 and isinstance(given[1], (list, tuple)),
        ),
    ),
    "CloAttention": (
        _order(
            "EfficientAttention(in_channels, key_channels, head_count, value_channels), another layer",
            "key_channels head_count value_channels",
            lambda given, width, is_twice: len(given) == 3 and _are_ints(given),
        ),
    ),
    "CoordAtt": (
        _order(
            "CA_Block(channel, h, w, reduction=16)", "height width reduction",
            lambda given, width, is_twice: len(given) == 3 and _are_ints(given),
        ),
    ),
    "DAttention": (
        _order(
            "the authors' DAttentionBaseline(q_size, kv_size, n_heads, n_head_channels, n_groups, ...)",
            f"q_size kv_size n_heads n_head_channels n_groups {_IN_DATTENTION}",
            lambda given, width, is_twice: len(given) > 3 and _is_size(given[0]) and _is_size(given[1]),
        ),
        _order(
            "the copies' DAttention(channel, q_size, n_heads=8, n_groups=4, ...)",
            f"q_size n_heads n_groups {_IN_DATTENTION}",
            lambda given, width, is_twice: bool(given) and _is_size(given[0]),
        ),
    ),
    "ECA": (
        _order(
            "EfficientChannelAttention(c, b=1, gamma=2)", "b gamma",
            lambda given, width, is_twice: [*given] == [1, 2], may_be=_is_one_int,
            may_be_under=("EfficientChannelAttention", "eca_block", "ECA_Block", "ECABlock"),
        ),
        _order("ECALayer(channel, gamma=2, b=1)", "gamma b", lambda given, width, is_twice: [*given] == [2, 1]),
    ),
    "EMA": (
        _order(
            "the official EMA(channels, c2=None, factor=32)", "c2 factor",
            lambda given, width, is_twice: len(given) in (1, 2) and given[0] is None, unused=("c2",),
        ),
    ),
    "GAM": (
        _order(
            _GAMS, "grouped rate",
            lambda given, width, is_twice: 1 <= len(given) <= 2 and isinstance(given[0], bool)
            and _are_ints(given[1:]),
            implied={"grouped": True, "channel_sigmoid": False},
            may_be=lambda given, width, is_twice: is_twice and not given,
            may_be_under=("GAM", "GAM_Attention", "GAMAttention"),
        ),
        _order(
            _OLD_GAM, "rate", lambda given, width, is_twice: is_twice and len(given) == 1 and _is_int(given[0]),
            implied={"channel_sigmoid": False},
        ),
    ),
    "MHSA": (
        _order("BoTNet's MHSA(n_dims, width=14, height=14, heads=4)", "width height num_heads pos_emb", _is_botnets),
    ),
    "PSA_p": (_PSA,),
    "PSA_s": (_PSA,),
    "SCSA": (
        _order(
            "the authors' SCSA(dim, head_num, ..., qkv_bias, fuse_bn, norm_cfg, act_cfg, ...)",
            "head_num window_size group_kernel_sizes qkv_bias fuse_bn norm_cfg act_cfg down_sample_mode "
            "attn_drop_ratio gate_layer",
            lambda given, width, is_twice: len(given) > 4 and isinstance(given[4], (bool, Mapping)),
        ),
    ),
    "Shuffle": (
        _order(
            "the copies' ShuffleAttention(channel, reduction=16, G=8)", "reduction groups",
            lambda given, width, is_twice: len(given) == 2 and _are_ints(given), may_be=_is_one_int,
            may_be_under=("ShuffleAttention",),
        ),
    ),
    "SimAM": (
        _order(
            "the official simam_module(channels=None, e_lambda=1e-4)", "channels e_lambda",
            lambda given, width, is_twice: len(given) == 2, unused=("channels",),
        ),
    ),
    "Triplet": (
        _order(
            "the authors' TripletAttention(gate_channels, reduction_ratio=16, pool_types, no_spatial=False)",
            "reduction pool_types no_spatial",
            lambda given, width, is_twice: bool(given) and _is_int(given[0]) and given[0] > 1,
        ),
    ),
}  # fmt: skip

# Layers that their authors call with what is read and what is given: a second number that is the width is one.
TWO_WIDTHS: dict[str, str] = {
    "CoordAtt": "the official CoordAtt(inp, oup, reduction=32)",
    "EMA": "the official EMA(channels, c2, factor=32)",
    "GAM": "GAM_Attention(in_channels, out_channels, rate=4)",
    "PSA_p": "the authors' (inplanes, planes)",
    "PSA_s": "the authors' (inplanes, planes)",
}
