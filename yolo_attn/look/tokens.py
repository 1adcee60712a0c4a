"""Weights of mixtures: those of the chosen pixel, put back to where they lie in the map, and those of pooled means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..layers.biformer import BiFormer
from ..layers.scsa import SCSA
from . import words
from .panels import Bars, Map, Panel, Points, View
from .watching import Applied, Attention, Chosen, Pooled, Record, Sampled, Softmax


def token_panels(layer: nn.Module, record: Record, view: View) -> list[Panel]:
    """Return the panels of all weights that the layer mixed with."""
    for kind, read in READERS.items():
        if isinstance(layer, kind):
            return read(layer, record, view)
    used = {gate.root for gate in record.of(Applied)}
    panels: list[Panel] = []
    pooling: Tensor | None = None
    for event in record.events:
        if isinstance(event, Attention):
            panels += _attention(event, record, view)
        elif isinstance(event, Softmax) and event.root not in used:
            panels += _softmax(event.weights.float(), pooling, record, view)
            pooling = _pooling(event.weights.float(), view)
    return panels


def _attention(event: Attention, record: Record, view: View) -> list[Panel]:
    n = view.size[0] * view.size[1]
    if event.q.shape[0] != 1 or event.q.shape[2] != n:
        return []
    row, column = view.cell
    return [_row(event.row(row * view.size[1] + column), record, view)]


def _softmax(weights: Tensor, pooling: Tensor | None, record: Record, view: View) -> list[Panel]:
    """Return the panel of weights that sum to 1 over the last axis, by their shape; none if they have no place."""
    (h, w), (row, column) = view.size, view.cell
    n, k, query = h * w, weights.shape[-1], row * w + column
    if weights.dim() < 3:
        return []
    if weights.shape[-2] == n and pooling is not None and len(pooling) == k:  # gathered to k vectors, then spread
        return [_row(weights.reshape(-1, n, k)[:1, query] @ pooling, record, view)]
    if weights.shape[-2] == n and k > 1:
        return [_row(weights.reshape(-1, n, k)[:, query], record, view)]
    if weights.shape[-3:-1] == (h, w) and k == h + w:
        return [_cross(weights.reshape(-1, h, w, k)[:, row, column], view)]
    pooled = _pooling(weights, view)
    return [] if pooled is None else [_pooled(pooled, view)]


def _pooling(weights: Tensor, view: View) -> Tensor | None:
    """Return weights over all pixels that are the same for all queries, ``(maps, N)``."""
    n = view.size[0] * view.size[1]
    is_pooling = weights.dim() > 2 and weights.shape[-1] == n and weights.shape[-2] != n
    return weights.reshape(-1, n) if is_pooling else None


def _row(weights: Tensor, record: Record, view: View) -> Panel:
    """Return the panel of one query's weights ``(heads, M)``: at sample points, in squares or in pixels."""
    (h, w), m = view.size, weights.shape[-1]
    for sampled in record.of(Sampled):
        if tuple(sampled.size[-2:]) == view.size and sampled.grid[0, ..., 0].numel() == m:
            return _points(weights, sampled, view)
    rows, columns, kernel = h, w, (1, 1)
    if m != h * w:
        pooled = [p for p in record.of(Pooled) if tuple(p.size[-2:]) == view.size and p.result[-2:].numel() == m]
        if not pooled:
            return _unplaced(weights)
        kernel, (rows, columns) = pooled[-1].kernel, tuple(pooled[-1].result[-2:])
    raw = weights.cpu().numpy()
    area = (0.0, 0.0, float(columns * kernel[1]), float(rows * kernel[0]))
    grid = raw.mean(0).reshape(rows, columns)
    places, inside = _squares((rows, columns), kernel, view)
    heads = f", mean of {len(raw)} heads" if len(raw) > 1 else ""
    title = f"weights of the pixel{heads}"
    said = words.weights(grid.flatten(), places, inside)
    return Map(title, said, grid, area, {"weights": raw.reshape(-1, rows, columns)}, of_pixel=True)


