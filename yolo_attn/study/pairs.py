"""What two trials of one seed must have in common for their difference to count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LARGER, OWN = "larger", "own"
BATCHES, START = "batches", "start"


def shared(one: str, other: str) -> tuple[str, ...]:
    """Return the hashes that trials of two kinds of variants share.

    A larger scale has other weights, and a model of the user's need not have all of them.
    """
    return (BATCHES,) if {LARGER, OWN} & {one, other} else (BATCHES, START)


def differing(kinds: tuple[str, str], one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the hashes by which two trials are no pair; what is not known does not count.

    Args:
        kinds: Of their variants.
        one: What ``trial.json`` of one holds.
        other: The same of the other.
    """
    lengths = {min(len(trial.get("epochs") or []), 2) for trial in (one, other)}
    found = [key for key in shared(*kinds) if one.get(key) and other.get(key) and one[key] != other[key]]
    # Batches are hashed in the first two epochs: those of a training of one epoch are not those of a longer one.
    return [key for key in found if key != BATCHES or len(lengths) == 1]
