"""Which layers of two models correspond, whatever rows were inserted into one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from .ours import is_attention, kind_of, plain_state

_KIND = 10_000  # more than any layer has tensors: kinds come first, shapes decide between equals
Pairs = dict[int, int]  # index of a base layer -> index of the layer of the model that it corresponds to


def align(source: Sequence[nn.Module], target: Sequence[nn.Module]) -> Pairs:
    """Match the layers of two models in order: most layers of one kind first, then most tensors of equal shape.

    The last layers, the heads, always correspond.

    Args:
        source: Layers of the base.
        target: Layers of the model that receives.

    Returns:
        Index in ``source`` -> index in ``target``; layers without a counterpart are left out.
    """
    n, m = len(source) - 1, len(target) - 1
    kinds, shapes = [[kind_of(layer) for layer in layers] for layers in (source, target)], []
    for layers in (source, target):
        shapes.append([{k: tuple(v.shape) for k, v in plain_state(layer).items()} for layer in layers])
    # best[i][j]: the highest score of the layers from i and from j on.
    best = [[0] * (m + 1) for _ in range(n + 1)]
    score = [[0] * m for _ in range(n)]
    for i in reversed(range(n)):
        for j in reversed(range(m)):
            if kinds[0][i] == kinds[1][j]:
                attention = is_attention(source[i]) or is_attention(target[j])
                score[i][j] = _score(shapes[0][i], shapes[1][j], attention)
            matched = score[i][j] + best[i + 1][j + 1] if score[i][j] else 0
            best[i][j] = max(matched, best[i + 1][j], best[i][j + 1])
    pairs, i, j = {n: m}, 0, 0
    while i < n and j < m:
        if score[i][j] and best[i][j] == score[i][j] + best[i + 1][j + 1]:
            pairs[i] = j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            i += 1
    return dict(sorted(pairs.items()))


def _score(source: Mapping[str, tuple], target: Mapping[str, tuple], attention: bool) -> int:
    """Return how well two layers of one kind correspond; 0 if not at all."""
    equal = sum(target.get(key) == shape for key, shape in source.items())
    if attention and equal < max(len(source), len(target)):
        return 0  # one of another width or with other options is a new layer
    return _KIND + equal
