"""Constructor arguments: each check returns the value or raises a ``ValueError`` naming it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

# Larger numbers are slips: most would exhaust the memory or never return.
MOST = 2**16
_MOST = {
    "recurrence": 64,
    "num_layers": 64,
    "n_win": 64,
    "kv_per_win": 32,
    "region_size": 1024,
    "kernel_size": 63,
    "kernel_sizes": 255,
    "kernels": 255,
    "local_size": 64,
    "side_dwconv": 255,
    "ksize": 255,
    "kv_downsample_kernel": 255,
    "h_kernel_size": 1023,
    "v_kernel_size": 1023,
    "c_m": 4096,
    "c_n": 4096,
    "qk_dim": 8192,
    "q_size": 160,
    "kv_size": 160,
    "dilation": 1024,
}


def plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's own number, anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _bounded(name: str, value: int) -> int:
    most = _MOST.get(name.partition("[")[0], MOST)
    if value > most:
        raise ValueError(f"{name}={value} is more than {most}, the most that is allowed")
    return int(value)


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` if it is an integer (no ``bool``) of at least ``minimum`` and of a size that can be meant."""
    value = plain(value)
    if not _is_integer(value) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer >= {minimum}")
    return _bounded(name, value)


def pair(name: str, value: Any, alone: bool = False) -> tuple[int, int]:
    """Return ``value`` if it is two positive integers; with ``alone`` one integer stands for both."""
    value = plain(value)
    given = [value, value] if alone and isinstance(value, Integral) else value
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ValueError(
            f"{name}={value!r} must be {'an integer >= 1 or two of them' if alone else 'two integers >= 1'}"
        )
    first, second = (name, name) if alone else (f"{name}[0]", f"{name}[1]")
    return integer(first, given[0]), integer(second, given[1])


def odd(name: str, value: Any, off: bool = False) -> int:
    """Return ``value`` if it is an odd positive integer; with ``off`` any value <= 0 counts as "none" and gives 0."""
    value = plain(value)
    if off and _is_integer(value) and value <= 0:
        return 0
    if not _is_integer(value) or value < 1 or value % 2 == 0:
        raise ValueError(f"{name}={value!r} must be an odd integer >= 1{', or <= 0 for none' if off else ''}")
    return _bounded(name, value)


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
    """Return ``value`` as a ``bool`` if it is one, or 0 or 1."""
    value = plain(value)
    if not isinstance(value, Integral) or value not in (0, 1):
        raise ValueError(f"{name}={value!r} must be True or False")
    return bool(value)


def probability(name: str, value: Any) -> float:
    """Return ``value`` as a float if it lies in [0, 1)."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"{name}={value!r} must be a number in [0, 1)")
    return float(value)


def number(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number (no ``bool``)."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) <= _LARGEST:
        raise ValueError(f"{name}={value!r} must be a finite number")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number above 0 (no ``bool``)."""
    if number(name, value) <= 0:
        raise ValueError(f"{name}={value!r} must be a number > 0")
    return float(value)


_LARGEST = 1.7976931348623157e308  # an integer beyond it has no float


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
