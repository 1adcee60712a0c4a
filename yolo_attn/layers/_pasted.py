"""Code pasted from elsewhere calls the width, and other arguments, by other names, and has them in another order."""

from __future__ import annotations

import functools
import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import ArgumentError, nearest
from ._orders import ORDERS, TWO_WIDTHS, Order

Init = TypeVar("Init", bound=Callable[..., None])

# What other versions of these layers call the width they read, and the width they give, which is the same.
_TAKEN = (
    "c c1 c_in ch ch_in channel cin dim dim_in embed_dim feature features gate_channel gate_channels in_c in_ch "
    "in_chan in_channel in_channels in_chs in_dim in_features in_planes in_size inc inchannel inchannels inp inplanes "
    "input_channel input_channels input_dim n_channels n_dims num_channels num_features"
)
_GIVEN = (
    "c2 c_out ch_out cout dim_out ouc oup out_c out_ch out_channel out_channels out_chs out_dim out_planes outc "
    "outchannel outplanes output_channel output_channels output_dim planes"
)
WIDTHS = frozenset((*_TAKEN.split(), *_GIVEN.split()))

# Each line is one thing; a layer calls it by one of the words.
_SAME = (
    "reduction ratio reduction_ratio reduce_ratio reduce r rate channelAttention_reduce squeeze_ratio",
    "num_heads heads n_heads nheads n_head num_head head_num nhead head head_count",
    "kernel_size kernel kernels kernel_sizes k_size ksize ks k spatial_kernel spatial_kernel_size kernelsize",
    "dilation dia_val dilation_val dilate d",
    "groups group G g n_groups num_groups factor",
    "n_win num_win num_windows n_windows n_regions",
    "topk top_k",
    "e_lambda lambda_ lambd lamb lam",
    "grouped group",
    "window_size win_size ws",
    "qk_scale scale",
    "attn_drop attn_dropout attn_drop_ratio dropout drop",
    "proj_drop proj_dropout dropout drop",
    "qkv_bias bias",
    "side_dwconv dwconv lepe_kernel",
    "recurrence recurrent R",
    "L min_channels",
    "h_kernel_size v_kernel_size kernel_size kernel k",
    "local_size pool_size",
    "reconstruct use_reconstruct",
)
_NEEDED_NOWHERE = {
    "act": "its activations are fixed",
    "act_cfg": "its activations are fixed",
    "act_layer": "its activations are fixed",
    "attn_backend": "it has one computation",
    "fmap_size": "it takes maps of any size",
    "fuse_bn": "it does nothing in the authors' code",
    "head_dim": "the width of a head is channels // heads",
    "height": "it takes maps of any size",
    "inplace": "it never writes to its input",
    "input_resolution": "it takes maps of any size",
    "n_head_channels": "the width of a head is channels // n_heads",
    "norm_cfg": "its norms are fixed",
    "norm_layer": "its norms are fixed",
    "pool_types": "it takes the maximum and the mean",
    "pos_emb": "it has no position term",
    "resolution": "it takes maps of any size",
    "share": "it has one computation",
    "stage_idx": "it does nothing in the authors' code",
    "width": "it takes maps of any size",
}
_OF_ONE: dict[str, dict[str, str]] = {
    "CBAM": {"no_spatial": "the spatial gate is always there"},
    "CloAttention": dict.fromkeys(
        ("key_channels", "value_channels", "head_count"), "it is not that EfficientAttention"
    ),
    "GC": dict.fromkeys(("reduction", "reduction_ratio", "r"), "it takes the inverse, 'ratio': 1/16 for 16"),
    "Shuffle": {"reduction": "it does nothing in the copies that have it"},
    "Triplet": {
        **dict.fromkeys(("reduction", "reduction_ratio"), "it does nothing in the versions that have it"),
        "kernel_size": "its kernels are 7x7",
    },
    **{
        name: {"kernel_size": "it does nothing in the authors' code", "stride": "the layer keeps the size of its map"}
        for name in ("PSA_p", "PSA_s")
    },
}


