"""Constructor arguments: each check returns the value or raises a ``ValueError`` naming it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` if it is an ``int`` (no ``bool``) of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer >= {minimum}")
    return value


def pair(name: str, value: Any, alone: bool = False) -> tuple[int, int]:
    """Return ``value`` if it is two positive integers; with ``alone`` one integer stands for both."""
    given = [value, value] if alone and isinstance(value, int) else value
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ValueError(
            f"{name}={value!r} must be {'an integer >= 1 or two of them' if alone else 'two integers >= 1'}"
        )
    first, second = (name, name) if alone else (f"{name}[0]", f"{name}[1]")
    return integer(first, given[0]), integer(second, given[1])


def odd(name: str, value: Any, off: bool = False) -> int:
    """Return ``value`` if it is an odd positive integer; with ``off`` any value <= 0 counts as "none" and gives 0."""
    if off and isinstance(value, int) and not isinstance(value, bool) and value <= 0:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % 2 == 0:
        raise ValueError(f"{name}={value!r} must be an odd integer >= 1{', or <= 0 for none' if off else ''}")
    return value


def divisible(name: str, value: int, by_name: str, by: int) -> None:
    """Raise unless ``value`` is a multiple of ``by``."""
    if value % by:
        raise ValueError(f"{name}={value} is not divisible by {by_name}={by}")


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")
    return value


def flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is a ``bool``."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")
    return value


def probability(name: str, value: Any) -> float:
    """Return ``value`` as a float if it lies in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name}={value!r} must be a number in [0, 1)")
    return float(value)


def number(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number (no ``bool``)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number above 0 (no ``bool``)."""
    if number(name, value) <= 0:
        raise ValueError(f"{name}={value!r} must be a number > 0")
    return float(value)


def scale(name: str, value: Any, default: float) -> float:
    """Return ``value`` if it is a positive finite number, ``default`` for None or 0."""
    if value is None:
        return default
    if number(name, value) < 0:
        raise ValueError(f"{name}={value!r} must be a positive number, or None or 0 for the default")
    return float(value) or default


def arguments(layer: Any) -> str:
    """Return the constructor's arguments with the layer's values, for its ``extra_repr``."""
    return ", ".join(f"{name}={getattr(layer, name)!r}" for name in inspect.signature(type(layer)).parameters)
