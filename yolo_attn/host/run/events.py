"""What a guarded run does at the host's events: times and records epochs, finds NaN, keeps the best weights.

The steps are callbacks of the trainer. What breaks in one is ours: it is told once, and the training goes on.
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model.ours import is_attention
from . import checkpoints, half_precision, nonfinite
from .record import RunRecord

Function = Callable[..., Any]


@dataclass(eq=False)
class Run:
    """What we keep of one training in this process.

    Attributes:
        record: Its ``run.json``.
        folder: Folder of its checkpoints.
        has_attention: Whether the model has one of our layers.
        masks: Names of its buffers that hold inf on purpose.
        images: The running batch, as long as the host keeps it.
        image_files: Its files.
        clock: When the running epoch began and when its batches were done; empty between epochs.
        reported: The last epoch, from 0, with a report of a non-finite value.
        diagnosed: Whether its layer has been looked for; later ones mostly follow from the first.
        saved_epoch: The last epoch, from 0, whose checkpoint was written.
        best_weights: Weights of the best epoch before rounding.
        holds_last: Whether ``last.pt`` is to stay resumable; then its stripped draft waits in ``last_draft``.
        warned: What has been said and is not to be repeated.
    """

    record: RunRecord
    folder: Path
    has_attention: bool
    masks: frozenset[str] = frozenset()
    images: Callable[[], Tensor | None] = lambda: None
    image_files: Sequence[str] = ()
    clock: dict[str, float] = field(default_factory=dict)
    reported: int = -1
    diagnosed: bool = False
    saved_epoch: int | None = None
    best_weights: dict[str, Tensor] | None = None
    holds_last: bool = False
    last_draft: checkpoints.Draft | None = None
    warned: set[str] = field(default_factory=set)

    def problem(self, epoch: int, what: str) -> None:
        """Tell the user what went wrong in an epoch, counted from 1, and keep it."""
        log().warning(f"epoch {epoch}: {what}")
        self.record.problem(epoch, what)
        self.record.write()

    def failed(self, step: str, error: Exception) -> None:
        """Say once that a step of ours failed."""
        if step not in self.warned:
            self.warned.add(step)
            log().warning(f"yolo-attn could not {step.replace('_', ' ').strip()} ({self.record.file}): {error!r}")


runs: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()


def is_ours(trainer: Any) -> bool:
    """Return whether a trainer's run has one of our layers or COCO-format data, or is part of a study."""
    if getattr(trainer, "is_guarded", False):
        return True
    data = getattr(trainer, "data", None)
    return (isinstance(data, Mapping) and "coco" in data) or any(map(is_attention, bare(trainer.model).modules()))


def _safely(step: Callable[[Any, Run], None]) -> Function:
    """Return a callback for the host that does a step of a guarded run; what breaks in it is ours and no one else's."""

    @functools.wraps(step)
    def callback(trainer: Any) -> None:
        run = runs.get(trainer)
        if run is not None:
            try:
                step(trainer, run)
            except Exception as error:
                run.failed(step.__name__, error)

    return callback


def begin(trainer: Any) -> None:
    """Guard and record a run of ours that is about to start."""
    if not is_ours(trainer):
        return
    model = bare(trainer.model)
    try:
        checkpoints.sweep(Path(trainer.wdir))
        record = RunRecord(trainer, model)
        run = Run(record, Path(trainer.wdir), any(map(is_attention, model.modules())), nonfinite.masks(model))
        _restore(trainer, run)
        record.write()
    except Exception as error:
        log().warning(f"yolo-attn does not record {trainer.save_dir}: {error!r}")
        return
    runs[trainer] = run
    trainer.preprocess_batch = _remember(trainer.preprocess_batch, weakref.ref(run))
    listen(trainer, events())


def _restore(trainer: Any, run: Run) -> None:
    """Mend what the host does not when it resumes: rows of the lost epoch, and how long nothing improved."""
    if not trainer.start_epoch:
        return
    run.saved_epoch = trainer.start_epoch - 1
    missing = checkpoints.trim_rows(Path(trainer.csv), trainer.start_epoch)
    if missing:
        log().warning(f"{trainer.csv} has no row for epochs {', '.join(map(str, missing))}")
    best = run.record.fields["best_epoch"]
    if not trainer.stopper.best_fitness and trainer.best_fitness is not None and best:
        trainer.stopper.best_fitness, trainer.stopper.best_epoch = trainer.best_fitness, best


@_safely
def _time_epoch(trainer: Any, run: Run) -> None:
    run.clock = {"start": time.time()}


@_safely
def _time_batches(trainer: Any, run: Run) -> None:
    run.clock["batches"] = time.time()


