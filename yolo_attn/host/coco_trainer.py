"""Trainer and validator of the host that report the official COCO numbers for COCO-format data."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import torch
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.checks import check_file

from ..coco_eval import evaluate, notes, render
from ..coco_table import read_table
from ..errors import DataError

REPORT = "coco_metrics.json"


class COCOValidator(DetectionValidator):
    """Validator that writes predictions with the JSON's own ids and judges them as COCO does.

    Data of another format are validated as the host does. During training, epochs are too: the official numbers are
    computed for the final checkpoint.

    Attributes:
        coco_stats: The official numbers by name (``yolo_attn.coco_eval.NUMBERS``), or None before they are known.
    """

    coco_stats: dict[str, float] | None = None
    # The host creates these as None and fills them later.
    data: Any
    jdict: Any
    class_map: Any
    names: Any

    def __call__(self, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
        """Validate as the host does, then report the COCO numbers unless training is going on."""
        self.coco_stats = None
        stats = super().__call__(trainer, model, **kwargs)
        # The host skips its own last step when nothing at all was predicted.
        if self._is_official() and self.coco_stats is None and RANK in {-1, 0}:
            self._predictions_file().write_text("[]", encoding="utf-8")
            stats = self.eval_json(stats)
        return stats

    def init_metrics(self, model: Any) -> None:
        """Prepare a validation run; predictions are collected for the official evaluation only."""
        if "coco" not in self.data:
            super().init_metrics(model)
            return
        # With this on, the host builds ground truth of its own, without crowd regions and areas.
        self.args.save_json = False
        super().init_metrics(model)
        self.is_coco = self.is_lvis = False
        self.class_map = list(self.data["category_ids"])
        self._check_names()
        self.args.save_json = not self.training

    def pred_to_json(self, predn: Any, target: Any) -> None:
        """Append the boxes of one image to the predictions, once for each id that the JSON gives the image.

        Args:
            predn: Boxes in pixels of the original image: a mapping, or in older hosts an array of
                ``x1, y1, x2, y2, score, class``.
            target: What the host says of the image: a mapping with ``im_file``, or in older hosts the path itself.
        """
        if "coco" not in self.data:
            super().pred_to_json(predn, target)
            return
        if isinstance(predn, dict):
            boxes, scores, classes = predn["bboxes"], predn["conf"], predn["cls"]
        else:
            boxes, scores, classes = predn[:, :4], predn[:, 4], predn[:, 5]
        file = target["im_file"] if isinstance(target, dict) else target
        rows = list(zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True))
        for image_id in self.dataloader.dataset.image_ids[file]:
            for (x1, y1, x2, y2), score, cls in rows:
                self.jdict.append(
                    {
                        "image_id": image_id,
                        "file_name": Path(file).name,
                        "category_id": self.class_map[int(cls)],
                        "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                        "score": round(score, 5),
                    }
                )

    def eval_json(self, stats: dict[str, Any]) -> dict[str, Any]:
        """Compute, print and keep the official numbers against the user's own JSON."""
        if not self._is_official():
            return stats if "coco" in self.data else super().eval_json(stats)
        dataset = self.dataloader.dataset
        table = read_table(dataset.json_file)
        image_ids = [id_ for file in dataset.im_files for id_ in dataset.image_ids[file]]
        classes = self.args.classes
        category_ids = None if classes is None else [self.data["category_ids"][c] for c in _as_list(classes)]
        self.coco_stats = evaluate(table, self.jdict, image_ids, category_ids, not self.args.single_cls)
        stats.update({key: self.coco_stats[name] for key, name in _AREA_KEYS.items() if key in stats})
        own = {"mAP50-95": float(self.metrics.box.map), "mAP50": float(self.metrics.box.map50)}
        report = {
            "coco": self.coco_stats,
            "ultralytics": own,
            "json": dataset.json_file,
            "images": len(image_ids),
            "images_in_json": len(table.image_ids),
            "predictions": str(self._predictions_file().absolute()),
            "notes": notes(table),
        }
        (self.save_dir / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
        LOGGER.info(render_report(report, self.args.max_det))
        return stats

    def _is_official(self) -> bool:
        return not self.training and "coco" in self.data

    def _predictions_file(self) -> Path:
        return Path(self.save_dir) / "predictions.json"

    def _check_names(self) -> None:
        """Raise if the model's classes cannot be those of the data; one class stands for all with ``single_cls``."""
        if self.args.single_cls:
            return
        file = self.data.get("yaml_file", "the data")
        model, data = list(self.names.values()), list(self.data["names"].values())
        if len(model) != len(data) or (model != data and sorted(model) == sorted(data)):
            raise DataError(
                f"the model predicts {len(model)} classes ({_first(model)}), {file} has {len(data)} ({_first(data)}): "
                "their order must be the same; validate on the JSON files the model was trained with, or on ones that "
                "list the same categories"
            )
        if model != data:
            LOGGER.warning(f"class names of the model ({_first(model)}) are not those of {file} ({_first(data)})")


class COCOTrainer(DetectionTrainer):
    """Detection trainer whose final validation reports the official COCO numbers."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Return the model with the weights that ``pretrained`` names, which the oldest hosts forget in ``train``."""
        pretrained = self.args.pretrained
        if weights is None and isinstance(pretrained, str | Path):
            weights = torch.load(check_file(pretrained), map_location="cpu", weights_only=False)
        return super().get_model(cfg, weights, verbose)

    def get_validator(self) -> COCOValidator:
        """Return a ``COCOValidator`` for the validation split."""
        super().get_validator()  # older hosts name the losses here
        return COCOValidator(self.test_loader, save_dir=self.save_dir, args=copy(self.args), _callbacks=self.callbacks)


# Keys that newer hosts fill from their own evaluation.
_AREA_KEYS = {"metrics/mAP_small(B)": "APs", "metrics/mAP_medium(B)": "APm", "metrics/mAP_large(B)": "APl"}


def render_report(report: dict[str, Any], max_det: int) -> str:
    """Return the official numbers, both mAPs and why they differ, as text."""
    coco, own = report["coco"], report["ultralytics"]
    part = "" if report["images"] == report["images_in_json"] else f" of {report['images_in_json']}"
    return (
        f"\nOfficial COCO numbers against {report['json']} ({report['images']}{part} images)\n{render(coco)}\n"
        f"{'':>22}{'mAP50':>11}{'mAP50-95':>11}\n"
        f"{'Ultralytics':>22}{own['mAP50']:>11.4f}{own['mAP50-95']:>11.4f}\n"
        f"{'COCO':>22}{coco['AP50']:>11.4f}{coco['AP']:>11.4f}\n"
        f"They differ because COCO takes out what falls on crowd regions, keeps 100 boxes per image (Ultralytics "
        f"{max_det}), matches by its own rule, and reads the JSON's own boxes and areas.\n"
        + "".join(f"Note: {note}.\n" for note in report["notes"])
        + f"Predictions with the JSON's ids: {report['predictions']}"
    )


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
