"""What is known of the layers that ``timm.layers.create_attn`` builds; neither timm nor torch is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import mistyped, nearest
from . import _checks as check

# Timm's name of each layer that does what a layer here must do, and what it is.
NAMES: dict[str, str] = {
    "se": "Squeeze-and-Excitation",
    "ese": "Effective Squeeze-and-Excitation",
    "eca": "Efficient Channel Attention",
    "ecam": "ECA of two convolutions",
    "ceca": "ECA around a circle",
    "ge": "Gather-Excite, without parameters",
    "gc": "Global Context, multiplied",
    "gca": "Global Context, added",
    "cbam": "CBAM with a batch norm",
    "lcbam": "CBAM of one pooled map",
    "coord": "Coordinate Attention",
    "scoord": "Coordinate Attention of linear layers",
    "ela": "Efficient Local Attention, another formula than ELA's",
    "strip": "Strip Attention",
    "splat": "Split Attention (ResNeSt)",
    "lambda": "Lambda Layer",
    "nl": "Non-Local",
}
REFUSED: dict[str, str] = {
    "sk": "its batch norm over pooled values cannot train on one image",
    "bottleneck": "its position tables fit one map size alone",
    "halo": "the sides of a map must be multiples of 8, and it does not export",
    "bat": "the sides of a map must be multiples of 7, and it does not export",
}
# What is said in place of a default of timm's that cannot be built: ``ge`` with an MLP is a TypeError in timm 1.0.31.
SAID: dict[str, dict[str, Any]] = {"ge": {"use_mlp": False}}
STARTS_AS_IDENTITY = frozenset({"nl"})  # by a norm whose weight starts at 0
# Timm takes these and does nothing with them.
_OF_AN_MLP = ("rd_ratio", "rd_channels", "rd_divisor", "act_layer")
UNUSED: dict[str, tuple[str, ...]] = {
    "eca": ("kernel_size", *_OF_AN_MLP),
    "ecam": ("kernel_size",),
    "ceca": ("kernel_size",),
    "ge": ("norm_layer", *_OF_AN_MLP),
    "gc": ("init_last_zero",),
    "gca": ("init_last_zero", "gate_layer"),
    "lcbam": ("gate_layer",),
    "lambda": ("qk_ratio",),
}

ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "swish", "mish", "gelu"),
    *("sigmoid", "tanh", "hard_sigmoid", "hardsigmoid", "hard_swish", "hardswish", "identity"),
)
NORMS = ("batchnorm2d", "groupnorm1", "layernorm2d")


def _even(name: str, value: Any) -> int:
    if check.integer(name, value, minimum=0) % 2:
        raise ValueError(f"{name}={value!r} must be an even integer >= 0")
    return int(value)


def _one_of(*words: str) -> Callable[[str, Any], str]:
    return lambda name, value: check.choice(name, value, words)


# What timm's constructors take that may be said here, and how it is checked.
OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("rd_ratio", "se_factor", "qk_ratio", "gamma"), check.positive),
    **dict.fromkeys(("rd_channels", "rd_divisor", "stride", "dilation", "groups", "radix"), check.integer),
    **dict.fromkeys(("num_heads", "dim_head", "out_channels", "dim_out"), check.integer),
    **dict.fromkeys(("kernel_size", "spatial_kernel_size", "r"), check.odd),
    **dict.fromkeys(("bias", "mlp_bias", "qkv_bias", "use_attn", "use_conv", "use_mlp", "use_scale"), check.flag),
    **dict.fromkeys(("add_maxpool", "has_skip", "fuse_add", "fuse_scale", "init_last_zero"), check.flag),
    **dict.fromkeys(("act_layer", "gate_layer"), _one_of(*ACTIVATIONS)),
    "norm_layer": _one_of(*NORMS),
    "beta": check.number,
    "padding": lambda name, value: check.integer(name, value, minimum=0),
    "extent": _even,
}
_WITHHELD = {
    "device": "the model decides where its layers are",
    "dtype": "the model decides in which numbers it computes",
    "feat_size": "it binds the layer to one map size",
    "extra_params": "it binds the layer to one map size",
    "drop_layer": "it takes a class, which no row can hold",
}


def timm_name(value: Any) -> str:
    """Return timm's name of a layer, in lower case, if it may be used here.

    Raises:
        ValueError: If it may not; the message says why, and which may.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"name={value!r} must be timm's name of a layer, one of {', '.join(NAMES)}")
    if wrong := why_not(value):
        raise ValueError(f"name={value!r} {wrong} Names: {', '.join(NAMES)}")
    return value.lower()


def why_not(name: str) -> str:
    """Return what is wrong with a name, as the end of a sentence about it, or "" if it may be used."""
    if name.lower() in REFUSED:
        return f"cannot be used: {REFUSED[name.lower()]}."
    if name.lower() not in NAMES:
        return f"is no layer of timm{mistyped(name, NAMES) or nearest(name, NAMES) or '.'}"
    return ""


def checked(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a layer if their values can be meant.

    Args:
        options: Keyword arguments that its constructor has.
        defaults: What it takes where they are not given. None is allowed where it is the default, and for no norm.

    Raises:
        ValueError: If one cannot be meant, or does not go with layers that take any map.
    """
    result = {}
    for key, value in options.items():
        value = check.plain(value)
        if key in _WITHHELD or key not in OPTIONS:
            raise ValueError(f"{key}={value!r} cannot be used: {_WITHHELD.get(key, 'yolo-attn does not know it')}")
        may_be_none = defaults.get(key) is None or key == "norm_layer"
        result[key] = None if value is None and may_be_none else OPTIONS[key](key, value)
    return result
