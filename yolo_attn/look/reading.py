"""A layer is run on its map, and what it did is put into panels."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from ..errors import ContractError
from . import words
from .gates import gate_panels
from .panels import Layer, Map, Points, Reading, View
from .scene import Frame
from .tokens import token_panels
from .watching import Applied, watch


def read(module: nn.Module, x: Tensor, layer: Layer, frame: Frame, pixel: tuple[float, float]) -> Reading:
    """Return what a layer does to its map ``(1, C, H, W)``.

    Args:
        module: The layer, without its gate; it keeps the shape of its map.
        x: The map.
        layer: What it is called.
        frame: Where the image lies.
        pixel: The chosen pixel of the image, x and y.

    Raises:
        ContractError: If its input or output holds NaN or infinity.
    """
    record = watch(module, x)
    if not (record.x.isfinite().all() and record.y.isfinite().all()):
        raise ContractError(f"{layer.label}: its map holds values that are no numbers (NaN or infinite) on this image")
    h, w = (int(n) for n in x.shape[2:])
    view = View(frame, (h, w), pixel)
    source, result = (t[0].float().cpu().numpy() for t in (record.x, record.y))
    inside = view.inside
    change = _norm((result - source)[:, inside]) / max(_norm(source[:, inside]), 1e-12)
    panels = [*gate_panels(record, view), *token_panels(module, record, view)]
    inner = [panel for panel in panels if panel.title.startswith("inside: ")]
    panels = [*(panel for panel in panels if panel not in inner), *inner]
    gain = _gain(source, result, view)
    is_explained = record.factor is not None and bool(panels)
    if not is_explained and not any(isinstance(panel, (Map, Points)) for panel in panels):
        panels.append(gain)
    raw = {"gain": gain.values, "gain_of_channels": _projection(source, result, (1, 2)), "change": np.array(change)}
    if record.factor is not None:
        raw["factor"] = record.factor.float().cpu().numpy()
    is_exact = any(not gate.inside for gate in record.of(Applied))
    return Reading(layer, view, int(x.shape[1]), change, is_exact, tuple(panels), raw)


def _gain(source: np.ndarray, result: np.ndarray, view: View) -> Map:
    """Return by what each pixel is multiplied, as measured at input and output: the best fit over its channels."""
    h, w = view.size
    gain = _projection(source, result, 0)
    inside = view.inside
    rest = _norm((result - gain * source)[:, inside]) / max(_norm(result[:, inside]), 1e-12)
    title = "measured factor of each pixel"
    said = f"{words.gate_map(gain, view)}; {words.percent(rest)} of the output is not the input times that"
    return Map(title, said, gain, (0, 0, w, h), {"values": gain})


def _projection(source: np.ndarray, result: np.ndarray, axes: int | tuple[int, int]) -> np.ndarray:
    return (source * result).sum(axes) / np.maximum((source * source).sum(axes), 1e-12)


def _norm(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x, dtype=np.float64).sum()))
