"""The official COCO numbers as text for a terminal and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .evaluation import MEASURES, PER_CLASS, Evaluation
from .reasons import Reason

_WHAT = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
_WIDEST_NAME = 21
_SHOWN_STEP = 5e-5  # half of the last digit shown


def render(evaluation: Evaluation) -> str:
    """Return the official numbers as lines of text: name, value, meaning."""
    return "\n".join(
        f"  {measure.name:<6} {evaluation.numbers[measure.name]:7.4f}   {measure.meaning}"
        for measure in MEASURES[evaluation.kind]
    )


def per_class_table(evaluation: Evaluation) -> str:
    """Return one line per category, and one for all if there are several; ``-`` where there is nothing to measure."""
    names = [name for name in PER_CLASS if name in evaluation.numbers]
    rows = list(evaluation.per_class)
    if len(rows) != 1:
        rows.append(_all(evaluation))
    labels = [_clipped(str(row["name"])) for row in rows]
    width = max(len("class"), *map(len, labels))
    lines = [f"{'class':<{width}} {'images':>6} {'instances':>9}" + "".join(f" {name:>5}" for name in names)]
    for label, row in zip(labels, rows, strict=True):
        values = "".join(f" {row[name]:5.3f}" if row[name] >= 0 else f" {'-':>5}" for name in names)
        lines.append(f"{label:<{width}} {row['images']:>6} {row['instances']:>9}{values}")
    return "\n".join(lines)


def write_csv(evaluations: Evaluation | Sequence[Evaluation], path: str | Path) -> None:
    """Write one line per kind and category, after one for all categories of the kind.

    Columns: ``kind`` (bbox, segm, keypoints); ``id`` and ``name`` of the category as the JSON has them (empty and
    "all" for the line of all); ``images`` with an instance (for all: images evaluated) and ``instances`` that count
    (no crowd regions; for keypoints at least one labelled keypoint); then ``AP, AP50, AP75, APs, APm, APl`` in [0, 1]
    and the recall ``AR100`` (boxes, masks) or ``AR`` (keypoints), as COCO defines them. -1 where there is nothing to
    measure, empty where COCO has no such number for the kind. UTF-8.

    Args:
        evaluations: One, or one of each kind.
        path: The file, which is replaced.
    """
    evaluations = [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)
    names = [name for name in PER_CLASS if any(name in evaluation.numbers for evaluation in evaluations)]
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["kind", "id", "name", "images", "instances", *names], restval="")
        writer.writeheader()
        for evaluation in evaluations:
            for row in (_all(evaluation), *evaluation.per_class):
                shown = {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
                writer.writerow({"kind": evaluation.kind, **shown})


def compare_line(
    evaluations: Evaluation | Sequence[Evaluation],
    own: Mapping[str, Mapping[str, float]],
    reasons: Mapping[str, Sequence[Reason]] | None = None,
) -> str:
    """Return both mAPs side by side for each kind, and one line with the reasons that apply to these data.

    Args:
        evaluations: One, or one of each kind.
        own: What Ultralytics found, by kind: ``{"bbox": {"mAP50": ..., "mAP50-95": ...}}``.
        reasons: Why they differ, by kind, the largest first. What explains less than the numbers show is not named.
    """
    evaluations = [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)
    lines, said = [f"{'':>22}{'mAP50':>11}{'mAP50-95':>11}"], []
    for evaluation in evaluations:
        theirs, ours = own[evaluation.kind], evaluation.numbers
        what = _WHAT[evaluation.kind]
        pairs = [(theirs["mAP50"], ours["AP50"]), (theirs["mAP50-95"], ours["AP"])]
        lines.append(f"{f'Ultralytics, {what}':>22}" + "".join(f"{value:>11.4f}" for value, _ in pairs))
        shown = [f"{value:.4f}" if value >= 0 else "-" for _, value in pairs]
        lines.append(f"{f'COCO, {what}':>22}" + "".join(f"{value:>11}" for value in shown))
        found = [reason for reason in (reasons or {}).get(evaluation.kind, ()) if reason.size >= _SHOWN_STEP]
        if found and any(value >= 0 and abs(value - other) >= _SHOWN_STEP for other, value in pairs):
            said.append(("" if len(evaluations) == 1 else f"for {what}, ") + _listed(found))
    if said:
        lines.append(f"They differ because COCO{', '[len(evaluations) == 1 :]}{'; '.join(said)}.")
    return "\n".join(lines)


def _listed(reasons: Sequence[Reason]) -> str:
    *first, last = map(_with_size, reasons)
    return f"{', '.join(first)} and {last}" if first else last


def _with_size(reason: Reason) -> str:
    if reason.sizes is None:
        return reason.text
    name, size = max(zip(("mAP50", "mAP50-95"), reason.sizes, strict=True), key=lambda pair: (abs(pair[1]), pair[0]))
    return f"{reason.text} [{'about ' if reason.is_about else ''}{size:+.4f} {name}]"


def _all(evaluation: Evaluation) -> dict[str, Any]:
    numbers = {name: evaluation.numbers[name] for name in PER_CLASS if name in evaluation.numbers}
    return {"id": "", "name": "all", "images": evaluation.images, "instances": evaluation.instances, **numbers}


def _clipped(name: str) -> str:
    return name if len(name) <= _WIDEST_NAME else f"{name[: _WIDEST_NAME - 3]}..."
