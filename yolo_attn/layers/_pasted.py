"""Code pasted from elsewhere calls the width by other names."""

from __future__ import annotations

import functools
from typing import Any

# What other versions of these layers call the width they read, and the width they give, which is the same.
_TAKEN = (
    "channel",
    "in_channels",
    "in_channel",
    "dim",
    "in_dim",
    "inp",
    "in_planes",
    "inplanes",
    "gate_channels",
    "c1",
)
_GIVEN = ("oup", "out_channels", "out_channel", "out_dim", "c2")
WIDTHS = frozenset((*_TAKEN, *_GIVEN, "gate_channel", "n_dims"))


def accept_width_keywords(cls: type) -> None:
    """Let a layer's class take ``channel=64``, ``dim=64`` and the like for ``channels=64``; again changes nothing."""
    original: Any = cls.__init__  # type: ignore[misc]
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if WIDTHS.isdisjoint(kwargs):
            return original(self, *args, **kwargs)
        pasted = {key: kwargs.pop(key) for key in WIDTHS & kwargs.keys()}
        widths = [*args[:1], *([kwargs["channels"]] if "channels" in kwargs else []), *pasted.values()]
        if any(width != widths[0] for width in widths):
            said = ", ".join(f"{key}={value!r}" for key, value in pasted.items())
            raise ValueError(f"{cls.__name__} keeps the width of its map: {said} and channels={widths[0]!r} differ")
        if not args:
            kwargs["channels"] = widths[0]
        return original(self, *args, **kwargs)

    setattr(cls, "__init__", __init__)  # noqa: B010, mypy takes no assignment to a method
