"""How far two runs of one model are apart: raw outputs by their largest difference, detections by class and overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

MARGIN, OVERLAP = 0.05, 0.9  # a detection's partner may score so much less, and has to cover so much of it
_SCORE = 0.01  # scores below are counted as if this were the largest: runtimes approximate the sigmoid to 1e-7


def raw_difference(expected: Sequence[Tensor], found: Sequence[Tensor], classes: int) -> float:
    """Return the largest difference over the largest entry, of the part of the outputs where that is worst.

    Boxes are counted in pixels and scores up to 1, so each part of an output has its own largest entry.

    Args:
        expected: Outputs of the model.
        found: Outputs of its copy, of the same shapes.
        classes: Number of classes, which tells boxes from scores.

    Returns:
        0 for equal outputs; infinite where an entry is not finite, or the shapes differ.
    """
    if [tuple(t.shape) for t in expected] != [tuple(t.shape) for t in found]:
        return float("inf")
    pairs = zip(_parts(expected, classes), _parts(found, classes), strict=True)
    return max((relative_difference(a, b, least) for (a, least), (b, _) in pairs), default=0.0)


def relative_difference(expected: Tensor, found: Tensor, least: float = 0.0) -> float:
    """Return the largest difference over the largest expected entry; infinite where an entry is not finite.

    An entry below ``least`` counts as that.
    """
    a, b = expected.double(), found.double()
    if not a.numel():
        return 0.0
    largest = max(a.abs().max().item(), least, torch.finfo(torch.float32).tiny)
    value = (a - b).abs().max().item() / largest
    return value if value < float("inf") else float("inf")  # NaN is neither less nor greater


def _parts(outputs: Sequence[Tensor], classes: int) -> Iterator[tuple[Tensor, float]]:
    """Yield the parts of outputs, each with the least that counts as its largest entry."""
    for output in outputs:
        if output.dim() == 3 and 4 + classes <= output.shape[1] < output.shape[2]:
            # (B, boxes and scores and more, places)
            boxes, scores, more = output.split((4, classes, output.shape[1] - 4 - classes), 1)
            yield from ((boxes, 0.0), (scores, _SCORE), (more, _SCORE))
        elif output.dim() == 3 and output.shape[2] >= 6:
            # (B, detections, box and score and class and more), best first: near ties may change places
            yield output[..., 4].sort(-1).values, _SCORE
        else:
            yield output, 0.0


def match_detections(expected: Tensor, found: Tensor, least: float) -> tuple[int, int]:
    """Return how many detections have a partner in the other run, and how many there are.

    Those that only the other run has count as without a partner.

    Args:
        expected: Boxes, scores and classes of one run, ``(n, 6)``.
        found: The same of the other run.
        least: Score from which on a detection counts; a partner's may be lower by ``MARGIN``.
    """
    matched, missed = _partners(expected, found, least)
    return matched, matched + missed + _partners(found, expected, least)[1]


def _partners(detections: Tensor, others: Tensor, least: float) -> tuple[int, int]:
    """Return how many detections have a partner among the others, and how many have none."""
    detections = detections[detections[:, 4] >= least]
    near = (detections[:, None, 4] - others[None, :, 4]).abs() <= MARGIN
    same = (detections[:, None, 5] == others[None, :, 5]) & near & (_overlaps(detections, others) >= OVERLAP)
    matched = int(same.any(1).sum())
    return matched, len(detections) - matched


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union of boxes ``(n, 4+)`` and ``(m, 4+)``."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:4], b[None, :, 2:4])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return both / (areas[0][:, None] + areas[1][None] - both).clamp(min=1e-9)
