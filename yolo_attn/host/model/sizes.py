"""YAMLs that explode: aliases in which a few lines stand for millions of entries, numbers that no message can hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...errors import RowError

_MOST = 100_000  # entries; the largest models have a few hundred
_MOST_BITS = 10_000  # Python prints no number of more than 4,300 digits


def refuse_file(path: Path) -> None:
    """Refuse a YAML file that would explode when it is read; every other one is left to its reader.

    Raises:
        RowError: If it would.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="ignore")
    except (OSError, ValueError):  # no file, or a name that none can have
        return
    if "&" not in text or "*" not in text:
        return
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return
    except RecursionError as error:
        raise RowError(f"{path}: its lists are nested too deeply") from error
    refuse_explosion(node, str(path))


def refuse_explosion(value: Any, name: str) -> None:
    """Refuse lists and mappings, of Python or of a YAML reader, that hold too many entries, counted as written out.

    Args:
        value: What to count.
        name: Where it comes from.

    Raises:
        RowError: If it has too many entries, holds itself, or holds a number of thousands of digits.
    """
    try:
        is_exploding = _count(value, {}, name) > _MOST
    except RecursionError as error:
        raise RowError(f"{name}: its lists are nested too deeply, or hold themselves") from error
    if is_exploding:
        raise RowError(f"{name}: its aliases (&, *) stand for more than the {_MOST:,} entries that are allowed")


def _count(value: Any, known: dict[int, int], name: str) -> int:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise RowError(f"{name}: it holds a number of {value.bit_length():,} bits; {_MOST_BITS:,} are allowed")
    if id(value) not in known:
        if isinstance(value, yaml.CollectionNode):
            parts: Any = value.value
        elif isinstance(value, Mapping):
            parts = [part for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple)):
            parts = value
        else:
            return 1
        known[id(value)] = 1 + sum(_count(part, known, name) for part in parts)
    return known[id(value)]
