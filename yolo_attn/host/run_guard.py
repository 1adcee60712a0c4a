"""Trainings that survive: whole checkpoints, exact resumption, a report of NaN, and a record of each run.

The joints act only on runs that are ours: with an attention layer in the model, or on COCO-format data. They stand on
the trainer's methods, so the ``yolo`` command, Python and scripts get them alike. Recording never ends a training.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint_files, half_check, nonfinite
from .run_record import RunRecord
from .transfer import is_attention

Function = Callable[..., Any]


@dataclass(eq=False)
class Run:
    """What we keep of one training in this process.

    Attributes:
        record: Its ``run.json``.
        folder: Folder of its checkpoints.
        has_attention: Whether the model has one of our layers.
        images: The running batch, as long as the host keeps it.
        image_files: Its files.
        clock: When the epoch began and when its batches were done.
        reported: The last epoch, from 0, with a report of a non-finite value.
        saved_epoch: The last epoch, from 0, whose checkpoint was written.
        best_weights: Weights of the best epoch before rounding.
        holds_last: Whether ``last.pt`` is to stay resumable; then its stripped draft waits in ``last_draft``.
        is_training: Whether epochs are running, not the final validation.
        warned: Steps of ours that failed.
    """

    record: RunRecord
    folder: Path
    has_attention: bool
    images: Callable[[], Tensor | None] = lambda: None
    image_files: list[str] = field(default_factory=list)
    clock: dict[str, float] = field(default_factory=dict)
    reported: int = -1
    saved_epoch: int | None = None
    best_weights: dict[str, Tensor] | None = None
    holds_last: bool = False
    last_draft: checkpoint_files.Draft | None = None
    is_training: bool = True
    warned: set[str] = field(default_factory=set)

    def problem(self, epoch: int, what: str) -> None:
        """Tell the user what went wrong in an epoch, counted from 1, and keep it."""
        _log().warning(f"epoch {epoch}: {what}")
        self.record.problem(epoch, what)
        self.record.write()

    def failed(self, step: str, error: Exception) -> None:
        """Say once that a step of ours failed."""
        if step not in self.warned:
            self.warned.add(step)
            _log().warning(f"yolo-attn could not {step.replace('_', ' ').strip()} ({self.record.file}): {error!r}")


class AllEpochsDone(Exception):
    """A resumed run has no epoch left, but its final validation was cut off."""


_runs: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()


def do_train_joint(original: Function) -> Function:
    """Return ``BaseTrainer._do_train`` that is guarded and recorded."""

    @functools.wraps(original)
    def _do_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        added = _listen(self, {"on_pretrain_routine_end": _begin}) if _rank() in {-1, 0} else []
        try:
            try:
                result = original(self, *args, **kwargs)
            except AllEpochsDone:
                result = _finish_epochs_done(self)
            _end(self, "finished")
            return result
        except BaseException as error:
            _end(self, "failed", f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        finally:
            run = _runs.pop(self, None)
            for event, callback in [*added, *(_events() if run else [])]:
                if callback in self.callbacks[event]:
                    self.callbacks[event].remove(callback)
            vars(self).pop("preprocess_batch", None)

    return _do_train


def save_model_joint(original: Function) -> Function:
    """Return ``BaseTrainer.save_model`` that writes whole files, and no weights that are not finite."""

    @functools.wraps(original)
    def save_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = _runs.get(self)
        if run is None:
            return original(self, *args, **kwargs)
        with contextlib.ExitStack() as stack:
            if not _is_finite(self, run, stack):
                return False
            stack.enter_context(checkpoint_files.redirected(self))
            result = original(self, *args, **kwargs)
        run.saved_epoch = self.epoch
        return result

    return save_model


def strip_optimizer_joint(original: Function) -> Function:
    """Return ``strip_optimizer`` that replaces a checkpoint of a guarded run at once."""

    @functools.wraps(original)
    def strip_optimizer(f: Any = "best.pt", s: Any = "", updates: Any = None) -> Any:
        file = Path(f)
        run = next((run for run in _runs.values() if run.folder == file.parent), None)
        if run is None or s:
            return original(f, s, updates)
        hold = run.holds_last and file.name == "last.pt"
        result, draft = checkpoint_files.strip(original, file, updates, hold)
        if hold:
            run.last_draft = draft
        return result

    return strip_optimizer


def final_eval_joint(original: Function) -> Function:
    """Return ``BaseTrainer.final_eval`` during which ``last.pt`` stays resumable, so that it can be repeated."""

    @functools.wraps(original)
    def final_eval(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = _runs.get(self)
        if run is None:
            return original(self, *args, **kwargs)
        run.is_training, run.holds_last = False, True
        try:
            result = original(self, *args, **kwargs)
        finally:
            run.holds_last = False
        if run.last_draft is not None and run.last_draft.path.exists():
            checkpoint_files.publish(run.last_draft)
        return result

    return final_eval


def resume_training_joint(original: Function) -> Function:
    """Return ``BaseTrainer.resume_training`` after which a run with all its epochs gets its final validation."""

    @functools.wraps(original)
    def resume_training(self: Any, ckpt: Any, *args: Any, **kwargs: Any) -> Any:
        done = isinstance(ckpt, dict) and ckpt.get("optimizer") is not None and ckpt.get("epoch", -1) + 1 >= self.epochs
        if done and self.resume and _rank() == -1 and is_ours(self):
            self.epoch, self.start_epoch = ckpt["epoch"], ckpt["epoch"] + 1
            self.best_fitness = self.fitness = ckpt["best_fitness"]
            raise AllEpochsDone
        return original(self, ckpt, *args, **kwargs)

    return resume_training


def is_ours(trainer: Any) -> bool:
    """Return whether a trainer's run has one of our layers or COCO-format data."""
    data = getattr(trainer, "data", None)
    return (isinstance(data, Mapping) and "coco" in data) or any(map(is_attention, _bare(trainer.model).modules()))