def _squares(size: tuple[int, int], kernel: tuple[int, int], view: View) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return where the centres of squares lie in the image, and whether they show it."""
    where = [
        ((row + 0.5) * kernel[0], (column + 0.5) * kernel[1]) for row in range(size[0]) for column in range(size[1])
    ]
    cells = [(min(int(y), view.size[0] - 1), min(int(x), view.size[1] - 1)) for y, x in where]
    return [view.place(y - 0.5, x - 0.5) for y, x in where], view.inside[tuple(np.transpose(cells))]


def _points(weights: Tensor, sampled: Sampled, view: View) -> Points:
    """Return the panel of weights at sample points; each group of heads has its own points."""
    (h, w), heads, groups = view.size, len(weights), len(sampled.grid)
    grid = sampled.grid.flatten(1, 2).cpu().numpy()  # (groups, M, 2)
    x, y = (_along(grid[..., axis], n, sampled.align_corners) for axis, n in ((0, w), (1, h)))
    if heads % groups == 0:
        mean = weights.reshape(groups, heads // groups, -1).mean(1)
    else:
        mean = weights.mean(0).expand(groups, -1)
    values = mean.cpu().numpy() / groups  # all together sum to 1
    places = np.stack([x, y], -1)
    flat = places.reshape(-1, 2)
    shown = [view.place(b - 0.5, a - 0.5) for a, b in flat]
    in_image = [view.frame.point(a, b, view.size) for a, b in flat]
    height, width = view.frame.image
    inside = np.array([0 <= a <= width and 0 <= b <= height for a, b in in_image])
    each = f" in each of {groups} groups" if groups > 1 else ""
    title = f"weights of the pixel on {grid.shape[1]} sample points{each}"
    said = words.weights(values.flatten(), shown, inside)
    raw = {"points": places, "weights": weights.cpu().numpy()}
    return Points(title, said, flat, values.flatten(), raw)


def _along(axis: np.ndarray, n: int, align_corners: bool) -> np.ndarray:
    """Return places along a side of ``n`` cells, 0 to n, of coordinates from -1 to 1."""
    return (axis + 1) / 2 * (n - 1) + 0.5 if align_corners else (axis + 1) / 2 * n


def _cross(weights: Tensor, view: View) -> Map:
    """Return the panel of weights on the column, the first H, and on the row of the pixel."""
    (h, w), (row, column) = view.size, view.cell
    raw = weights.cpu().numpy()
    mean = raw.mean(0)
    values = np.full((h, w), np.nan)
    values[row] = mean[h:]
    values[:, column] = np.where(np.arange(h) == row, values[row, column] + mean[:h], mean[:h])
    found = np.argwhere(np.isfinite(values))
    places = [view.place(*cell) for cell in found]
    flat = values[tuple(found.T)]
    said = words.weights(flat / flat.sum(), places, view.inside[tuple(found.T)])
    title = "weights of the pixel on its row and column"
    return Map(title, said, values, (0, 0, w, h), {"weights": raw}, of_pixel=True)


def _pooled(weights: Tensor, view: View) -> Map:
    """Return the panel of weights by which the map is summed up."""
    h, w = view.size
    raw = weights.cpu().numpy()
    places, inside = _squares(view.size, (1, 1), view)
    mean = raw.mean(0)
    title = "weights of the pixels in a mean" + (f", mean of {len(raw)}" if len(raw) > 1 else "")
    said = words.weights(mean, places, inside)
    return Map(title, said, mean.reshape(h, w), (0, 0, w, h), {"weights": raw.reshape(-1, h, w)})


def _unplaced(weights: Tensor) -> Bars:
    raw = weights.cpu().numpy()
    title = f"weights of the pixel on {raw.shape[1]} tokens, whose places are not known"
    said = f"{words.number(raw.mean(0).min())} to {words.number(raw.mean(0).max())}"
    return Bars(title, said, raw.mean(0)[None], {"weights": raw})


def _routed(layer: nn.Module, record: Record, view: View) -> list[Panel]:
    """Return the panel of BiFormer: the windows that the pixel's own is routed to, and the weights in them."""
    assert isinstance(layer, BiFormer)
    (h, w), (row, column), n = view.size, view.cell, layer.n_win
    side_h, side_w = -(-h // n), -(-w // n)
    own, token = row // side_h * n + column // side_w, row % side_h * side_w + column % side_w
    event: Attention = record.of(Attention)[-1]
    chosen = [each.index for each in record.of(Chosen) if each.index.shape[:2] == (1, n * n)]
    windows = chosen[-1][0, own] if chosen else torch.arange(n * n)
    each = event.q.shape[0] == n * n  # each window is one of the batch
    weights = event.row(token, own) if each else event.row(own * side_h * side_w + token)  # (heads, k M)
    by_window = weights.reshape(len(weights), len(windows), -1).cpu().numpy()  # (heads, k, M)
    padded = np.full((n * side_h, n * side_w), np.nan)
    boxes = []
    for window, tokens in zip(windows.tolist(), by_window.mean(0), strict=True):
        top, left = window // n * side_h, window % n * side_w
        is_whole = len(tokens) == side_h * side_w  # else they are thinned out, and their sum is shared
        patch = tokens.reshape(side_h, side_w) if is_whole else tokens.sum() / (side_h * side_w)
        padded[top : top + side_h, left : left + side_w] = patch
        boxes.append((float(left), float(top), float(left + side_w), float(top + side_h)))
    top, left = own // n * side_h, own % n * side_w
    boxes.insert(0, (float(left), float(top), float(left + side_w), float(top + side_h)))
    values = padded[:h, :w]
    found = np.argwhere(np.isfinite(values))
    flat = values[tuple(found.T)]
    title = f"weights of the pixel in {len(windows)} of {n * n} windows"
    places = [view.place(*cell) for cell in found]
    said = f"windows of {side_h}x{side_w} cells; the pixel's, {_window(own, n)}, is routed to "
    said += ", ".join(_window(window, n) for window in windows.tolist()[:8]) + (", ..." if len(windows) > 8 else "")
    added = 1 - float(flat.sum())  # tokens that fill up the windows at the edge; on a small map there may be no others
    said += f"; {words.weights(flat, places, view.inside[tuple(found.T)])}" if len(flat) else ""
    said += f"; {words.percent(added)} lies on what fills up the windows" if added > words.NOTHING else ""
    raw = {"windows": windows.cpu().numpy(), "weights": by_window, "own_window": np.array(own)}
    return [Map(title, said, values, (0, 0, w, h), raw, tuple(boxes), of_pixel=True)]


def _window(window: int, n_win: int) -> str:
    return f"row {window // n_win + 1} column {window % n_win + 1}"


def _none(layer: nn.Module, record: Record, view: View) -> list[Panel]:
    return []


# Layers whose weights the shape alone does not explain. SCSA's are of channels, and there may be as many as pixels.
READERS: dict[type[nn.Module], Callable[[nn.Module, Record, View], list[Panel]]] = {BiFormer: _routed, SCSA: _none}
