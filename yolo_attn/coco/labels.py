"""From annotations in pixels to training labels: clipped, normalised, without repeats, in the order of the images."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError
from .coco_json import CocoJson
from .masks import INSET, Masks, joined, outlines

TASKS = ("detect", "segment", "pose")
# An edge that moves by less than this is rounding of the writer, not an object outside the image.
_ROUNDING_PX = 0.01
# A box around an outline that is farther than this from 'bbox' is another box; COCO rounds its own to half of it.
_OTHER_BOX_PX = 1.0
# A keypoint further outside than this is not in the picture.
_BORDER_PX = 1.0
# Outlines that end before this, from the image's corner on, are relative to it; a pixel of a run-length mask ends at 1.
_TINY_PX = 0.99
_CHUNK = 20_000  # objects whose outlines are held in double precision at once


@dataclass
class Labels:
    """The objects to train on, sorted by image, and in the order of the file within an image.

    Attributes:
        image: ``(m,)`` position of the image of each object.
        cls: ``(m,)`` class of each object.
        boxes: ``(m, 4)`` centre x, centre y, width, height relative to the image, float32.
        points: ``(p, 2)`` x and y of all outlines relative to the image, float32; empty if the task has none.
        point_starts: ``(m + 1,)`` the points of object i are those from its entry to the next.
        keypoints: ``(m, k, 3)`` x and y relative to the image and visibility, float32; k = 0 if the task has none.
        counts: What was mended and left out.
    """

    image: np.ndarray
    cls: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    point_starts: np.ndarray
    keypoints: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def keep(self, is_kept: np.ndarray) -> None:
        """Leave out all other objects."""
        if is_kept.all():
            return
        lengths = np.diff(self.point_starts)
        self.points = self.points[np.repeat(is_kept, lengths)]
        self.point_starts = np.concatenate([[0], np.cumsum(lengths[is_kept])])
        self.image, self.cls, self.boxes = self.image[is_kept], self.cls[is_kept], self.boxes[is_kept]
        self.keypoints = self.keypoints[is_kept]


def make_labels(coco: CocoJson, task: str, position: np.ndarray, cls: np.ndarray, hw: np.ndarray) -> Labels:
    """Return the labels of a task.

    Args:
        coco: The annotations.
        task: One of ``TASKS``.
        position: ``(images of the file,)`` position of each image, -1 where it cannot be used.
        cls: ``(m,)`` class of each annotation.
        hw: ``(positions, 2)`` height and width of each image in pixels.

    Raises:
        DataError: If the task needs masks or keypoints that the file does not have or that cannot be used.
    """
    image = position[coco.image_of]
    is_lost = (image < 0) & ~coco.crowd
    counts = {"crowd": int(coco.crowd.sum()), "lost_boxes": int(is_lost.sum())}
    wanted = np.flatnonzero(~is_lost & ~coco.crowd)
    wanted = wanted[np.argsort(image[wanted], kind="stable")]
    image = image[wanted]

    wh = hw[:, ::-1].astype(np.float64)
    boxes, limit = coco.boxes[wanted], np.tile(wh[image], 2)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, limit)
    xywh = _centred(clipped / limit)
    is_solid = (boxes[:, 2:] > 0).all(1) & (xywh[:, 2:] > 0).all(1)
    is_moved = (np.abs(clipped - corners) > _ROUNDING_PX).any(1)[is_solid]
    counts["degenerate"] = int((~is_solid).sum())

    kept, image, clipped = wanted[is_solid], image[is_solid], clipped[is_solid]
    n = len(kept)
    nothing = np.zeros((0, 2), np.float32), np.zeros(n + 1, np.int64), np.zeros((n, 0, 3), np.float32)
    labels = Labels(image, cls[kept], xywh[is_solid], *nothing, counts)
    if task == "segment":
        is_moved |= _add_outlines(labels, coco, kept, clipped, wh)
    counts["clipped"] = int(is_moved.sum())
    if task == "pose":
        _add_keypoints(labels, coco, kept, wh)
    before = len(labels.cls)
    labels.keep(~_repeats(labels))
    counts["duplicate_boxes"] = before - len(labels.cls)
    return labels


def _centred(corners: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1, dtype=np.float32
    )


def _add_outlines(labels: Labels, coco: CocoJson, kept: np.ndarray, boxes: np.ndarray, wh: np.ndarray) -> np.ndarray:
    """Give each object one outline and the box around it; return which outlines were clipped to their image.

    An object without a mask that can be used gets its box as outline.
    """
    masks = coco.masks
    if masks is None and len(kept):
        first = "".join(f" ({example})" for example in coco.examples.get("bad_masks", ()))
        raise DataError(
            f"{coco.path}: no annotation has a 'segmentation' that can be used{first}; a segment model needs masks, a "
            "detect model is content with boxes"
        )
    x1, y1, x2, y2 = boxes.T
    rectangles = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 4, 2)
    is_moved = np.zeros(len(kept), dtype=bool)
    counts = {"boxes_as_segments": 0, "other_sizes": 0, "holes_filled": 0, "boxes_redrawn": 0, "tiny_masks": 0}
    points, found = [labels.points], [np.zeros((0, 4), np.float32)]
    lengths: list[np.ndarray] = [np.zeros(1, np.int64)]
    for start in range(0, len(kept), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        limits = wh[labels.image[chunk]]
        assert masks is not None
        pieces = list(rectangles[chunk])
        is_box = np.ones(len(pieces), dtype=bool)
        inset = np.zeros((len(pieces), 1))
        for i, (row, limit) in enumerate(zip(kept[chunk].tolist(), limits, strict=True)):
            if masks.is_rle(row):
                if masks.size(row) != (limit[1], limit[0]):
                    counts["other_sizes"] += 1
                    continue
                inset[i] = INSET
            outline, has_hole = _outline(masks, row)
            if outline is not None:
                pieces[i], is_box[i] = outline, False
                counts["holes_filled"] += has_hole
        xy, corners, moved = _normalised(pieces, limits)
        is_flat = (corners[:, 2:] <= corners[:, :2]).any(1)
        if is_flat.any():
            for i in np.flatnonzero(is_flat).tolist():
                pieces[i], inset[i] = rectangles[start + i], 0
            xy, corners, moved = _normalised(pieces, limits)
        corners[:, 2:] = np.minimum(corners[:, 2:] + inset / limits, 1)
        counts["boxes_as_segments"] += int((is_box | is_flat).sum())
        pixels = corners * np.tile(limits, 2)
        counts["tiny_masks"] += int((~is_box & (pixels[:, 2:] < _TINY_PX).all(1)).sum())
        drawn = np.abs(pixels - boxes[chunk]).max(1, initial=0) > _OTHER_BOX_PX
        counts["boxes_redrawn"] += int(drawn.sum())
        is_moved[chunk] = moved
        points.append(xy)
        lengths.append(np.array([len(piece) for piece in pieces]))
        found.append(_centred(corners))
    labels.points, labels.point_starts = np.concatenate(points), np.cumsum(np.concatenate(lengths))
    labels.boxes = np.concatenate(found)
    labels.counts.update(counts)
    return is_moved


def _outline(masks: Masks, row: int) -> tuple[np.ndarray | None, bool]:
    """Return the outline of an annotation in pixels, None if it has no usable mask, and whether a hole was filled."""
    parts, has_hole = outlines(masks.bitmap(row)) if masks.is_rle(row) else (masks.parts(row), False)
    return (joined(parts) if parts else None), has_hole


def _normalised(pieces: list[np.ndarray], limits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all points relative to their image, the corners of the box around each piece, and which were clipped."""
    lengths = np.array([len(piece) for piece in pieces])
    starts = np.cumsum(lengths) - lengths
    pixels = np.concatenate(pieces)
    limit = np.repeat(limits, lengths, axis=0)
    clipped = np.clip(pixels, 0, limit)
    is_moved = np.maximum.reduceat(np.abs(clipped - pixels).max(1), starts) > _ROUNDING_PX
    xy = (clipped / limit).astype(np.float32)
    corners = np.concatenate([np.minimum.reduceat(xy, starts), np.maximum.reduceat(xy, starts)], axis=1)
    return xy, corners, is_moved