def _safely(step: Callable[[Any, Run], None]) -> Function:
    """Return a callback for the host that does a step of a guarded run; what breaks in it is ours and no one else's."""

    @functools.wraps(step)
    def callback(trainer: Any) -> None:
        run = _runs.get(trainer)
        if run is not None:
            try:
                step(trainer, run)
            except Exception as error:
                run.failed(step.__name__, error)

    return callback


def _begin(trainer: Any) -> None:
    """Guard and record a run of ours that is about to start."""
    if not is_ours(trainer):
        return
    model = _bare(trainer.model)
    try:
        checkpoint_files.sweep(Path(trainer.wdir))
        record = RunRecord(trainer, model)
        run = Run(record, Path(trainer.wdir), any(map(is_attention, model.modules())))
        _restore(trainer, run)
        record.write()
    except Exception as error:
        _log().warning(f"yolo-attn does not record {trainer.save_dir}: {error!r}")
        return
    _runs[trainer] = run
    trainer.preprocess_batch = _remember(trainer.preprocess_batch, weakref.ref(run))
    _listen(trainer, _events())


def _restore(trainer: Any, run: Run) -> None:
    """Mend what the host does not when it resumes: rows of the lost epoch, and how long nothing improved."""
    if not trainer.start_epoch:
        return
    run.saved_epoch = trainer.start_epoch - 1
    missing = checkpoint_files.trim_rows(Path(trainer.csv), trainer.start_epoch)
    if missing:
        _log().warning(f"{trainer.csv} has no row for epochs {', '.join(map(str, missing))}")
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
    if run.reported == trainer.epoch or math.isfinite(float(trainer.loss)):
        return
    first = run.reported < 0
    run.reported = trainer.epoch
    what = f"loss is {float(trainer.loss)}"
    if first:
        what += f"; {nonfinite.diagnose(_bare(trainer.model), run.images(), _last(trainer), _precision(trainer))}"
        if run.image_files:
            what += f"; images: {', '.join(run.image_files[:4])}" + (", ..." if len(run.image_files) > 4 else "")
    run.problem(trainer.epoch + 1, what)


@_safely
def _keep_best(trainer: Any, run: Run) -> None:
    if run.has_attention and half_check.is_wanted() and trainer.best_fitness == trainer.fitness:
        run.best_weights = half_check.snapshot(trainer.ema.ema)


@_safely
def _record_epoch(trainer: Any, run: Run) -> None:
    if not run.is_training:
        return
    now = time.time()
    start = run.clock.get("start", now)
    run.record.epoch(trainer, now - start, run.clock.get("batches", now) - start)
    bad = [key for key, value in (trainer.metrics or {}).items() if not math.isfinite(float(value))]
    if bad and run.reported != trainer.epoch:
        run.reported = trainer.epoch
        found = nonfinite.diagnose(trainer.ema.ema, run.images(), _last(trainer), _precision(trainer))
        run.problem(trainer.epoch + 1, f"validation gives {', '.join(bad)} that is not finite; {found}")
    run.record.write()


@_safely
def _check_half_precision(trainer: Any, run: Run) -> None:
    run.record.measure(trainer)
    run.record.write()
    if not run.has_attention or not Path(trainer.best).is_file():
        return
    if not half_check.is_wanted():
        result: Any = f"not compared: {half_check.SWITCH} turned it off"
    elif run.record.fields["settings"]["world_size"] > 1:
        result = "not compared: the host's validation needs all processes"
    elif run.best_weights is None:
        result = "not compared: the best epoch was trained by a process that ended"
    else:
        result = half_check.compare(trainer, run.best_weights)
    run.record.fields["metrics"]["fp16"] = result


