"""The attention layers. Every class of the registry can be imported from here; its file loads on first use."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "regional_routing_attention":
        from .biformer import regional_routing_attention

        return regional_routing_attention
    if not name.startswith("_"):
        from .. import registry

        if name in registry.BY_NAME:
            return registry.BY_NAME[name].load()
        if name.lower() in registry.ELSEWHERE:
            raise ImportError(f"{__name__} has no {name!r}{registry.hint(name)}", name=__name__)
    elif name == "__all__":  # of a star import
        from ..registry import TABLE

        return [*(layer.name for layer in TABLE), "regional_routing_attention"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from ..registry import BUILT_IN

    return sorted([*(layer.name for layer in BUILT_IN), "regional_routing_attention"])
