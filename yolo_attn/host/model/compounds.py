"""Names such as ``C2f_CBAM`` as a row's module: what they may mean, and what to write for each reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ... import registry
from ...blocks import HOLDERS, is_holder, with_attention
from ...table import ELSEWHERE
from ...wiring import HEADS


def explain_compound(row: Sequence[Any], index: int, host: Mapping[str, Any]) -> str:
    """Say what a module's name of a block and a layer may mean; "" if it is none.

    Args:
        row: The row.
        index: Its index.
        host: The host's modules by name.
    """
    parts = _split(row[2], host)
    if parts is None:
        return ""
    block, layer = parts
    start = f"{row[2]} is no module of Ultralytics or yolo-attn"
    if layer.lower() in ELSEWHERE:
        return f"{start}, nor is {layer} one layer{ELSEWHERE[layer.lower()]} {_place_of(block)}"
    layer, given = registry.row_of(layer)
    bare = [*row[:2], block, list(row[3]) if isinstance(row[3], (list, tuple)) else [row[3]]]
    readings = []
    if is_holder(bare):
        readings.append(
            f"{layer} inside each bottleneck, before the residual is added: {_flow(with_attention(bare, layer, given))}"
        )
    own = _flow([-1, 1, layer, given])
    if block in HEADS:
        readings.append(
            f"{layer} on the maps that {block} reads: {_flow(bare)}, and {own} after each row that it reads"
        )
    else:
        where = "after the concatenation, at the block's end" if is_holder(bare) else "at the block's end"
        after = f"{own} as row {index + 1}, and raise later numbers of rows by 1"
        readings.append(f"{layer} {where}: {_flow(bare)}, then {after}")
    readings.append(f"{layer} instead of the attention or another part of {block}: yolo-attn has no such block")
    listed = "; ".join(f"({number}) {reading}" for number, reading in enumerate(readings, start=1))
    return f"{start}, and means different things in different forks: {listed}"


def _place_of(block: str) -> str:
    """Say where a layer of ours can stand in a block of the host."""
    inside = f"inside {block}, as in [128, {{attention: CBAM}}], or " if block in HOLDERS else ""
    return f"Layers of yolo-attn go {inside}into a row of their own"


def _split(name: str, host: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the block of the host and the layer that a name is made of, in whatever order and case."""
    slugs = registry.slugs()
    blocks = {key.lower(): key for key in (*reversed([*host]), *HOLDERS) if isinstance(host.get(key), type)}
    for cut in range(1, len(name)):
        for block, layer in ((name[:cut], name[cut:]), (name[cut:], name[:cut])):
            kind, word = block.strip("_-"), layer.strip("_-").lower()
            there = kind if isinstance(host.get(kind), type) else blocks.get(kind.lower())
            if there is None:
                continue
            for known in (word, word.replace("_", "-")):
                if known in slugs:
                    return there, slugs[known].slug if slugs[known].given else slugs[known].name
                if known in ELSEWHERE:
                    return there, layer.strip("_-")
    return None


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
