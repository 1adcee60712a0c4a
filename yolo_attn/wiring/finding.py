"""What a check of a model YAML finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What is wrong with a model's wiring.

    Attributes:
        row: Index of the row, None for the file.
        kind: ``dead``, ``head``, ``bypass``, ``twice``, ``size``, ``form``, ``from``, ``scale``,
            ``section`` or ``key``.
        message: The finding in words, with what was probably meant.
        fatal: Whether the model cannot be built.
    """

    row: int | None
    kind: str
    message: str
    fatal: bool = False
