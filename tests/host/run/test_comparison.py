"""How far two runs of one model are apart."""

from __future__ import annotations

import torch

from yolo_attn.host.run.comparison import match_detections, raw_difference

CLASSES = 2


def outputs() -> torch.Tensor:
    """Return boxes of up to 100 pixels and scores of up to 0.8 at 20 places."""
    y = torch.rand(1, 4 + CLASSES, 20, generator=torch.Generator().manual_seed(0))
    y[:, :4] *= 100 / y[:, :4].max()
    y[:, 4:] *= 0.8 / y[:, 4:].max()
    return y


def test_scores_do_not_hide_behind_boxes() -> None:
    a, b = outputs(), outputs()
    b[0, 5, 3] += 0.04
    assert abs(raw_difference([a], [b], CLASSES) - 0.05) < 1e-6
    c = outputs()
    c[0, 0, 0] += 1
    assert abs(raw_difference([a], [c], CLASSES) - 0.01) < 1e-6
    assert raw_difference([a], [a.clone()], CLASSES) == 0


def test_scores_near_zero_are_not_blown_up() -> None:
    a, b = outputs(), outputs()
    a[:, 4:] *= 1e-4
    b[:, 4:] = a[:, 4:] + 1e-7  # what runtimes lose by approximating the sigmoid
    assert raw_difference([a], [b], CLASSES) < 2e-5


def test_what_is_not_finite_or_has_another_shape_is_infinitely_far() -> None:
    a = outputs()
    for bad in (float("nan"), float("inf")):
        b = outputs()
        b[0, 5, 0] = bad
        assert raw_difference([a], [b], CLASSES) == float("inf")
    assert raw_difference([a], [a[:, :, :10]], CLASSES) == float("inf")
    assert raw_difference([a], [a, a], CLASSES) == float("inf")


def test_ranked_detections_may_change_places() -> None:
    a = torch.rand(1, 30, 6, generator=torch.Generator().manual_seed(0))
    assert raw_difference([a], [a.flip(1)], CLASSES) == 0
    b = a.clone()
    b[0, 0, 4] = 3.0
    assert raw_difference([a], [b], CLASSES) > 1


def test_masks_and_classes_are_compared_whole() -> None:
    mask, scores = torch.ones(1, 32, 8, 8), torch.tensor([[0.1, 0.9]])
    assert raw_difference([mask, scores], [mask + 0.5, scores], CLASSES) == 0.5


def test_detections_are_matched_by_class_and_overlap() -> None:
    a = torch.tensor([[0, 0, 10, 10, 0.9, 0], [20, 20, 40, 40, 0.5, 1], [0, 0, 5, 5, 0.1, 0]])
    assert match_detections(a, a.flip(0), 0.25) == (2, 2)
    other_class, moved, weaker, more = a.clone(), a.clone(), a.clone(), torch.cat([a, a[:1] + 50])
    other_class[0, 5], moved[1, :4], weaker[0, 4] = 1, moved[1, :4] + 5, 0.8
    assert match_detections(a, other_class, 0.25) == (1, 3)
    assert match_detections(a, moved, 0.25) == (1, 3)
    assert match_detections(a, weaker, 0.25) == (1, 3)
    assert match_detections(a, more, 0.25) == (2, 3)
    assert match_detections(a, a[:0], 0.25) == (0, 2)
    assert match_detections(a[:0], a[:0], 0.25) == (0, 0)


def test_a_partner_may_score_just_below_the_threshold() -> None:
    a = torch.tensor([[0, 0, 10, 10, 0.26, 0]])
    b = torch.tensor([[0, 0, 10, 10, 0.24, 0]])
    assert match_detections(a, b, 0.25) == (1, 1)
