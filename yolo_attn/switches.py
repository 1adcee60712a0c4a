"""Switches that users turn off in the environment: ``YOLO_ATTN_<WHAT>=0``, ``false``, ``no`` or ``off``."""

from __future__ import annotations

import os

# yolo_attn.pth says the same words: it decides whether this package is imported at all.
OFF = ("0", "false", "no", "off")


def is_off(variable: str) -> bool:
    """Return whether a switch that is on by default is turned off."""
    return os.environ.get(variable, "").strip().lower() in OFF
