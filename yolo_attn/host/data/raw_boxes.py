"""Predicted boxes as the model gives them, before the host clips them to the image for predictions.json.

The host's own mAP compares them unclipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# Within this the host's own scaling and ours agree; their order of operations differs.
_ROUNDING_PX = 0.05
_LAST_DIGIT = 2e-3  # boxes are written with three digits after the point


def unclipped(boxes: torch.Tensor, clipped: torch.Tensor, shape: Sequence[int], ratio_pad: Any) -> list[list[float]]:
    """Return boxes of the model's input in pixels of the image, as x, y, width, height.

    Empty if they are not what the host has clipped, because it scales in another way.

    Args:
        boxes: ``(n, 4)`` x1, y1, x2, y2 in the input.
        clipped: ``(n, 4)`` the same in the image, as the host has them.
        shape: Height and width of the image.
        ratio_pad: Scale of height and width from image to input, and the padding left and above.
    """
    gain, pad = (torch.tensor(pair, device=boxes.device, dtype=torch.float64) for pair in ratio_pad)
    corners = (boxes.double() - pad.repeat(2)) / gain.flip(0).repeat(2)
    limit = torch.tensor([shape[1], shape[0]] * 2, device=boxes.device, dtype=torch.float64)
    if len(corners) and not (corners.clamp(min=0).minimum(limit) - clipped).abs().max() <= _ROUNDING_PX:
        return []
    return torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()


def if_other(raw: Sequence[float], written: Sequence[float]) -> list[float] | None:
    """Return a box rounded as it would be written, or None if it is the one that is written."""
    rounded = [round(value, 3) for value in raw]
    is_other = any(abs(one - other) > _LAST_DIGIT for one, other in zip(rounded, written, strict=True))
    return rounded if is_other else None