def _events() -> dict[str, Function]:
    return {
        "on_train_epoch_start": _time_epoch,
        "on_train_batch_end": _check_loss,
        "on_train_epoch_end": _time_batches,
        "on_model_save": _keep_best,
        "on_fit_epoch_end": _record_epoch,
        "on_train_end": _check_half_precision,
    }


def _listen(trainer: Any, events: Mapping[str, Function]) -> list[tuple[str, Function]]:
    for event, callback in events.items():
        trainer.callbacks[event].append(callback)
    return list(events.items())


def _remember(preprocess: Function, run: weakref.ref[Run]) -> Function:
    """Return ``preprocess_batch`` that notes the batch without keeping its memory."""

    @functools.wraps(preprocess)
    def preprocess_batch(batch: Any) -> Any:
        batch = preprocess(batch)
        running = run()
        if running is not None and isinstance(batch, Mapping) and isinstance(batch.get("img"), Tensor):
            running.images = weakref.ref(batch["img"])
            running.image_files = list(batch.get("im_file", ()))
        return batch

    return preprocess_batch


def _is_finite(trainer: Any, run: Run, stack: contextlib.ExitStack) -> bool:
    """Return whether the averaged weights can be saved; a passing NaN is taken out of the average first.

    Values beyond fp16 are clamped for the time of ``stack``.
    """
    average = trainer.ema.ema
    bad = nonfinite.bad_tensors(average)
    epoch = trainer.epoch + 1
    if bad:
        # An average never loses a NaN; the trained weights may have, where AMP skipped the step.
        live, own = _bare(trainer.model).state_dict(), average.state_dict()
        with torch.no_grad():
            for name in bad:
                if torch.isfinite(live[name]).all():
                    own[name].copy_(live[name])
        left = nonfinite.bad_tensors(average)
        names = ", ".join(nonfinite.readable(average, name) for name in (left or bad)[:3])
        if left:
            last = _last(trainer)
            kept = f"{last} keeps epoch {(run.saved_epoch or 0) + 1}" if last.is_file() else "there is none yet"
            run.problem(epoch, f"no checkpoint written: {len(left)} tensors are non-finite, first {names}; {kept}")
            return False
        run.problem(epoch, f"{len(bad)} averaged tensors were non-finite and are taken from the model: {names}, ...")
    largest = nonfinite.magnitudes(average)
    beyond = [name for name, value in largest.items() if value > nonfinite.LARGEST_HALF]
    if beyond:
        names = ", ".join(f"{nonfinite.readable(average, name)} {largest[name]:.3g}" for name in beyond[:3])
        run.problem(epoch, f"{len(beyond)} tensors exceed fp16 and are clamped in the checkpoint: {names}")
        trainer.ema.ema = copy.deepcopy(average)
        stack.callback(setattr, trainer.ema, "ema", average)
        with torch.no_grad():
            for name, value in trainer.ema.ema.state_dict().items():
                if name in beyond:
                    value.clamp_(-nonfinite.LARGEST_HALF, nonfinite.LARGEST_HALF)
    return True


def _finish_epochs_done(trainer: Any) -> None:
    """Do what the host does after its last epoch."""
    trainer.run_callbacks("on_pretrain_routine_end")
    _log().info(f"All {trainer.epochs} epochs of {trainer.args.model} are trained; its final validation follows")
    trainer.final_eval()
    if trainer.args.plots:
        trainer.plot_metrics()
    trainer.run_callbacks("on_train_end")
    for loader in (trainer.train_loader, trainer.test_loader):
        if hasattr(loader, "close"):
            loader.close()


def _end(trainer: Any, state: str, reason: str | None = None) -> None:
    run = _runs.get(trainer)
    if run is None:
        return
    try:
        run.record.finish(state, reason)
        run.record.write()
    except Exception as error:
        run.failed("record_the_end", error)


def _last(trainer: Any) -> Path:
    return Path(trainer.last)


def _precision(trainer: Any) -> Callable[[], Any]:
    """Return a function for the context of precision that the trainer computes in."""
    dtype = torch.bfloat16 if trainer.args.amp == "bf16" else None
    enabled = bool(trainer.amp) and trainer.device.type != "cpu"
    return functools.partial(torch.autocast, trainer.device.type, dtype=dtype, enabled=enabled)


def _bare(model: Any) -> nn.Module:
    """Return a model without the wrappers of several processes and of compilation."""
    while hasattr(model, "_orig_mod") or isinstance(model, nn.parallel.DistributedDataParallel):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def _rank() -> int:
    from ultralytics.utils import RANK

    return RANK


def _log() -> Any:
    from ultralytics.utils import LOGGER  # not while the host is still importing itself

    return LOGGER