class Bound(int):
    """A width behind which the arguments stand in our own order, whatever they look like."""


def meant(layer: str, key: str, arguments: Sequence[str]) -> str:
    """Say what a keyword that a layer does not have is here: ``"; did you mean 'x'?"``, why there is none, or ``""``.

    Args:
        layer: YAML name of the layer.
        key: The keyword.
        arguments: What the layer takes besides its width.
    """
    if why := _OF_ONE.get(layer, {}).get(key):
        return f"; {why}"
    groups = [group for group in map(str.split, _SAME) if key in group]
    found = dict.fromkeys(argument for group in groups for argument in arguments if argument in group)
    if found:
        return f"; did you mean {' or '.join(map(repr, found))}?"
    return f"; {_NEEDED_NOWHERE[key]}" if key in _NEEDED_NOWHERE else nearest(key, arguments)


def find_order(layer: str, given: Sequence[Any], width: Any, is_twice: bool, in_row: bool = False) -> Order | None:
    """Return the order of another class that positional arguments stand in, if they can be meant in no other.

    Args:
        layer: YAML name of the layer.
        given: The positional arguments behind the width.
        width: The width.
        is_twice: Whether the width was given twice, as what is read and what is given.
        in_row: Whether they stand in a row, where a width in front is no matter of course.
    """
    orders = ORDERS.get(layer, ())
    return next((o for o in orders if (in_row or not o.in_rows_only) and o.fits(given, width, is_twice)), None)


def ours(layer: str, order: Order, given: Sequence[Any], arguments: Sequence[str], name: str = "") -> dict[str, Any]:
    """Return the arguments that stand in another class's order, under our names.

    Args:
        layer: YAML name of the layer.
        order: The order.
        given: The arguments.
        arguments: What the layer takes besides its width.
        name: What the user calls the layer.

    Raises:
        ArgumentError: If the layer has not got all of them.
    """
    pairs = dict(zip(order.arguments, given, strict=False))
    known = {key: value for key, value in pairs.items() if key in arguments}
    extra = [key for key in pairs if key not in known and key not in order.unused]
    if not extra:
        return {**order.implied, **known}
    first = f" takes {arguments[0]} first and" if arguments else ""
    if [*known] == [*arguments[: len(known)]]:
        write = f"[{', '.join(map(str, known.values())) or arguments[0]}]"
    else:
        write = written(known)
    raise ArgumentError(
        f"{name or layer}{first} needs no {' and '.join(extra)}; {[*given]} looks like {order.usage}: write {write}"
    )


def doubt(
    layer: str, given: Sequence[Any], width: Any, is_twice: bool, arguments: Sequence[str], name: str = ""
) -> str:
    """Say which other order arguments that are read in ours can be meant in; nothing if in none.

    Args:
        layer: YAML name of the layer.
        given: The positional arguments behind the width.
        width: The width.
        is_twice: Whether the width was given twice.
        arguments: What the layer takes besides its width.
        name: What the user calls the layer, if that is known.
    """
    named = [o for o in ORDERS.get(layer, ()) if name in o.may_be_under or (o.may_be_under and not name)]
    orders = [o for o in named if o.may_be(given, width, is_twice)]
    if not orders:
        return ""
    if not given:
        return f"if {orders[0].usage} is meant, write {written(orders[0].implied)}"
    own, other = (written(dict(zip(order, given, strict=False))) for order in (arguments, orders[0].arguments))
    return f"{', '.join(map(str, given))} is read as {own}; in {orders[0].usage} it is {other}: say which is meant"


def written(arguments: Mapping[str, Any]) -> str:
    """Return keyword arguments as a row has them."""
    return json.dumps(dict(arguments), default=str).replace('"', "")


