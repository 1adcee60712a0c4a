"""Which own layers have their names for themselves: yolo-attn's names come first, then registered ones.

After them come those of ``YOLO_ATTN_LAYERS``, then those of packages. A layer whose name is taken is left out, so that
models without it build as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence

from .plugins import Plugin, Problem, declared
from .table import POINTWISE, TABLE, TIMM, TIMM_SLUGS, Layer

# Words of model names that say where a layer is put.
_PLACES = re.compile(r"backbone|stages|neck|blocks|p[1-9]")
_holders: list[Callable[[Layer], str]] = []


def reserve(holder_of: Callable[[Layer], str]) -> None:
    """Ask ``holder_of`` too what has the name of an own layer, "" if nothing has (the host joint knows the host's)."""
    if holder_of not in _holders:
        _holders.append(holder_of)


def admitted(registered: Container[str]) -> tuple[list[Plugin], list[Problem]]:
    """Return the own layers that can be used, and the others with what stands in their way.

    Args:
        registered: Names that ``register`` gave away.
    """
    plugged, problems = declared()
    rows, left_out = [], [*problems]
    for plugin in plugged:
        reason = _in_the_way(plugin, plugged, registered)
        if reason:
            left_out.append(Problem(plugin.name, plugin.source, f"cannot be used: {reason}"))
        else:
            rows.append(plugin)
    return rows, left_out


def _in_the_way(plugin: Plugin, plugged: Sequence[Plugin], registered: Container[str]) -> str:
    for layer in (*TABLE, TIMM, *TIMM_SLUGS, POINTWISE):
        if plugin.slug in (layer.slug, *(name.lower() for name in (layer.name, *layer.aliases, *layer.pasted))):
            return f"yolo-attn's {layer.name} has the name; choose another"
    if plugin.name in registered:
        return f"register({plugin.name!r}, ...) took the name"
    if _PLACES.fullmatch(plugin.slug):
        return f"{plugin.slug!r} is a place in model names; choose another name"
    for other in plugged:
        if other is not plugin and other.slug == plugin.slug and other.is_packaged <= plugin.is_packaged:
            mend = "uninstall one of them" if other.is_packaged else "choose another name"
            return f"{other.source} has a layer {other.name} too; {mend}"
    holders = (holder_of(plugin) for holder_of in _holders)
    return next((f"{holder} has the name; choose another" for holder in holders if holder), "")
