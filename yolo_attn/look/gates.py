"""Gates that were multiplied onto the map, as bars over the channels and maps over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from torch import Tensor

from . import words
from .panels import Bars, Map, Panel, View
from .watching import Applied, Record

_KINDS = {"sigmoid": "gate", "hardsigmoid": "gate", "tanh": "gate", "softmax": "share", "": "factor"}


def gate_panels(record: Record, view: View) -> list[Panel]:
    """Return the panels of all gates that the layer applied; those inside it come last."""
    applied = record.of(Applied)
    panels: list[Panel] = []
    for inside in (False, True) if record.factor is not None else (None,):
        chosen = [gate for gate in applied if inside is None or gate.inside is inside]
        prefix = "inside: " if inside else ""
        groups = [[*group] for _, group in groupby(chosen, key=lambda gate: (gate.root, kind_of(gate.gate)))]
        kinds = [kind_of(group[0].gate) for group in groups]
        for i, (kind, group) in enumerate(zip(kinds, groups, strict=True)):
            turn = f" {kinds[: i + 1].count(kind)}" if kinds.count(kind) > 1 and len(group) == 1 else ""
            panels += _panels(group, view, prefix, turn)
        panels = _join_strips(panels, view)
        if inside is False and record.factor is not None and (several := _needs_total(chosen, panels, record)):
            panels.append(_total(record.factor, view, several))
    return panels


def _needs_total(gates: list[Applied], panels: list[Panel], record: Record) -> str:
    """Return what to call the factor in all, or "" if the panels show it already."""
    if sum(isinstance(panel, Map) for panel in panels) > 1 and len(gates) > 1:
        return "all gates together"
    return "the map is multiplied by" if len(gates) == 1 and _is_offset(record, gates[0]) else ""


def kind_of(gate: Tensor) -> str:
    """Return over what a gate varies: "channel", "spatial", "row", "column" or "full"."""
    lead, (h, w) = math.prod(gate.shape[1:-2]), gate.shape[-2:]
    if h == w == 1:
        return "channel"
    if lead == 1:
        return "spatial"
    return "full" if h > 1 and w > 1 else "row" if h > 1 else "column"


def numbers(gate: Tensor, onto: Sequence[int]) -> np.ndarray:
    """Return a gate as ``(c, h, w)``, groups side by side, or ``(series, c, h, w)`` where a layer has branches.

    Args:
        gate: The gate, aligned with the map at the last axes.
        onto: Shape of the map that it was multiplied onto.
    """
    values = gate.detach().float().cpu().numpy()
    values = values.reshape((1,) * (len(onto) - values.ndim) + values.shape)
    lead, size = values.shape[:-2], values.shape[-2:]
    if len(lead) > 2 and lead[0] == 1 and lead[1] > 1:
        return values.reshape(lead[1], -1, *size)
    return values.reshape(-1, *size)


def _panels(gates: list[Applied], view: View, prefix: str, turn: str = "") -> list[Panel]:
    """Return the panels of gates that came of one call and vary over the same axes."""
    first, kind = gates[0], kind_of(gates[0].gate)
    name = _KINDS.get(first.maker, "gate") + turn
    kinds = {kind_of(part) for part in first.parts}
    if len(first.parts) > 1 and kinds <= {"channel", "spatial"}:  # a sum says less than what it is made of
        parts = [Applied(p, first.onto, first.maker, first.root, (p,), first.inside) for p in first.parts]
        return [panel for part in parts for panel in _panels([part], view, f"{prefix}added ", turn)]
    raw = [numbers(gate.gate, gate.onto) for gate in gates]
    if kind == "channel":
        series = np.concatenate([each.reshape(-1, each.shape[-3]) for each in raw])
        title = f"{prefix}channel {name}" + (f"s of {len(series)} branches" if len(series) > 1 else "")
        return [Bars(title, _series(series), series, {"values": series})]
    panels: list[Panel] = []
    for number, each in enumerate(raw, start=1):
        count = f" {number} of {len(raw)}" if len(raw) > 1 else ""
        title = f"{prefix}{'' if kind == 'full' else kind + ' '}{name}{count}"
        stacked = each.reshape(-1, *each.shape[-2:])
        panels.append(_map(title, stacked, view))
        if kind == "full":
            panels.append(_means(title, stacked, view))
    return panels


def _map(title: str, values: np.ndarray, view: View) -> Map:
    """Return a map of means over the channels, or over the groups of them."""
    h, w = view.size
    values = np.broadcast_to(values, (len(values), h, w))
    mean, said = values.mean(0), words.gate_map(values.mean(0), view)
    if len(values) == 1:
        return Map(title, said, mean, (0, 0, w, h), {"values": values})
    shown = values[:, view.inside]
    said += f" (single values {words.number(shown.min())} to {words.number(shown.max())})"
    what = "groups" if "spatial" in title else "channels"
    return Map(f"{title}, mean of {len(values)} {what}", said, mean, (0, 0, w, h), {"values": values})


def _means(title: str, values: np.ndarray, view: View) -> Bars:
    """Return bars of means over the image."""
    means = np.broadcast_to(values, (len(values), *view.size))[:, view.inside].mean(1)
    return Bars(f"{title}, mean over the image", words.bars(means), means[None])


def _join_strips(panels: list[Panel], view: View) -> list[Panel]:
    """Join a row gate and a column gate, one after the other, to the map that both make."""
    joined: list[Panel] = []
    for panel in panels:
        last = joined[-1] if joined else None
        titles = [p.title.partition(",")[0].removeprefix("inside: ") for p in (last, panel) if p is not None]
        if isinstance(last, Map) and isinstance(panel, Map) and sorted(titles) == ["column gate", "row gate"]:
            product = last.raw["values"] * panel.raw["values"]
            prefix = "inside: " if panel.title.startswith("inside: ") else ""
            raw = {title.replace(" ", "_"): p.raw["values"] for title, p in zip(titles, (last, panel), strict=True)}
            both = _map(f"{prefix}row times column gate", product, view)
            joined[-1] = Map(both.title, both.words, both.values, both.area, raw)
            joined.append(_means(f"{prefix}row times column gate", product, view))
        else:
            joined.append(panel)
    return joined


def _is_offset(record: Record, gate: Applied) -> bool:
    """Return whether the layer multiplies by something else than its one gate, such as 1 plus the gate."""
    shown, factor = numbers(gate.gate, gate.onto), record.factor.float().cpu().numpy()  # type: ignore[union-attr]
    if len(shown) not in (1, len(factor)):  # one for each group of channels
        shown = shown.repeat(len(factor) // len(shown), 0)
    return not np.allclose(np.broadcast_to(shown, factor.shape), factor, atol=1e-4)


def _total(factor: Tensor, view: View, what: str) -> Map:
    return _map(what, factor.float().cpu().numpy(), view)


def _series(series: np.ndarray) -> str:
    if len(series) == 1:
        return words.bars(series[0])
    means = ", ".join(words.number(mean) for mean in series.mean(1))
    return f"means {means}; {words.number(series.min())} to {words.number(series.max())}"
