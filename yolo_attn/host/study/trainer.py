"""Trainers of a study: every variant of a seed starts from the same weights and sees the same batches.

Random numbers are seeded anew at the start of every epoch, from the seed and the epoch alone, and the loader starts
anew with them. So no variant can shift them, and a resumed process draws what an unbroken one would have drawn.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import StudyError
from ..opening import open_checkpoint
from ..run.events import bare
from ..run.guard import AllEpochsDone
from . import state
from .start import compare

HASHED = {0: 2, 1: 1}  # epoch from 0 -> its first batches that are hashed


@dataclass(frozen=True)
class Trial:
    """What one training of a study is made of.

    Attributes:
        folder: Folder of the run.
        model: Model YAML of the variant.
        start: Checkpoint of the plain model that every variant of the seed and scale starts from.
        seed: Seed of the pair.
        device: Device, as Ultralytics names it; "" for its own choice.
        arguments: Training arguments of Ultralytics: ``data``, ``epochs``, ``batch``, ``imgsz`` and so on.
        is_whole: Whether every tensor of the start must be in the variant.
        threads: Threads for the CPU; those of the process if None.
    """

    folder: Path
    model: Path
    start: Path | None
    seed: int
    device: str
    arguments: Mapping[str, Any]
    is_whole: bool = True
    threads: int | None = None


@dataclass
class Progress:
    """What a trial keeps beside the weights, over all its processes.

    Attributes:
        start: Hash of the shared weights before the first step.
        batches: Hash of the first batches, by epoch from 0.
        seconds: Time of the processes before this one.
    """

    start: str = ""
    batches: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0


class Paired:
    """What a trainer of Ultralytics gains in a study; see ``paired``."""

    # The host's own attributes.
    accumulate: Any
    args: Any
    batch_size: int
    best_fitness: Any
    ema: Any
    epoch: int
    epochs: int
    fitness: Any
    last: Path
    model: Any
    optimizer: Any
    resume: Any
    scaler: Any
    start_epoch: int
    stop: bool
    stopper: Any
    train_loader: Any
    wdir: Path
    add_callback: Callable[..., None]

    is_guarded = True

    def __init__(self, trial: Trial, overrides: Mapping[str, Any]) -> None:
        self.trial = trial
        self.progress = Progress()
        self._begun = time.monotonic()
        self._step = -1  # number of the running batch, over all epochs
        self._stepped = -1  # number of the batch of the last optimiser step
        self._held: int | None = None  # the same, of the process before, until this one makes its first step
        self._accumulate: Any = None  # what the host wants, while a step is held back
        self._gradients: dict[str, Tensor] = {}
        self._digest: Any = None
        super().__init__(overrides=dict(overrides))  # type: ignore[call-arg]
        if trial.threads:
            torch.set_num_threads(trial.threads)
        self.add_callback("on_pretrain_routine_end", lambda trainer: trainer._check_start())
        self.add_callback("on_train_epoch_start", lambda trainer: trainer._begin_epoch())
        self.add_callback("on_train_batch_end", lambda trainer: trainer._end_batch())

    def check_resume(self, overrides: Any) -> None:
        """Resume in this folder on this device, wherever the run was begun."""
        super().check_resume(overrides)  # type: ignore[misc]
        if self.resume:
            self.args.save_dir = str(self.trial.folder)
            self.args.device = overrides.get("device", self.args.device)

    def get_model(self, *args: Any, **kwargs: Any) -> Any:
        """Build the model as the host does, its new layers under the trial's seed."""
        seed_all(self.trial.seed)
        return super().get_model(*args, **kwargs)  # type: ignore[misc]

    def preprocess_batch(self, batch: Any) -> Any:
        """Prepare a batch as the host does, and hash it if it is one of the first."""
        batch = super().preprocess_batch(batch)  # type: ignore[misc]
        self._step += 1
        number = self._step - self.epoch * len(self.train_loader)
        if number < HASHED.get(self.epoch, 0):
            self._digest.update(batch_bytes(batch))
            self.progress.batches[self.epoch] = self._digest.hexdigest()
        if self._held is not None:  # the host does not know when the process before made its last step
            if self._step - self._held < self.accumulate:
                self._accumulate, self.accumulate = self.accumulate, sys.maxsize
            else:
                self._held = None
        return batch

    def optimizer_step(self) -> None:
        """Step as the host does, and note when."""
        super().optimizer_step()  # type: ignore[misc]
        self._stepped = self._step

    def save_model(self) -> Any:
        """Write the host's checkpoints, and beside them all that goes on in full precision."""
        kept = {
            "model": bare(self.model).state_dict(),
            "ema": self.ema.ema.state_dict(),
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "gradients": {n: p.grad for n, p in bare(self.model).named_parameters() if p.grad is not None},
            "stepped": self._stepped,
            "stopper": {key: plain(value) for key, value in vars(self.stopper).items()},
            "stop": bool(self.stop),
            "best_fitness": plain(self.best_fitness),
            "fitness": plain(self.fitness),
            "progress": {**vars(self.progress), "seconds": self.seconds()},
        }
        state.write(self.wdir, self.epoch, kept)
        written = super().save_model()  # type: ignore[misc]
        if written is False:
            state.drop(self.wdir, self.epoch)
        else:
            state.forget(self.wdir, but=self.epoch)
        return written

    def resume_training(self, ckpt: Any) -> None:
        """Go on to the bit where the process before stopped.

        Raises:
            CheckpointError: If what it kept is not there.
        """
        if not (self.resume and isinstance(ckpt, dict)):
            super().resume_training(ckpt)  # type: ignore[misc]
            return
        kept = state.read(self.wdir, ckpt["epoch"])
        self.progress = Progress(**kept["progress"])
        if kept["stop"]:  # early stopping ended it: only the final validation is left
            self.epoch, self.start_epoch = ckpt["epoch"], ckpt["epoch"] + 1
            self.best_fitness = self.fitness = kept["best_fitness"]
            raise AllEpochsDone
        super().resume_training(ckpt)  # type: ignore[misc]
        bare(self.model).load_state_dict(kept["model"])
        self.ema.ema.load_state_dict(kept["ema"])
        self.ema.updates = kept["updates"]
        self.optimizer.load_state_dict(kept["optimizer"])
        self.scaler.load_state_dict(kept["scaler"])
        vars(self.stopper).update(kept["stopper"])
        self.best_fitness, self.fitness = kept["best_fitness"], kept["fitness"]
        self._stepped = self._held = kept["stepped"]
        self._gradients = kept["gradients"]

    def seconds(self) -> float:
        """Return the time that this process and those before have worked on the trial."""
        return self.progress.seconds + time.monotonic() - self._begun

    def _check_start(self) -> None:
        if self.start_epoch or self.trial.start is None:
            return
        base = open_checkpoint(self.trial.start)["model"]
        self.progress.start = compare(base, bare(self.model), self.trial.is_whole)

    def _begin_epoch(self) -> None:
        if self.batch_size != self.args.batch or self.batch_size != self.trial.arguments["batch"]:
            raise StudyError(
                f"the memory did not do for batch={self.trial.arguments['batch']} and Ultralytics took "
                f"{self.batch_size}: no pair any more. Give all variants a smaller batch= (in a new study)"
            )
        self._step = self.epoch * len(self.train_loader) - 1
        self._digest = hashlib.sha256()
        seed = seed_all(self.trial.seed, self.epoch)
        loader = self.train_loader
        if getattr(loader, "generator", None) is not None:
            loader.generator.manual_seed(seed)
        forget_images(loader.dataset)
        seed_transforms(loader.dataset, seed)
        loader.reset()
        if self._gradients:
            for name, parameter in bare(self.model).named_parameters():
                if name in self._gradients:
                    parameter.grad = self._gradients[name].to(parameter.device)
            self._gradients = {}

    def _end_batch(self) -> None:
        if self._accumulate is not None:
            self.accumulate, self._accumulate = self._accumulate, None

    def _close_dataloader_mosaic(self) -> None:
        super()._close_dataloader_mosaic()  # type: ignore[misc]
        seed_transforms(self.train_loader.dataset, epoch_seed(self.trial.seed, getattr(self, "epoch", 0)))


