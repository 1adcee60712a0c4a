"""What storing weights in fp16 costs: the best epoch validated before rounding and as the host stores it.

The host rounds every checkpoint to fp16. Where that loses accuracy, the weights before rounding are kept beside it.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...switches import is_off
from ..opening import open_checkpoint
from .checkpoints import draft_of, publish

FILE = "best-fp32.pt"
SWITCH = "YOLO_ATTN_FP16_CHECK"
LIMIT = 0.001  # of mAP50-95 in [0, 1]: a tenth of a point, the last digit that papers print


def is_wanted() -> bool:
    """Return whether the check is on; ``YOLO_ATTN_FP16_CHECK=0`` turns it off."""
    return not is_off(SWITCH)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's weights and buffers in the memory of the CPU, in their own precision."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def compare(trainer: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Validate the best checkpoint as stored and with the weights before rounding, both computed in fp32.

    What the final validation measured is used where it computed in fp32 itself.

    Args:
        trainer: The trainer after its final validation.
        state: Weights of the best epoch before rounding, as ``snapshot`` returns them.

    Returns:
        ``stored`` and ``fp32``: mAP50-95 by the host's name of the metric; ``file``: path of the checkpoint written
        because fp16 loses more than ``LIMIT``, or None.
    """
    from ultralytics.utils import LOGGER

    LOGGER.info(f"Validating the best epoch before rounding to fp16 ({SWITCH}=0 turns this off)...")
    checkpoint = open_checkpoint(trainer.best)
    if _computes_in_half(trainer.validator):
        stored = _validate(trainer, copy.deepcopy(checkpoint["model"]).float())
    else:
        stored = _accuracy(trainer.metrics)
    model = copy.deepcopy(checkpoint["model"]).float()
    model.load_state_dict(state)
    before = _validate(trainer, copy.deepcopy(model))
    loss = max((before[key] - stored[key] for key in before.keys() & stored.keys()), default=0.0)
    kept, file = Path(trainer.best).with_name(FILE), None
    kept.unlink(missing_ok=True)  # of an earlier run in this folder
    if loss > LIMIT:
        draft = draft_of(kept)
        torch.save({**checkpoint, "model": model}, draft.path)
        publish(draft)
        file = str(kept)
        LOGGER.warning(
            f"Stored in fp16, the best checkpoint loses {100 * loss:.2f} mAP50-95: {file} keeps its weights in fp32"
        )
    return {"stored": stored, "fp32": before, "file": file}


def _computes_in_half(validator: Any) -> bool:
    return bool(getattr(validator.args, "half", False)) or getattr(validator.args, "quantize", None) == 16


def _validate(trainer: Any, model: nn.Module) -> dict[str, float]:
    """Return the accuracy of a model under the final validation's settings, in fp32; the trainer's results stay."""
    from ultralytics.utils import LOGGER

    validator = copy.copy(trainer.validator)
    validator.args = copy.copy(validator.args)
    validator.is_judged = False  # the official numbers of COCO-format data would not be looked at
    validator.args.plots = validator.args.save_json = validator.args.save_txt = False
    for name, value in (("half", False), ("quantize", None)):
        if hasattr(validator.args, name):
            setattr(validator.args, name, value)
    # Older hosts keep a method of the validator in its metrics; with this memo the copy's own stands there.
    validator.metrics = copy.deepcopy(validator.metrics, {id(trainer.validator): validator})
    validator.callbacks, validator.plots = defaultdict(list), {}
    level = LOGGER.level
    with tempfile.TemporaryDirectory() as folder:
        validator.save_dir = Path(folder)
        LOGGER.setLevel(max(level, logging.WARNING))
        try:
            return _accuracy(validator(model=model))
        finally:
            LOGGER.setLevel(level)


def _accuracy(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {key: float(value) for key, value in metrics.items() if key.startswith("metrics/mAP50-95")}
    return found or {key: float(value) for key, value in metrics.items() if key.startswith("metrics/")}
