"""Trials of one seed start alike, see the same batches, and go on to the bit after they were cut off."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolo_attn.errors import CheckpointError, StudyError
from yolo_attn.host.opening import open_checkpoint
from yolo_attn.host.study import state
from yolo_attn.host.study import trial as trials
from yolo_attn.host.study.start import begin, compare
from yolo_attn.host.study.trainer import Progress, Trial, forget_images, paired, seed_all, seed_transforms

MakeTrial = Callable[..., Trial]


class CutOffError(Exception):
    pass


def cut_off(_: Any) -> None:
    raise CutOffError


def watched(trial: Trial, loader_workers: int = 0, **more: Any) -> Any:
    """Return a trainer that keeps, for each batch, loss, weights and gradients after it, and a hash of the batch."""
    trainer = trials.make_trainer(trial, more)
    trainer.args.workers = loader_workers  # the host takes none on a CPU
    trainer.seen = []
    prepare = trainer.preprocess_batch

    def preprocess_batch(batch: Any) -> Any:
        batch = prepare(batch)
        trainer.images = digest([batch["img"], batch["bboxes"]])
        return batch

    def note(_: Any) -> None:
        parameters = list(trainer.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        trainer.seen.append((trainer.images, float(trainer.loss.detach()), digest(parameters), digest(gradients)))

    trainer.preprocess_batch = preprocess_batch
    trainer.add_callback("on_train_batch_end", note)
    return trainer


def digest(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(t.detach().cpu().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def resumed(trial: Trial, **more: Any) -> Any:
    return watched(trial, resume=str(trial.folder / "weights" / "last.pt"), **more)


@pytest.mark.parametrize("loader_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trial_that_was_cut_off_goes_on_to_the_bit(make_trial: MakeTrial, loader_workers: int) -> None:
    whole = watched(make_trial("whole", "SE"), loader_workers)
    whole.train()
    first = watched(make_trial("cut", "SE"), loader_workers)
    first.add_callback("on_train_epoch_end", lambda t: cut_off(t) if t.epoch == 1 else None)
    with pytest.raises(CutOffError):
        first.train()
    second = resumed(make_trial("cut", "SE"), loader_workers=loader_workers)
    second.train()
    assert [*first.seen[:3], *second.seen] == whole.seen  # an epoch has 3 batches
    best = [open_checkpoint(trainer.best)["model"].state_dict() for trainer in (whole, second)]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])
    assert second.progress.batches == whole.progress.batches and second.progress.start == whole.progress.start
    # A step of the optimiser takes several batches, and its batches lie in two epochs.
    weights = [weights for _, _, weights, _ in whole.seen]
    assert weights[2] == weights[3] != weights[0]


def test_variants_see_the_same_batches_and_start_from_the_same_weights(make_trial: MakeTrial) -> None:
    trainers = [watched(make_trial(layer or "plain", layer, epochs=2)) for layer in ("", "SE", "Pointwise")]
    for trainer in trainers:
        trainer.train()
    assert len({tuple(images for images, *_ in trainer.seen) for trainer in trainers}) == 1
    assert len({str(trainer.progress.batches) for trainer in trainers}) == 1
    assert len({trainer.progress.start for trainer in trainers}) == 1
    images = [images for images, *_ in trainers[0].seen]
    assert len(set(images)) == len(images) and list(trainers[0].progress.batches) == [0, 1]


def test_another_seed_is_another_order(make_trial: MakeTrial) -> None:
    one, other = make_trial("one", epochs=1), make_trial("other", epochs=1)
    trainers = [watched(one), watched(Trial(**{**vars(other), "seed": 1}))]
    for trainer in trainers:
        trainer.train()
    assert trainers[0].progress.batches != trainers[1].progress.batches


def test_a_start_has_the_channels_of_the_images(base: dict[str, Any]) -> None:
    grey = {**base, "channels": 1}
    assert begin(grey, 0, ["circle"], None).model[0].conv.in_channels == 1
    assert begin(base, 0, ["circle"], None).model[0].conv.in_channels == 3


def test_a_weight_that_differs_is_named(start: Any, base: dict[str, Any]) -> None:
    first, second = (open_checkpoint(start)["model"] for _ in range(2))
    assert compare(first, second, is_whole=True) == compare(first, first, is_whole=True)
    with torch.no_grad():
        second.model[4].cv1.conv.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(StudyError, match=r"C2f cv1\.conv\.weight \(layer 4\) differs"):
        compare(first, second, is_whole=True)


def test_a_weight_that_is_missing_matters_where_the_variant_is_a_pair(start: Any) -> None:
    first, second = (open_checkpoint(start)["model"] for _ in range(2))
    second.model[9] = torch.nn.Identity()
    with pytest.raises(StudyError, match=r"no tensor SPPF cv1\.conv\.weight"):
        compare(first, second, is_whole=True)
    assert compare(first, second, is_whole=False) != compare(first, first, is_whole=True)


def test_a_trial_that_starts_elsewhere_fails(make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trials.make_trainer(make_trial("elsewhere", "SE"), {})
    get_model = type(trainer).get_model

    def spoiled(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = get_model(self, *args, **kwargs)
        with torch.no_grad():
            model.model[0].conv.weight.mul_(1.001)
        return model

    monkeypatch.setattr(type(trainer), "get_model", spoiled)
    with pytest.raises(StudyError, match=r"Conv conv\.weight \(layer 0\) differs"):
        trainer.train()


def test_a_smaller_batch_is_no_pair(make_trial: MakeTrial) -> None:
    trainer = trials.make_trainer(make_trial("small"), {})
    trainer.add_callback("on_train_start", lambda t: vars(t).update(batch_size=2))
    with pytest.raises(StudyError, match=r"batch=4 and Ultralytics took 2"):
        trainer.train()


def test_a_lost_state_is_no_silent_start(make_trial: MakeTrial) -> None:
    first = watched(make_trial("lost"))
    first.add_callback("on_train_epoch_end", lambda t: cut_off(t) if t.epoch == 1 else None)
    with pytest.raises(CutOffError):
        first.train()
    state.forget(first.wdir)
    with pytest.raises(CheckpointError, match=r"state-0\.pt is gone.*Delete"):
        resumed(make_trial("lost")).train()


@pytest.mark.slow
def test_early_stopping_that_was_cut_off_trains_no_epoch_more(make_trial: MakeTrial) -> None:
    trial = make_trial("early", epochs=5)
    first = watched(trial)
    first.add_callback("on_train_epoch_end", lambda t: vars(t.stopper).update(patience=0) if t.epoch == 1 else None)
    first.final_eval = lambda: cut_off(first)
    with pytest.raises(CutOffError):
        first.train()
    assert first.stop and first.epoch == 1
    second = resumed(trial)
    second.train()
    assert second.seen == [] and second.metrics and not list(second.wdir.glob("state-?.pt.*"))
    found = trials.train(trial)  # and after that nothing at all
    assert len(found["epochs"]) == first.epoch + 1 and found["batches"] == first.progress.batches


def test_what_is_drawn_depends_on_seed_and_epoch_alone() -> None:
    def draws(*numbers: int) -> list[float]:
        seed_all(*numbers)
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    assert draws(3, 1) == draws(3, 1) and draws(3) == draws(3)
    assert len({str(draws(*numbers)) for numbers in ((3, 1), (3, 2), (4, 1), (3,))}) == 4


def test_states_are_kept_for_one_epoch_only(tmp_path: Path) -> None:
    for epoch in (1, 2, 10):
        state.write(tmp_path, epoch, {"epoch": epoch})
    (tmp_path / ".state-3.pt.77.1").touch()
    kept = state.latest(tmp_path)
    assert kept == {"epoch": 10} and state.read(tmp_path, 2) == {"epoch": 2}
    state.forget(tmp_path, but=10)
    assert [path.name for path in tmp_path.iterdir()] == ["state-10.pt"]
    state.forget(tmp_path)
    assert not list(tmp_path.iterdir()) and state.latest(tmp_path) is None


class Host:
    """As much of a trainer as writing a checkpoint takes."""

    is_written: bool | None = True

    def save_model(self) -> bool | None:
        return self.is_written


def saving(folder: Path) -> Any:
    trainer = object.__new__(paired(Host))
    trainer.__dict__ |= {
        "model": nn.Linear(1, 1), "ema": SimpleNamespace(ema=nn.Linear(1, 1), updates=0), "wdir": folder, "epoch": 0,
        "scaler": torch.amp.GradScaler("cpu"), "stopper": SimpleNamespace(), "stop": False, "best_fitness": 0.0,
        "fitness": 0.0, "progress": Progress(seconds=5.0), "_begun": time.monotonic(), "_stepped": 0,
    }  # fmt: skip
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters())
    return trainer


def test_an_epoch_without_a_checkpoint_leaves_no_state(tmp_path: Path) -> None:
    trainer = saving(tmp_path)
    for trainer.epoch, trainer.is_written in enumerate((True, None, False, False)):  # None is what most hosts say
        trainer.save_model()
    assert [path.name for path in tmp_path.iterdir()] == ["state-1.pt"]


def test_a_clock_that_is_set_changes_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = saving(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert trainer.seconds() == pytest.approx(5, abs=1)


def test_recent_images_are_forgotten() -> None:
    dataset = SimpleNamespace(buffer=[0, 2], ims=[1, 2, 3], im_hw0=[1, 2, 3], im_hw=[1, 2, 3], cache=None)
    forget_images(dataset)
    assert dataset.buffer == [] and dataset.ims == dataset.im_hw0 == dataset.im_hw == [None, 2, None]
    cached = SimpleNamespace(buffer=[0], ims=[1], cache="ram")
    forget_images(cached)
    assert cached.buffer == [0] and cached.ims == [1]


def test_transforms_with_a_generator_of_their_own_are_seeded() -> None:
    seeds: list[int] = []
    own = SimpleNamespace(transform=SimpleNamespace(set_random_seed=seeds.append))
    mixed = SimpleNamespace(pre_transform=SimpleNamespace(transforms=[own]))
    seed_transforms(SimpleNamespace(transforms=SimpleNamespace(transforms=[own, mixed])), 7)
    assert seeds == [7, 7]