def paired(cls: type) -> Any:
    """Return the class of a trainer of the host that takes part in a study."""
    return type(f"Paired{cls.__name__}", (Paired, cls), {"__module__": __name__})


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a number in 32 bits made of a seed and an epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def seed_all(seed: int, epoch: int | None = None) -> int:
    """Seed Python, NumPy and PyTorch with a seed, or a seed and an epoch; return the number used."""
    number = seed if epoch is None else epoch_seed(seed, epoch)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    return number


def forget_images(dataset: Any) -> None:
    """Empty the host's memory of recent images: mosaics are made of what is in it."""
    buffer = getattr(dataset, "buffer", None)
    if not isinstance(buffer, list) or getattr(dataset, "cache", None) == "ram":
        return
    for index in buffer:
        for name in ("ims", "im_hw0", "im_hw"):
            if isinstance(getattr(dataset, name, None), list):
                getattr(dataset, name)[index] = None
    buffer.clear()


def seed_transforms(dataset: Any, seed: int) -> None:
    """Seed the transforms that draw from a generator of their own, as those of Albumentations do."""
    for transform in _transforms(getattr(dataset, "transforms", None)):
        inner: Any = getattr(transform, "transform", None)
        if hasattr(inner, "set_random_seed"):
            inner.set_random_seed(seed)


def _transforms(transform: Any) -> Iterator[Any]:
    if transform is None:
        return
    yield transform
    for part in [*(getattr(transform, "transforms", None) or []), getattr(transform, "pre_transform", None)]:
        yield from _transforms(part)


def batch_bytes(batch: Mapping[str, Any]) -> bytes:
    """Return images and labels of a batch as the model receives them."""
    parts = [batch[key] for key in ("img", "cls", "bboxes", "batch_idx") if key in batch]
    return b"".join(part.detach().cpu().contiguous().numpy().tobytes() for part in parts)


def plain(value: Any) -> Any:
    """Return a number of NumPy as Python's own, anything else as it is."""
    return value.item() if isinstance(value, (np.generic, Tensor)) else value
