"""Rows of a checkpoint say what its layers are: training rebuilds them from the rows.

What a number in a row means may change (``CBAM, [7]`` was a reduction before it was a kernel size). Keywords do not.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from ... import registry
from ...blocks import attention_of, with_attention
from ...graft import split_arguments
from .blocks import find_attention, ungated
from .ours import repeats


def torch_safe_load_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch_safe_load`` of models whose rows of ours give their layers' own arguments by keyword."""

    @functools.wraps(original)
    def torch_safe_load(weight: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(weight, *args, **kwargs)
        if isinstance(result[0], dict):
            for key in ("ema", "model"):
                keep_arguments(result[0].get(key))
        return result

    return torch_safe_load


def keep_arguments(model: Any) -> None:
    """Put the arguments of a model's attention layers into its rows, by keyword, where a row gives them by position."""
    config, layers = getattr(model, "yaml", None), getattr(model, "model", None)
    if not isinstance(config, dict) or not isinstance(layers, nn.Sequential):
        return
    rows = [row for part in ("backbone", "head") for row in config.get(part, ())]
    kept = {
        index: new for index, (row, layer) in enumerate(zip(rows, layers, strict=False)) if (new := _keep(row, layer))
    }
    if kept:
        config = model.yaml = copy.deepcopy(config)
        rows = [row for part in ("backbone", "head") for row in config[part]]
        for index, new in kept.items():
            rows[index][:] = new


def _keep(row: list[Any], layer: nn.Module) -> list[Any] | None:
    """Return a row with the arguments of its attention by keyword, or None if it stays as it is."""
    ours = registry.names()
    inside = attention_of(row)
    name, args = inside or (row[2], row[3])
    part = next(iter(find_attention(layer).values()), None) if inside else repeats(layer)[0]
    if name not in ours or not split_arguments(args)[0] or part is None:
        return None
    arguments = _arguments(ours[name], part, args)
    if arguments is None:
        return None
    keywords = [arguments] if arguments else []
    return with_attention(row, name, keywords) if inside else [*row[:3], keywords]


def _arguments(known: registry.Layer, part: nn.Module, args: Any) -> dict[str, Any] | None:
    """Return the arguments of a row's layer that are not the defaults, or None if it is not the package's."""
    inner = ungated(part)
    if known.source or type(inner) is not known.load():
        return None
    values = {p.name: (_plain(getattr(inner, p.name, p.default)), _plain(p.default)) for p in known.parameters()}
    gate = {key: value for key, value in split_arguments(args)[1].items() if key == "gate"}
    return {**{name: value for name, (value, default) in values.items() if value != default}, **gate}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
