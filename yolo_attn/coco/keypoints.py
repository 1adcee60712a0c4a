"""What Ultralytics wants to know of keypoints, from the JSON files and the user's data YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from .coco_json import Header
from .json_entries import shown

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


def describe_keypoints(
    label: str, given: Mapping[str, Any], headers: Mapping[str, Header], classes: int, task: str
) -> dict[str, Any]:
    """Return ``kpt_shape``, ``kpt_names`` and ``flip_idx`` as far as they are known; what the user says wins.

    Args:
        label: The data YAML, for messages.
        given: Its content.
        headers: Split -> header of its JSON.
        classes: Number of classes.
        task: ``"pose"`` makes it an error when there are no keypoints that can be trained on.

    Raises:
        DataError: If what the user says does not fit the JSON files, or a pose model cannot be trained.
    """
    annotated = {split: h for split, h in headers.items() if h.is_annotated}
    counts = {split: h.keypoint_count for split, h in annotated.items()}
    problem = next((h.pose_problem for h in annotated.values() if h.pose_problem), "")
    if not problem and len(set(counts.values())) > 1:
        problem = f"{label}: the splits must have the same number of keypoints, not {_listed(counts)}"
    if problem or not counts:
        if task == "pose":
            raise DataError(problem or f"{label}: a pose model needs a split with 'annotations'")
        return {}
    k = next(iter(counts.values()))
    names = next((h.keypoint_names for h in annotated.values() if h.keypoint_names), ())
    shape = given.get("kpt_shape", [k, 3])
    if not (isinstance(shape, list | tuple) and list(shape) in ([k, 2], [k, 3])):
        raise DataError(
            f"{label}: 'kpt_shape: {shown(shape)}' but the objects in the JSON files have {k} keypoints; leave it out, "
            f"or say [{k}, 3], or [{k}, 2] for a model that does not predict visibility"
        )
    found: dict[str, Any] = {"kpt_shape": list(shape)}
    flip = given.get("flip_idx") or flip_index(names)
    if flip:
        if not isinstance(flip, list | tuple) or sorted(map(str, flip)) != sorted(map(str, range(k))):
            raise DataError(
                f"{label}: 'flip_idx: {shown(flip)}' must hold each of the numbers 0 to {k - 1} once: for each "
                "keypoint the one that takes its place when the image is mirrored"
            )
        found["flip_idx"] = list(flip)
    if names:
        found["kpt_names"] = given.get("kpt_names") or {i: list(names) for i in range(classes)}
    return found


def flip_index(names: Sequence[str]) -> list[int]:
    """Return for each keypoint the one that takes its place in a mirrored image, by left and right in their names.

    Without a name that has a counterpart nothing is known, and the list is empty.
    """
    lower = [name.lower() for name in names]
    mirrored = [re.sub(r"left|right|(?<![a-z])[lr](?![a-z])", lambda m: _SIDES[m[0]], name) for name in lower]
    flip = [lower.index(m) if m in lower else i for i, m in enumerate(mirrored)]
    is_known = flip != list(range(len(names))) and len(set(flip)) == len(flip)
    return flip if is_known else []


def _listed(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count} ({split})" for split, count in counts.items())
