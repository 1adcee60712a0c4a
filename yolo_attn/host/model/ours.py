"""What is ours in a built model: attention layers, gated or stacked or not, and where their rows place them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ... import registry
from ...blocks import attention_of
from ...errors import YoloAttnError
from ...graft import find_rows, remove
from ...layers.gated import Gated
from ...wiring import Graph
from . import blocks


def is_attention(layer: nn.Module) -> bool:
    """Return whether a layer of a model is one of ours, gated or stacked or not."""
    return blocks.is_layer(repeats(layer)[0])


def has_attention(layer: nn.Module) -> bool:
    """Return whether a layer of a model is one of ours or a block with one inside."""
    return is_attention(layer) or bool(blocks.find_attention(layer))


def repeats(layer: nn.Module) -> list[nn.Module]:
    """Return the repeats of a row, one for most."""
    return list(layer) if type(layer) is nn.Sequential and len(layer) else [layer]


def kind_of(layer: nn.Module) -> tuple[str, int]:
    """Return the name of a layer's class, without its gate and as our table has it, and its number of repeats."""
    parts = [blocks.ungated(part) for part in repeats(layer)]
    name = type(parts[0]).__name__
    known = registry.names().get(name)
    return known.name if known else name, len(parts)


def plain_state(layer: nn.Module, inside: bool = True) -> dict[str, Any]:
    """Return the state of a layer without gates, under the keys it has without them and without attention inside.

    Args:
        layer: Layer of a model, whose parts are numbered.
        inside: Whether the state of attention inside a block is part of it.
    """
    state = {}
    for number, part in enumerate(repeats(layer)):
        inner = blocks.plain_state(blocks.ungated(part), inside)
        state.update({f"{number}.{key}": value for key, value in inner.items()})
    return state


def describe_layers(model: nn.Module) -> list[dict[str, Any]]:
    """Return index, name, arguments, place and gate of each attention layer of a model of rows.

    Layers inside a block are one entry, with the block as ``inside`` and their number.
    """
    config = getattr(model, "yaml", None)
    layers = getattr(model, "model", None)
    if not isinstance(config, dict) or not isinstance(layers, nn.Sequential):
        return []
    rows = [*config.get("backbone", []), *config.get("head", [])]
    places = find_places(config)
    found = []
    for index, (row, layer) in enumerate(zip(rows, layers, strict=False)):
        inside = [*blocks.find_attention(layer).values()]
        if is_attention(layer):
            name, arguments, part, block = row[2], row[3], repeats(layer)[0], {}
        elif inside and (written := attention_of(row)):
            name, arguments, part, block = *written, inside[0], {"inside": row[2], "number": len(inside)}
        else:
            continue
        place = {"place": places.get(index), "gated": isinstance(part, Gated)}
        found.append({"index": index, "name": name, "arguments": arguments, **place, **block})
    return found


def find_places(config: Mapping[str, Any]) -> dict[int, str]:
    """Return the place of each attention layer that stands where ``graft`` would put it and takes part in the output.

    Args:
        config: The model dictionary.

    Returns:
        Place by index of the row that is the layer or has it inside.
    """
    ours = registry.names()
    bare = remove(config, ours)
    named: dict[int, str] = {}
    for place in ("backbone", *(f"{part}-p{level}" for part in ("backbone", "neck") for level in range(2, 8))):
        try:
            named.update(dict.fromkeys(find_rows(bare, place), place))
        except (YoloAttnError, KeyError, IndexError, TypeError):
            continue  # this model has no such place
    live = Graph.of(config).live()
    places, removed = {}, 0
    for index, row in enumerate([*config["backbone"], *config["head"]]):
        if row[2] not in ours and attention_of(row) and index in live:
            places[index] = "backbone-blocks" if index < len(config["backbone"]) else "neck-blocks"
        if row[2] in ours:
            removed += 1
            if index - removed in named and index in live:
                places[index] = named[index - removed]
    return places


def readable(model: nn.Module, name: str) -> str:
    """Return a module's or tensor's name with the kind of its row: ``model.10 CBAM.spatial.conv``."""
    root, _, rest = name.partition(".")
    index, _, rest = rest.partition(".")
    rows = getattr(model, "model", None)
    if root != "model" or not index.isdigit() or not isinstance(rows, nn.Sequential):
        return name
    row = rows[int(index)]
    inner = repeats(row)[0]
    kind = type(blocks.ungated(inner)).__name__
    if isinstance(row, Gated) and rest.startswith("layer"):
        rest = rest.partition(".")[2]
    return f"model.{index} {kind}" + (f".{rest}" if rest else "")
