"""The attention layers. Every class of the registry can be imported from here; its file loads on first use."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "regional_routing_attention":
        from .biformer import regional_routing_attention

        return regional_routing_attention
    if not name.startswith("_"):
        from ..registry import TABLE

        for layer in TABLE:
            if name in (layer.name, *layer.aliases):
                return layer.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from ..registry import TABLE

    return sorted([*(layer.name for layer in TABLE), "regional_routing_attention"])