def _add_keypoints(labels: Labels, coco: CocoJson, kept: np.ndarray, wh: np.ndarray) -> None:
    """Give each object its keypoints, and leave out objects that have none labelled."""
    if not len(kept):
        labels.keypoints = np.zeros((0, 0 if coco.keypoints is None else coco.keypoints.shape[1], 3), np.float32)
        return
    if coco.pose_problem or coco.keypoints is None:
        raise DataError(coco.pose_problem)
    keypoints = coco.keypoints[kept]
    limit = wh[labels.image][:, None]
    xy, visibility = keypoints[..., :2], keypoints[..., 2]
    is_outside = ((xy < -_BORDER_PX) | (xy > limit + _BORDER_PX)).any(-1) & (visibility != 0)
    is_bad = is_outside | (visibility < 0)
    labels.counts["bad_keypoints"] = int(is_bad.sum())
    keypoints[is_bad] = 0
    keypoints[..., :2] = np.clip(xy, 0, limit) / limit
    labels.keypoints = keypoints.astype(np.float32)
    is_labelled: np.ndarray = np.any(labels.keypoints[..., 2] > 0, axis=1)
    labels.counts["without_keypoints"] = int((~is_labelled).sum())
    labels.keep(is_labelled)


def _repeats(labels: Labels) -> np.ndarray:
    """Return which objects repeat an earlier one in every respect."""
    objects = np.column_stack([labels.image, labels.cls, labels.boxes])
    order = np.lexsort(objects.T[::-1])
    is_same = (objects[order[1:]] == objects[order[:-1]]).all(1)
    is_repeat = np.zeros(len(objects), dtype=bool)
    if not len(labels.points) and not labels.keypoints.shape[1]:
        is_repeat[order[1:][is_same]] = True
        return is_repeat
    group = np.concatenate([[0], np.cumsum(~is_same)])[: len(objects)]
    in_group = np.append(is_same, False)[: len(objects)] | np.append(False, is_same)[: len(objects)]
    seen: set[tuple[int, bytes]] = set()
    for i, number in zip(order[in_group].tolist(), group[in_group].tolist(), strict=True):
        outline = labels.points[labels.point_starts[i] : labels.point_starts[i + 1]]
        key = number, outline.tobytes() + labels.keypoints[i].tobytes()
        is_repeat[i] = key in seen
        seen.add(key)
    return is_repeat
