"""Boxes before the host clips them are the ones it has clipped, in any size of image and input."""

from __future__ import annotations

import pytest
import torch

from yolo_attn.host.data.raw_boxes import if_other, unclipped


@pytest.mark.parametrize("shape", [(48, 64), (640, 427), (70, 1999)])
@pytest.mark.parametrize("side", [64, 640])
def test_raw_boxes_clipped_are_those_of_the_host(shape: tuple[int, int], side: int) -> None:
    from ultralytics.utils import ops

    gain = side / max(shape)
    height, width = round(shape[0] * gain), round(shape[1] * gain)
    ratio_pad = (height / shape[0], width / shape[1]), ((side - width) / 2, (side - height) / 2)
    corner = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * side - side / 4
    boxes = torch.cat([corner, corner + side / 3], 1)
    clipped = ops.scale_boxes((side, side), boxes.clone(), shape, ratio_pad=ratio_pad)
    raw = torch.tensor(unclipped(boxes, clipped, shape, ratio_pad))
    if ratio_pad[0][0] != ratio_pad[0][1] and not len(raw):
        pytest.skip("this host scales by one side")
    corners = torch.cat([raw[:, :2], raw[:, :2] + raw[:, 2:]], 1)
    limit = torch.tensor([shape[1], shape[0]] * 2)
    torch.testing.assert_close(corners.clamp(min=0).minimum(limit), clipped, atol=1e-2, rtol=0)
    assert (corners < -1).any() and (corners > limit + 1).any()
    torch.testing.assert_close(raw[:, 2] * ratio_pad[0][1], torch.full((200,), side / 3), atol=1e-2, rtol=0)


def test_boxes_that_the_host_scales_in_another_way_are_not_known() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    pad = (1.0, 1.0), (0.0, 0.0)
    assert unclipped(boxes, boxes + 1, (64, 64), pad) == []
    assert unclipped(boxes, boxes, (64, 64), pad) == [[0, 0, 10, 10]]
    assert unclipped(boxes[:0], boxes[:0], (64, 64), pad) == []


def test_only_boxes_that_differ_where_they_are_written_are_kept() -> None:
    assert if_other([1.0004, 2, 3, 4], [1.0, 2, 3, 4]) is None
    assert if_other([-1.00049, 2, 3, 4], [0, 2, 3, 4]) == [-1.0, 2, 3, 4]
