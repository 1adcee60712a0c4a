"""Sentences with numbers in them: what a person would say who looks at the panels."""

from __future__ import annotations

import numpy as np

from .panels import Reading, View

# Gates tell nothing from nothing if they are no farther apart than this share of the largest.
FLAT = 0.04
NOTHING = 0.01


def number(value: float, digits: int = 2) -> str:
    """Return a number with as many digits as it deserves."""
    if value == 0 or 0.095 <= abs(value) < 1000:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{share:.0%}" if share >= 0.095 or share < 0.0005 else f"{share:.1%}"


def effect(reading: Reading) -> str:
    """Return how much the layer changes its map, and what its gate does to that."""
    said = f"changes the map by {percent(reading.change)} (|y - x| / |x|)"
    said += " and does nothing but multiply it" if reading.exact else ""
    openness = reading.layer.openness
    if openness is None:
        return said + (": almost nothing here" if reading.change < NOTHING else "")
    if openness == 0:
        return f"its gate g is 0: the layer is the identity, and what follows is what it would do. It {said}"
    said = f"its gate g is {number(openness)}. Fully open, the layer {said}; as it is, by {percent(reading.effect)}"
    return said + (": almost nothing here" if reading.effect < NOTHING else "")


def is_flat(values: np.ndarray) -> bool:
    """Return whether values are nearly the same."""
    return bool(values.max() - values.min() <= FLAT * np.abs(values).max())


def sentences(reading: Reading) -> list[str]:
    """Return what there is to say of a layer, its own effect first."""
    return [effect(reading), *(f"{panel.title}: {panel.words}" for panel in reading.panels)]


def bars(values: np.ndarray) -> str:
    """Return the range of a gate over the channels."""
    if len(values) == 1:
        return f"{number(values[0])} for its one channel"
    over = f"over {len(values)} channels"
    if is_flat(values):
        return f"{number(values.min(), 3)} to {number(values.max(), 3)} {over}: nearly the same for all"
    said = f"{number(values.min())} to {number(values.max())}, mean {number(values.mean())} {over}"
    return f"{said}, highest in channel {int(values.argmax())}, lowest in {int(values.argmin())}"


def gate_map(values: np.ndarray, view: View) -> str:
    """Return the range of a gate over the image and where it is highest."""
    seen = values[view.inside]
    if is_flat(seen):
        return f"{number(seen.min(), 3)} to {number(seen.max(), 3)}: nearly the same everywhere"
    cells = np.argwhere(view.inside)
    highest, lowest = (view.place(*cells[find(seen)]) for find in (np.argmax, np.argmin))
    said = f"{number(seen.min())} to {number(seen.max())}, mean {number(seen.mean())}"
    return f"{said}, highest at {at(highest)}, lowest at {at(lowest)}"


def weights(values: np.ndarray, places: list[tuple[int, int]], inside: np.ndarray) -> str:
    """Return where the weights of a mixture lie.

    Args:
        values: The weights, which sum to 1.
        places: Where each lies in the image.
        inside: Which of them lie in the image.
    """
    order = np.argsort(values)[::-1]
    half = int(np.searchsorted(np.cumsum(values[order]), 0.5)) + 1
    best = next((i for i in order if inside[i]), order[0])
    even = values[best] * len(values)
    said = f"most on {at(places[best])}, {number(values[best])} or {even:.1f} times an even share"
    said += f"; half of the weight on {half} of {len(values)}"
    beyond = float(values[~inside].sum())
    return said + (f"; {percent(beyond)} lies on the padding" if beyond > NOTHING else "")


def at(place: tuple[int, int]) -> str:
    """Return a pixel as people write it."""
    return f"({place[0]}, {place[1]})"