def read(
    layer: str, arguments: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any], gathers: bool = False
) -> tuple[list[Any], dict[str, Any]]:
    """Return a call's positional and keyword arguments in our order and under our names, the width first.

    Args:
        layer: YAML name of the layer.
        arguments: What its constructor takes, the width first.
        args: The positional arguments.
        kwargs: The keyword arguments.
        gathers: Whether it takes other keywords too.

    Raises:
        ValueError: If the width is given twice and differs.
        ArgumentError: If there is an argument that the layer has not got, or no width.
    """
    first, *rest = arguments
    given, keywords = _widths_to_one(layer, arguments, args, kwargs)
    usage = f"{layer}({', '.join(arguments)})"
    for key in keywords:
        if key not in arguments and not gathers:
            raise ArgumentError(f"{usage} has no argument {key!r}{meant(layer, key, rest)}")
    if not given:
        raise ArgumentError(f"{usage} needs {first!r}, the width of its map")
    width, *behind = given
    behind, keywords = reordered(layer, rest, width, behind, keywords)
    if len(behind) > len(rest):
        raise ArgumentError(
            f"{usage} takes at most {len(arguments)} arguments; got {[width, *behind]}{two_widths(layer)}"
        )
    return [width, *behind], keywords


def two_widths(layer: str) -> str:
    """Say that a layer whose authors call it with two widths has but one; nothing of another."""
    return f"; {TWO_WIDTHS[layer]} is meant for two equal widths" if layer in TWO_WIDTHS else ""


def reordered(
    layer: str, arguments: Sequence[str], width: Any, given: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call behind the width in our order, those of another class's order by keyword.

    Args:
        layer: YAML name of the layer.
        arguments: What the layer takes besides its width.
        width: The width.
        given: The positional arguments behind it.
        keywords: The keyword arguments.

    Raises:
        ArgumentError: If they stand in another class's order and the layer has not got all of them.
    """
    is_twice = layer in TWO_WIDTHS and bool(given) and _is_width(given[0], width)
    behind = [*given[is_twice:]]
    order = find_order(layer, behind, width, is_twice)
    if order is not None:
        found = ours(layer, order, behind, arguments)
        if keywords.keys().isdisjoint(found):
            return [], {**found, **keywords}
    if len(behind) != 1 and (text := doubt(layer, behind, width, is_twice, arguments)):
        warnings.warn(f"{layer}: {text}", stacklevel=4)
    return behind, dict(keywords)


def _widths_to_one(
    layer: str, arguments: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments with the width in front, and keywords without any."""
    first = arguments[0]
    pasted = {key: value for key, value in kwargs.items() if key in WIDTHS and key not in arguments}
    keywords = {key: value for key, value in kwargs.items() if key not in pasted}
    if args and first in keywords:
        raise ArgumentError(f"{layer}: {first!r} is given twice, as {args[0]!r} and as {keywords[first]!r}")
    own = [*args[:1], *([keywords.pop(first)] if first in keywords else [])]
    widths = [*own, *pasted.values()]
    if any(width != widths[0] for width in widths):
        said = ", ".join(f"{key}={value!r}" for key, value in pasted.items())
        raise ValueError(f"{layer} keeps the width of its map: {said} and {first}={widths[0]!r} differ")
    return [*widths[:1], *args[1:]], keywords


def _is_width(value: Any, width: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == width


def takes_pasted(original: Init) -> Init:
    """Let the constructor of a layer take calls as pasted code has them, or say what to write instead."""
    layer = original.__qualname__.partition(".")[0]
    parameters = [*inspect.signature(original).parameters.values()][1:]
    arguments = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    gathers = len(arguments) < len(parameters)  # such a constructor judges keywords itself

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if args and type(args[0]) is Bound:
            return original(self, int(args[0]), *args[1:], **kwargs)
        given, keywords = read(layer, arguments, args, kwargs, gathers)
        return original(self, *given, **keywords)

    return __init__  # type: ignore[return-value]