@_safely
def _check_loss(trainer: Any, run: Run) -> None:
    # The host has just read the losses for its progress line: the device is idle and reading one more costs no wait.
    if run.reported == trainer.epoch or math.isfinite(float(trainer.loss.detach())):
        return
    run.reported = trainer.epoch
    what = f"loss is {float(trainer.loss.detach())}"
    if not run.diagnosed:
        run.diagnosed = True
        what += f"; {_diagnose(trainer, run, bare(trainer.model))}"
        names = [Path(file).name for file in run.image_files]
        if names:
            what += f"; images: {', '.join(names[:4])}" + (", ..." if len(names) > 4 else "")
    run.problem(trainer.epoch + 1, what)


@_safely
def _keep_best(trainer: Any, run: Run) -> None:
    if run.has_attention and half_precision.is_wanted() and trainer.best_fitness == trainer.fitness:
        run.best_weights = half_precision.snapshot(trainer.ema.ema)


@_safely
def _record_epoch(trainer: Any, run: Run) -> None:
    if not run.clock:
        return  # the final validation
    now = time.time()
    run.record.epoch(trainer, now - run.clock["start"], run.clock["batches"] - run.clock["start"])
    run.clock = {}
    bad = [key for key, value in (trainer.metrics or {}).items() if not math.isfinite(float(value))]
    if bad and run.reported != trainer.epoch:
        run.reported = trainer.epoch
        found = _diagnose(trainer, run, trainer.ema.ema)
        run.problem(trainer.epoch + 1, f"validation gives {', '.join(bad)} that is not finite; {found}")
    run.record.write()


@_safely
def _check_half_precision(trainer: Any, run: Run) -> None:
    run.record.measure(trainer)
    run.record.write()
    if not run.has_attention or not Path(trainer.best).is_file():
        return
    if not half_precision.is_wanted():
        result: Any = f"not compared: {half_precision.SWITCH} turned it off"
    elif run.record.fields["settings"]["world_size"] > 1:
        result = "not compared: the host's validation needs all processes"
    elif run.best_weights is None:
        result = "not compared: the best epoch was trained by a process that ended"
    else:
        result = half_precision.compare(trainer, run.best_weights)
    run.record.fields["metrics"]["fp16"] = result


def events() -> dict[str, Function]:
    """Return the steps of a guarded run by event."""
    return {
        "on_train_epoch_start": _time_epoch,
        "on_train_batch_end": _check_loss,
        "on_train_epoch_end": _time_batches,
        "on_model_save": _keep_best,
        "on_fit_epoch_end": _record_epoch,
        "on_train_end": _check_half_precision,
    }


def listen(trainer: Any, callbacks: Mapping[str, Function]) -> None:
    """Add callbacks to a trainer."""
    for event, callback in callbacks.items():
        trainer.callbacks[event].append(callback)


def leave(trainer: Any) -> None:
    """Take our callbacks out again; older hosts share them with the model."""
    for event, callback in {"on_pretrain_routine_end": begin, **events()}.items():
        if callback in trainer.callbacks[event]:
            trainer.callbacks[event].remove(callback)
    vars(trainer).pop("preprocess_batch", None)


def _remember(preprocess: Function, run: weakref.ref[Run]) -> Function:
    """Return ``preprocess_batch`` that notes the batch without keeping its memory."""

    @functools.wraps(preprocess)
    def preprocess_batch(batch: Any) -> Any:
        batch = preprocess(batch)
        running = run()
        if running is not None and isinstance(batch, Mapping) and isinstance(batch.get("img"), Tensor):
            running.images = weakref.ref(batch["img"])
            running.image_files = batch.get("im_file", ())
        return batch

    return preprocess_batch


def _diagnose(trainer: Any, run: Run, model: nn.Module) -> str:
    """Say where the first non-finite value of the running batch is, in the precision that the trainer computes in."""
    dtype = torch.bfloat16 if trainer.args.amp == "bf16" else None
    enabled = bool(trainer.amp) and trainer.device.type != "cpu"
    precision = functools.partial(torch.autocast, trainer.device.type, dtype=dtype, enabled=enabled)
    try:
        return nonfinite.diagnose(model, run.images(), Path(trainer.last), precision, run.masks)
    except Exception as error:  # such as no memory for one more forward: that there was a NaN is told all the same
        return f"its layer could not be looked for: {error!r}"


def bare(model: Any) -> nn.Module:
    """Return a model without the wrappers of several processes and of compilation."""
    while hasattr(model, "_orig_mod") or isinstance(model, nn.parallel.DistributedDataParallel):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def log() -> Any:
    """Return the host's logger."""
    from ultralytics.utils import LOGGER  # not while the host is still importing itself

    return LOGGER
