"""The table of layers as people read it: in a terminal and in docs/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from .layers._timm import NAMES, REFUSED
from .registry import broken, layers, problems, usage_of
from .table import TABLE, TIMM


def text() -> str:
    """Return the table for a terminal: a row of every layer to paste into a YAML, its aliases and its defaults.

    Own layers follow with where they come from, then those that cannot be used, as comments.
    """
    lines = []
    gone = broken()
    for layer in layers():
        if layer is TIMM:
            lines += _timm()
            continue
        if layer.name in gone:
            continue
        parameters = layer.parameters()
        required = ", ".join(p.name for p in parameters if p.default is p.empty)
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        lines.append(f"- [-1, 1, {layer.name}, [{required}]]")
        if layer.aliases:
            lines.append(f"  # also {', '.join(layer.aliases)}")
        if defaults:
            lines.append(f"  # defaults: {_as_yaml(defaults)}")
        if layer.source:
            lines.append(f"  # from {layer.source}")
    lines += [f"# {' '.join(str(problem).split())}" for problem in (*gone.values(), *problems())]
    return "\n".join(lines)


def _timm() -> list[str]:
    """Return the row of a layer of timm, the names that may stand in it, and why the others may not."""
    first = next(iter(NAMES))
    return [
        f"- [-1, 1, {TIMM.name}, [{first}]]",
        f"  # timm's layers by name: {', '.join(NAMES)}",
        f"  # with the arguments of timm's constructor: [{first}, {{rd_ratio: 0.25}}]; in model names: timm-{first}",
        *(f"  # not {name}: {reason}" for name, reason in REFUSED.items()),
    ]


def _as_yaml(values: Mapping[str, Any]) -> str:
    """Return values as YAML, those of own layers that YAML has no form for as Python has them."""
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    try:
        return yaml.safe_dump(lists, default_flow_style=True, sort_keys=False, width=10**6).strip()
    except yaml.YAMLError:
        return ", ".join(f"{key}={value!r}" for key, value in values.items())


def markdown() -> str:
    """Return the table of docs/layers.md."""
    rows = [
        "| YAML name | also | in model names | paper | arguments with defaults |",
        "|---|---|---|---|---|",
    ]
    for layer in TABLE:
        usage = usage_of(layer.parameters())
        aliases = ", ".join(f"`{alias}`" for alias in layer.aliases) or "-"
        arguments = f"`{usage}`" if usage else "-"
        rows.append(f"| `{layer.name}` | {aliases} | `{layer.slug}` | {layer.cited()} | {arguments} |")
    return "\n".join(rows)


def pasted() -> str:
    """Return the table of docs/layers.md from class names of pasted code to ours."""
    rows = ["| class of pasted code | here |", "|---|---|"]
    for layer in TABLE:
        others = ", ".join(f"`{name}`" for name in (*layer.aliases, *layer.pasted))
        if others:
            rows.append(f"| {others} | `{layer.name}` |")
    return "\n".join(rows)


def timm_markdown() -> str:
    """Return the table of timm's layers of docs/layers.md."""
    rows = ["| in a row | in model names | what it is |", "|---|---|---|"]
    rows += [f"| `[{name}]` | `timm-{name}` | {what} |" for name, what in NAMES.items()]
    rows += [f"| `{name}`: no | - | {reason} |" for name, reason in REFUSED.items()]
    return "\n".join(rows)
