"""Boxes and keypoints that can be read but hardly mean what a COCO file means by them: relative, corners, outside."""

from __future__ import annotations

import numpy as np

from .coco_json import CocoJson
from .json_entries import short

_BORDER_PX = 1.0
_LEAVING = 0.1  # least share of boxes that leave their image before another reading is thought of
_FITTING = 0.95  # least share of boxes that the other reading must fit

# Count -> what is said of it; the count comes first, an example follows in brackets.
WARNINGS = {
    "relative_boxes": (
        "boxes are smaller than a pixel, as if relative to their image{example}; COCO means pixels: multiply x and "
        "width by the image's width, y and height by its height"
    ),
    "corner_boxes": (
        "boxes leave their image as [x, y, width, height], and as [x1, y1, x2, y2] all would fit{example}; COCO means "
        "width and height: write x2 - x1 and y2 - y1"
    ),
    "centre_boxes": (
        "boxes leave their image as [x, y, width, height], and with x, y as their centre all would fit{example}; COCO "
        "means the upper left corner: write x - width / 2 and y - height / 2"
    ),
    "outside_boxes": (
        "boxes lie outside their image and are left out{example}; were the images resized and the annotations not?"
    ),
    "zero_areas": (
        "annotations have an 'area' of 0 or less though their box has one{example}; COCO's numbers for small, medium "
        "and large objects go by it, and keypoints by its root: leave 'area' out to have width x height"
    ),
    "relative_keypoints": (
        "annotations have all their keypoints within a pixel, as if relative to their image{example}; COCO means pixels"
    ),
    "odd_visibilities": (
        "annotations have keypoints whose visibility is not 0, 1 or 2{example}; COCO writes x, y and visibility of each"
    ),
}
_OF_KEYPOINTS = ("relative_keypoints", "odd_visibilities")
_OF_SIZE = ("relative_boxes", "corner_boxes", "centre_boxes", "outside_boxes")


def check_boxes(
    coco: CocoJson, wh: np.ndarray, with_keypoints: bool = False
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return how many annotations look wrong in which way, and an example for each way.

    Args:
        coco: The annotations; crowd regions are not looked at.
        wh: ``(images of the file, 2)`` width and height of each image, 0 where unknown.
        with_keypoints: Whether keypoints are looked at too.
    """
    rows = np.flatnonzero(~coco.crowd & (wh[coco.image_of] > 0).all(1) & (coco.boxes[:, 2:] > 0).all(1))
    boxes, limit = coco.boxes[rows], wh[coco.image_of[rows]]
    is_outside = ((boxes[:, :2] >= limit) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(1)
    wrong = {"relative_boxes": _relative(boxes), "outside_boxes": is_outside, "zero_areas": coco.areas[rows] <= 0}
    if not wrong["relative_boxes"].any():
        xy, size = boxes[:, :2], boxes[:, 2:]
        leaves = ((xy + size > limit + _BORDER_PX) | (xy < -_BORDER_PX)).any(1)
        if leaves.mean() >= _LEAVING if len(rows) else False:
            corners = ((size > xy) & (xy >= -_BORDER_PX) & (size <= limit + _BORDER_PX)).all(1)
            centres = ((xy - size / 2 >= -_BORDER_PX) & (xy + size / 2 <= limit + _BORDER_PX)).all(1)
            for name, fits in (("corner_boxes", corners), ("centre_boxes", centres)):
                wrong[name] = leaves & (fits.mean() >= _FITTING)
    if with_keypoints and coco.keypoints is not None:
        wrong |= _wrong_keypoints(coco.keypoints[rows])
    counts = {name: int(wrong[name].sum()) if name in wrong else 0 for name in WARNINGS}
    examples = {}
    for name, count in counts.items():
        if count:
            i = rows[int(wrong[name].argmax())]
            size_text = f" in an image of {wh[coco.image_of[i]].tolist()}" if name in _OF_SIZE else ""
            values = (
                coco.keypoints[i].ravel() if name in _OF_KEYPOINTS and coco.keypoints is not None else coco.boxes[i]
            )
            examples[name] = [f"annotation {short(coco.annotation_ids[i])} has {short(values.tolist())}{size_text}"]
    return counts, examples


def _relative(boxes: np.ndarray) -> np.ndarray:
    """Return which boxes lie between 0 and 1; whole pixels in the corner are so few among others that they are none."""
    is_small: np.ndarray = np.all((boxes >= 0) & (boxes <= 1), axis=1)
    is_fraction = is_small & (boxes % 1 != 0).any(1)
    return is_small if is_fraction.any() else np.zeros(len(boxes), dtype=bool)


def _wrong_keypoints(keypoints: np.ndarray) -> dict[str, np.ndarray]:
    xy, visibility = keypoints[..., :2], keypoints[..., 2]
    is_labelled = visibility > 0
    is_small = ((xy >= 0) & (xy <= 1)).all(-1) | ~is_labelled
    is_fraction = (xy % 1 != 0).any(-1) & is_labelled
    return {
        "relative_keypoints": is_small.all(1) & is_fraction.any(1),
        "odd_visibilities": (is_labelled & ~np.isin(visibility, (1, 2))).any(1),
    }
