"""Trainings that survive: whole checkpoints, exact resumption, a report of NaN, and a record of each run.

The joints act only on runs that are ours: with an attention layer in the model, or on COCO-format data. They stand on
the trainer's methods, so the ``yolo`` command, Python and scripts get them alike. Recording never ends a training.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import CheckpointError
from ..model import foreign, transfer
from ..model.ours import readable
from . import checkpoints, nonfinite
from .events import Run, bare, begin, is_ours, leave, listen, log, runs

Function = Callable[..., Any]


class AllEpochsDone(Exception):
    """A resumed run has no epoch left, but its final validation was cut off."""


def do_train_joint(original: Function) -> Function:
    """Return ``BaseTrainer._do_train`` that is guarded and recorded."""

    @functools.wraps(original)
    def _do_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _rank() in {-1, 0}:
            listen(self, {"on_pretrain_routine_end": begin})
        try:
            result = None
            try:
                result = original(self, *args, **kwargs)
            except AllEpochsDone:
                _finish_epochs_done(self)
            _end(self, "finished")
            return result
        except BaseException as error:
            _end(self, "failed", f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        finally:
            runs.pop(self, None)
            leave(self)

    return _do_train


def save_model_joint(original: Function) -> Function:
    """Return ``BaseTrainer.save_model`` that writes whole files, and no weights that are not finite."""

    @functools.wraps(original)
    def save_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = runs.get(self)
        if run is None:
            return original(self, *args, **kwargs)
        with contextlib.ExitStack() as stack:
            try:
                if not _is_finite(self, run, stack):
                    return False
            except Exception as error:
                run.failed("check_the_weights", error)
            stack.enter_context(checkpoints.redirected(self))
            result = original(self, *args, **kwargs)
        run.saved_epoch = self.epoch
        return result

    return save_model


def strip_optimizer_joint(original: Function) -> Function:
    """Return ``strip_optimizer`` that replaces a checkpoint of a guarded run at once."""

    @functools.wraps(original)
    def strip_optimizer(f: Any = "best.pt", s: Any = "", updates: Any = None) -> Any:
        file = Path(f)
        run = next((run for run in runs.values() if run.folder == file.parent), None)
        if run is None or s:
            return original(f, s, updates)
        hold = run.holds_last and file.name == "last.pt"
        result, draft = checkpoints.strip(original, file, updates, hold)
        if hold:
            run.last_draft = draft
        return result

    return strip_optimizer


def final_eval_joint(original: Function) -> Function:
    """Return ``BaseTrainer.final_eval`` during which ``last.pt`` stays resumable, so that it can be repeated."""

    @functools.wraps(original)
    def final_eval(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = runs.get(self)
        if run is None:
            return original(self, *args, **kwargs)
        run.holds_last = True
        try:
            result = original(self, *args, **kwargs)
        finally:
            run.holds_last = False
        if run.last_draft is not None and run.last_draft.path.exists():
            checkpoints.publish(run.last_draft)
        return result

    return final_eval


def resume_training_joint(original: Function) -> Function:
    """Return ``BaseTrainer.resume_training`` that refuses foreign weights and repeats a cut off final validation."""

    @functools.wraps(original)
    def resume_training(self: Any, ckpt: Any, *args: Any, **kwargs: Any) -> Any:
        report = transfer.reports.get(bare(self.model))
        if self.resume and report is not None and report.foreign:
            raise foreign.refusal(self.args.model, report.foreign)
        if self.resume:
            _check_order(self, ckpt)
        done = isinstance(ckpt, dict) and ckpt.get("optimizer") is not None and ckpt.get("epoch", -1) + 1 >= self.epochs
        if done and self.resume and _rank() == -1 and is_ours(self):
            self.epoch, self.start_epoch = ckpt["epoch"], ckpt["epoch"] + 1
            self.best_fitness = self.fitness = ckpt["best_fitness"]
            raise AllEpochsDone
        return original(self, ckpt, *args, **kwargs)

    return resume_training


def _check_order(trainer: Any, checkpoint: Any) -> None:
    """Refuse an optimizer state, which goes by order, of a model whose parameters stood in another order."""
    held = (checkpoint.get("ema") or checkpoint.get("model")) if isinstance(checkpoint, dict) else None
    saved = held if isinstance(held, nn.Module) else nn.Module()
    theirs, ours = ([name for name, _ in model.named_parameters()] for model in (saved, bare(trainer.model)))
    if theirs != ours and set(theirs) == set(ours):
        first = next(name for name, own in zip(theirs, ours, strict=True) if name != own)
        raise CheckpointError(
            f"{trainer.args.model} cannot be resumed: since it was saved, the parameters of {readable(saved, first)} "
            "have been given another order, and its optimizer state goes by order. Finish the run with the yolo-attn "
            f"that began it, or start a new one with its weights: yolo train model=<your model>.yaml "
            f"pretrained={trainer.args.model}"
        )


def _is_finite(trainer: Any, run: Run, stack: contextlib.ExitStack) -> bool:
    """Return whether the averaged weights can be saved; a passing NaN is taken out of the average first.

    Values beyond fp16 are clamped for the time of ``stack``.
    """
    average = trainer.ema.ema
    largest = _magnitudes(average, run)
    bad = nonfinite.not_finite(largest)
    epoch = trainer.epoch + 1
    if bad:
        run.reported = trainer.epoch
        # An average never loses a NaN; the trained weights may have, where AMP skipped the step.
        live, own = bare(trainer.model).state_dict(), average.state_dict()
        with torch.no_grad():
            for name in bad:
                if name in live and torch.isfinite(live[name]).all():
                    own[name].copy_(live[name])
        largest = _magnitudes(average, run)
        left = nonfinite.not_finite(largest)
        names = ", ".join(readable(average, name) for name in (left or bad)[:3])
        if left:
            last = Path(trainer.last)
            kept = f"{last} keeps epoch {(run.saved_epoch or 0) + 1}" if last.is_file() else "there is none yet"
            run.problem(epoch, f"no checkpoint written: {len(left)} tensors are non-finite, first {names}; {kept}")
            return False
        run.problem(epoch, f"{len(bad)} averaged tensors were non-finite and are taken from the model, first {names}")
    beyond = [name for name, value in largest.items() if value > nonfinite.LARGEST_HALF]
    if beyond:
        names = ", ".join(f"{readable(average, name)} {largest[name]:.3g}" for name in beyond[:3])
        if "fp16" not in run.warned:
            run.warned.add("fp16")
            run.problem(epoch, f"{len(beyond)} tensors exceed fp16 and are clamped in the checkpoint, first {names}")
        trainer.ema.ema = copy.deepcopy(average)
        stack.callback(setattr, trainer.ema, "ema", average)
        with torch.no_grad():
            for name, value in trainer.ema.ema.state_dict().items():
                if name in beyond:
                    value.clamp_(-nonfinite.LARGEST_HALF, nonfinite.LARGEST_HALF)
    return True


def _magnitudes(model: Any, run: Run) -> dict[str, float]:
    return {name: value for name, value in nonfinite.magnitudes(model).items() if name not in run.masks}


def _finish_epochs_done(trainer: Any) -> None:
    """Do what the host does after its last epoch."""
    trainer.run_callbacks("on_pretrain_routine_end")
    log().info(f"All {trainer.epochs} epochs of {trainer.args.model} are trained; its final validation follows")
    trainer.final_eval()
    if trainer.args.plots:
        trainer.plot_metrics()
    trainer.run_callbacks("on_train_end")
    for loader in (trainer.train_loader, trainer.test_loader):
        if hasattr(loader, "close"):
            loader.close()


def _end(trainer: Any, state: str, reason: str | None = None) -> None:
    run = runs.get(trainer)
    if run is None:
        return
    try:
        run.record.finish(state, reason)
        run.record.write()
    except Exception as error:
        run.failed("record_the_end", error)


def _rank() -> int:
    from ultralytics.utils import RANK

    return RANK
