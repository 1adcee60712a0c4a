"""Names such as ``C2f_CBAM`` as a row's module: what they may mean, and what to write for each reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ... import registry
from ...blocks import is_holder, with_attention
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
    bare = [*row[:2], block, list(row[3]) if isinstance(row[3], (list, tuple)) else [row[3]]]
    readings = []
    if is_holder(bare):
        readings.append(
            f"{layer} inside each bottleneck, before the residual is added: {_flow(with_attention(bare, layer))}"
        )
    if block not in HEADS:
        after = f"{_flow([-1, 1, layer, []])} as row {index + 1}, and raise later numbers of rows by 1"
        readings.append(f"{layer} after the concatenation, at the block's end: {_flow(bare)}, then {after}")
    readings.append(f"{layer} instead of the attention or another part of {block}: yolo-attn has no such block")
    listed = "; ".join(f"({number}) {reading}" for number, reading in enumerate(readings, start=1))
    return f"{row[2]} is no module of Ultralytics or yolo-attn, and means different things in different forks: {listed}"


def _split(name: str, host: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the block of the host and the layer of ours that a name is made of, in whatever order."""
    slugs = registry.slugs()
    for cut in range(1, len(name)):
        for block, layer in ((name[:cut], name[cut:]), (name[cut:], name[:cut])):
            block, word = block.strip("_-"), layer.strip("_-")
            if isinstance(host.get(block), type) and word.lower().replace("_", "-") in slugs:
                return block, slugs[word.lower().replace("_", "-")].name
    return None


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
