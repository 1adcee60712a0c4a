"""The host's validators, made to judge COCO-format data as COCO does.

``begin`` reaches every validator once its data are known (see ``builders.init_metrics_joint``), so the ``yolo``
command, Python, scripts, multi-GPU workers and the user's own subclasses all report the official numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.utils import LOGGER, RANK

from ...coco.classes import ClassMap, match_classes
from ...coco.coco_json import CocoJson, read_coco_json
from ...coco.evaluation import Evaluation, evaluate
from ...coco.reasons import Case, Reason, find_reasons
from ...coco.report import compare_line, per_class_table, render, write_csv
from .raw_boxes import if_other, unclipped

REPORT = "coco_metrics.json"
PER_CLASS = "coco_per_class.csv"
PREDICTIONS = "predictions.json"

# Task -> kind of official numbers -> attribute of the host's metrics with the same objects.
KINDS = {
    "detect": {"bbox": "box"},
    "segment": {"bbox": "box", "segm": "seg"},
    "pose": {"bbox": "box", "keypoints": "pose"},
}
# Keys that newer hosts fill from an evaluation of their own.
_AREA_KEYS = {"metrics/mAP_small(B)": "APs", "metrics/mAP_medium(B)": "APm", "metrics/mAP_large(B)": "APl"}


def begin(validator: Any, original: Callable[..., None], model: Any) -> None:
    """Make a validator of the host one with the official numbers, and let it prepare its run.

    Args:
        validator: A detection validator, or one that extends it, whose data are COCO format.
        original: The host's ``init_metrics`` of detection.
        model: The model, with ``names``.

    Raises:
        DataError: If the model's classes cannot be those of the data.
    """
    if not isinstance(validator, Official):
        validator.__class__ = _official(type(validator))
    validator.begin(original, model)


class Official:
    """What a validator of the host gains: predictions with the JSON's own ids, and their official evaluation.

    During training, epochs are validated as the host does; the official numbers are computed for the final checkpoint.

    Attributes:
        is_judged: Whether to compute them at all; the host's own numbers come in any case.
        coco_stats: Kind (``bbox``, ``segm``, ``keypoints``) -> official numbers by name, or None before they are known.
    """

    coco_stats: dict[str, dict[str, float]] | None = None
    is_judged: bool = True
    _unclipped: Sequence[Sequence[float]] = ()
    # The host's own attributes.
    args: Any
    class_map: list[Any]
    confusion_matrix: Any
    data: Any
    dataloader: Any
    is_coco: bool
    is_lvis: bool
    jdict: list[dict[str, Any]]
    metrics: Any
    nc: int
    save_dir: Path
    training: bool

    def begin(self, original: Callable[..., None], model: Any) -> None:
        """Prepare a validation run; see the function of this name."""
        self.coco_stats = None
        self._raw_boxes: list[list[float] | None] = []
        self._classes = self._match(model.names)
        # With this on, the host builds ground truth of its own, without crowd regions and areas.
        self.args.save_json = False
        original(self, _Named(model, self._classes.names) if self._classes.unknown else model)
        self.nc = len(model.names)
        self.is_coco = self.is_lvis = False
        self.class_map = list(self._classes.category_ids)
        self.args.save_json = self._is_official()

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Give the labels the model's class numbers, after the host's own preparation."""
        batch = super().preprocess(batch)  # type: ignore[misc]
        if self._classes.of_data is not None:
            cls = batch["cls"]
            batch["cls"] = torch.tensor(self._classes.of_data, device=cls.device, dtype=cls.dtype)[cls.long()]
        return batch

    def scale_preds(self, predn: dict[str, Any], pbatch: dict[str, Any]) -> dict[str, Any]:
        """Scale predictions to the original image as the host does, and keep what it clips off their boxes.

        Older hosts have no such method: they clip before they compare, and their mAP is that of clipped boxes.
        """
        scaled = super().scale_preds(predn, pbatch)  # type: ignore[misc]
        self._unclipped = unclipped(predn["bboxes"], scaled["bboxes"], pbatch["ori_shape"], pbatch["ratio_pad"])
        return scaled

    def pred_to_json(self, predn: Any, target: Any, *rest: Any) -> None:
        """Append what the host writes of one image, with the JSON's ids, once for each id it gives the image.

        Args:
            predn: Objects in pixels of the original image, as the host has them.
            target: What the host says of the image: a mapping with ``im_file``, or in older hosts the path itself.
            *rest: Further arguments of older hosts.
        """
        start = len(self.jdict)
        super().pred_to_json(predn, target, *rest)  # type: ignore[misc]
        rows = self.jdict[start:]
        del self.jdict[start:]
        file = target["im_file"] if isinstance(target, dict) else target
        raw, self._unclipped = self._unclipped, ()
        boxes: list[list[float] | None] = [None] * len(rows)
        if len(raw) == len(rows):
            boxes = [if_other(box, row["bbox"]) for box, row in zip(raw, rows, strict=True)]
        for row in rows:
            row["file_name"] = Path(file).name
            if "keypoints" in row and self.data["kpt_shape"][1] == 2:
                row["keypoints"] = _with_visibility(row["keypoints"])
        kept = [i for i, row in enumerate(rows) if row["category_id"] is not None]
        self._foreign += len(rows) - len(kept)
        for image_id in self.dataloader.dataset.image_ids[file]:
            self.jdict.extend({**rows[i], "image_id": image_id} for i in kept)
            self._raw_boxes.extend(boxes[i] for i in kept)

    def print_results(self) -> None:
        """Print the host's table; without any prediction do the last step too, which the host then skips."""
        super().print_results()  # type: ignore[misc]
        if self._is_official() and not self.jdict and RANK in {-1, 0}:
            (self.save_dir / PREDICTIONS).write_text("[]", encoding="utf-8")
            self.eval_json({})

    def eval_json(self, stats: dict[str, Any]) -> dict[str, Any]:
        """Compute, print and keep the official numbers against the user's own JSON."""
        if not self._is_official():
            return stats
        dataset = self.dataloader.dataset
        coco = read_coco_json(dataset.json_file, require_annotations=False)
        image_ids = [id_ for file in dataset.im_files for id_ in dataset.image_ids[file]]
        own = {kind: getattr(self.metrics, name) for kind, name in KINDS[self.args.task].items()}
        report: dict[str, Any] = {
            "ultralytics": {k: {"mAP50-95": float(m.map), "mAP50": float(m.map50)} for k, m in own.items()},
            "json": dataset.json_file,
            "images": len(image_ids),
            "images_in_json": len(coco.image_ids),
            "max_det": self.args.max_det,
            "predictions": {kind: str(self._write(kind)) for kind in own},
            "notes": [*self._classes.notes(dataset.json_file, self._foreign)],
        }
        if len(coco.boxes):
            classes = self.args.classes
            ids = dataset.category_ids
            chosen = ids if classes is None else [ids[c] for c in _as_list(classes)]
            sizes = {id_: dataset.true_sizes[file] for file in dataset.im_files for id_ in dataset.image_ids[file]}
            sigmas = self.data.get("kpt_oks_sigmas")
            use_categories = not self.args.single_cls
            options = {"category_ids": chosen, "use_categories": use_categories, "sizes": sizes, "sigmas": sigmas}
            evaluations = [evaluate(coco, self.jdict, image_ids, kind=kind, **options) for kind in own]
            reasons = {
                e.kind: self._reasons(coco, image_ids, e, {**options, "kind": e.kind}, report["ultralytics"][e.kind])
                for e in evaluations
            }
            self.coco_stats = {evaluation.kind: evaluation.numbers for evaluation in evaluations}
            stats.update({key: self.coco_stats["bbox"][name] for key, name in _AREA_KEYS.items() if key in stats})
            csv = self.save_dir / PER_CLASS
            write_csv(evaluations, csv)
            said = [*report["notes"], *(note for evaluation in evaluations for note in evaluation.notes)]
            report |= {"coco": self.coco_stats, "per_class": str(csv.absolute()), "notes": list(dict.fromkeys(said))}
            LOGGER.info(self._text(report, evaluations, reasons))
        else:
            LOGGER.info(
                f"{dataset.json_file} has no annotations: nothing to compare with. Predictions with its ids, ready "
                f"to submit: {', '.join(report['predictions'].values())}"
            )
        (self.save_dir / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
        return stats

    def _reasons(
        self, coco: CocoJson, image_ids: list[Any], judged: Evaluation, options: dict[str, Any], own: dict[str, float]
    ) -> list[Reason]:
        """Return why the host's mAP of one kind is another than COCO's, the reason of the largest effect first."""
        # Where several processes predicted, only the predictions of this one are known before they were clipped.
        is_known = len(self._raw_boxes) == len(self.jdict)
        case = Case(
            coco=coco,
            predictions=self.jdict,
            image_ids=image_ids,
            options=options,
            raw_boxes=self._raw_boxes if is_known else (),
            labels=self._labels(coco),
            max_det=self.args.max_det,
        )
        return find_reasons(case, judged, own)

    def _labels(self, coco: CocoJson) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return the objects that the host compares with, where their boxes are not those of the JSON.

        They are index of the image and of the category in the JSON, and box.
        """
        dataset = self.dataloader.dataset
        if dataset.objects is None:
            return None
        place, cls, boxes = dataset.objects
        images = {id_: i for i, id_ in enumerate(coco.image_ids)}
        categories = {id_: i for i, (id_, _) in enumerate(coco.categories)}
        image_of = np.array([images[ids[0]] for ids in dataset.image_ids.values()])
        category_of = np.array([categories.get(id_, 0) for id_ in dataset.category_ids])
        return image_of[place], category_of[cls], boxes

    def _text(self, report: dict[str, Any], evaluations: list[Evaluation], reasons: Mapping[str, list[Reason]]) -> str:
        """Return what is printed: official numbers, categories, both mAPs and why they differ, files."""
        part = "" if report["images"] == report["images_in_json"] else f" of {report['images_in_json']}"
        lines = []
        # The tables may be long: what is short and official stands last, where the reader ends.
        for evaluation in evaluations if self.args.verbose else ():
            if len(evaluation.per_class) > 1:
                lines += ["", f"Per class ({evaluation.kind}), as COCO counts", per_class_table(evaluation)]
        for evaluation in evaluations:
            what = f"({evaluation.kind}) against {report['json']} ({report['images']}{part} images)"
            lines += ["", f"Official COCO numbers {what}", render(evaluation)]
        return "\n".join(
            [
                *lines,
                "",
                compare_line(evaluations, report["ultralytics"], reasons),
                *(f"Note: {note}." for note in report["notes"]),
                f"Per class: {report['per_class']}",
                f"Predictions with the JSON's ids: {', '.join(report['predictions'].values())}",
            ]
        )

    def _write(self, kind: str) -> Path:
        """Return the file with the predictions of one kind in COCO's own format.

        The host's file has boxes beside masks or keypoints; pycocotools would then take the box's area for the mask's.
        """
        file = (self.save_dir / PREDICTIONS).absolute()
        if kind == "bbox":
            return file
        file = file.with_stem(f"{file.stem}_{kind}")
        key = "segmentation" if kind == "segm" else kind
        rows = [{k: row[k] for k in ("image_id", "category_id", key, "score")} for row in self.jdict]
        file.write_text(json.dumps(rows), encoding="utf-8")
        return file

    def _is_official(self) -> bool:
        return self.is_judged and not self.training

    def _match(self, names: Mapping[int, str]) -> ClassMap:
        self._foreign = 0
        if self.args.single_cls:
            return ClassMap(tuple(names.values()), tuple(self._category_ids()[:1]) * len(names))
        return match_classes(
            list(names.values()),
            list(self.data["names"].values()),
            self._category_ids(),
            str(self.data.get("yaml_file", "the data")),
        )

    def _category_ids(self) -> Sequence[Any]:
        dataset = getattr(self.dataloader, "dataset", None)
        return getattr(dataset, "category_ids", self.data["category_ids"])


class _Named:
    """A model under more names than it has classes: those of the categories that it cannot predict follow its own."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        self._model = model
        self.names = dict(enumerate(names))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


_made: dict[type, type] = {}


def _official(cls: type) -> type:
    """Return the class of validators of this class with the official numbers."""
    if cls not in _made:
        _made[cls] = type(f"COCO{cls.__name__}", (Official, cls), {"__module__": __name__})
    return _made[cls]


def _with_visibility(xy: list[float]) -> list[float]:
    """Return x, y pairs as COCO's x, y, v triples."""
    return [value for x, y in zip(xy[::2], xy[1::2], strict=True) for value in (x, y, 1.0)]


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]
