"""How a layer inserted into a trained detector should start: the paper's start, and ways to open a gate."""

from __future__ import annotations

import copy
import itertools
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.models.yolo.detect import DetectionTrainer

from experiments.study_table import difference
from yolo_attn import registry, tabular
from yolo_attn.cache import write_text
from yolo_attn.graft import graft, to_yaml
from yolo_attn.host.model import yamls
from yolo_attn.layers.gated import Gated
from yolo_attn.study import statistics

METRIC = "metrics/mAP50-95(B)"
# Gain of the gate, whether it has one value a channel, how many times the learning rate of the rest it has.
GATES = {
    "gain 1": (1, False, 1),
    "gain 8": (8, False, 1),
    "gain 64": (64, False, 1),
    "per channel": (8, True, 1),
    "own rate": (1, False, 20),
}
STARTS = ("paper", *GATES, "schedule")
# Heads of the table, in English and Chinese.
TITLES = {
    "paper": ("paper's start", "论文的初始化"), "gain 1": ("gain 1", "增益 1"), "gain 8": ("gain 8", "增益 8"),
    "gain 64": ("gain 64", "增益 64"), "per channel": ("gain 8 per channel", "增益 8，逐通道"),
    "own rate": ("20 times the rate", "20 倍学习率"), "schedule": ("schedule", "预设调度"),
}  # fmt: skip
GATE_EVERY = 65  # steps between two readings of the gates


class Opening(nn.Module):
    """Compute ``x + g * (A(x) - x)``; ``g`` is learned from 0, or set from outside.

    Args:
        layer: The attention layer A.
        gain: ``g`` is the parameter times this; None means that ``g`` is ``opened``, no parameter.
        channels: Number of gates, one a channel; None means one for all.
    """

    def __init__(self, layer: nn.Module, gain: float | None, channels: int | None = None) -> None:
        super().__init__()
        self.layer, self.gain, self.opened = layer, gain, 0.0
        if gain is not None:
            self.gate = nn.Parameter(torch.zeros(()) if channels is None else torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        g = self.opened if self.gain is None else self.gain * self.gate
        return x + g * (self.layer(x) - x)

    def openness(self) -> float:
        """Return the mean of ``g``."""
        return self.opened if self.gain is None else self.gain * self.gate.mean().item()


class StartTrainer(DetectionTrainer):
    """Fine-tunes from one start; keeps mAP50-95 and gates on the way, and writes no checkpoint."""

    start = "paper"
    model: Any

    def get_model(self, *args: Any, **kwargs: Any) -> Any:
        """Return the host's model with another gate in the place of ours."""
        model = super().get_model(*args, **kwargs)
        for j, layer in enumerate(model.model):
            if isinstance(layer, Gated):
                inner = layer.layer
                width = _width(model, j)
                gain, is_per_channel, _ = GATES.get(self.start, (None, False, 1))
                opening = Opening(inner, gain, width if is_per_channel else None)
                vars(opening).update({key: getattr(layer, key) for key in ("i", "f", "type", "np")})
                model.model[j] = opening
        return model

    def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the host's optimiser; gates may have a learning rate of their own and have no weight decay."""
        optimizer = super().build_optimizer(*args, **kwargs)
        gates = [m.gate for m in self.model.modules() if isinstance(m, Opening) and m.gain is not None]
        if not gates:
            return optimizer
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if not any(p is gate for gate in gates)]
        own = {**optimizer.param_groups[-1], "params": gates, "weight_decay": 0.0, "param_group": "gate"}
        own.pop("initial_lr", None)
        own["lr"] *= GATES[self.start][2]
        optimizer.add_param_group(own)
        return optimizer

    def save_model(self) -> bool:
        """Write nothing."""
        return False

    def final_eval(self) -> None:
        """Validate nothing: there is no checkpoint."""


def _width(model: Any, j: int) -> int:
    """Return the width of the map that layer ``j`` gives."""
    widths = []
    hook = model.model[j].register_forward_hook(lambda module, inputs, y: widths.append(y.shape[1]))
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 64, 64))
    model.train(training)
    hook.remove()
    return widths[0]


def fine_tune(base: Path, data: str, model: str, start: str, seed: int, folder: Path, **recipe: Any) -> dict[str, Any]:
    """Load a base into a model and train it.

    Args:
        base: Checkpoint of the base.
        data: Data YAML.
        model: Model YAML.
        start: One of ``STARTS``, or ``base`` for a model without new layers.
        seed: Seed of the new layers and of training.
        folder: Where runs are written.
        **recipe: Training arguments.

    Returns:
        ``maps``: mAP50-95 before, after epoch 1, 2, ...; ``steps``: optimiser steps done by then; ``gates``: for each
        reading the step and the gates; ``seconds``.
    """
    arguments = {**recipe, "model": model, "pretrained": str(base), "data": data, "seed": seed}
    trainer: Any = StartTrainer(overrides={**arguments, "project": str(folder), "name": "run", "exist_ok": True})
    trainer.start = start
    maps: list[float] = []
    steps: list[int] = []
    gates: list[dict[str, Any]] = []
    done = 0

    def openings() -> list[Opening]:
        return [m for m in trainer.model.modules() if isinstance(m, Opening)]

    def before(trainer: Any) -> None:
        validator = trainer.get_validator()
        maps.append(float(validator(model=copy.deepcopy(trainer.ema.ema))[METRIC]))
        steps.append(0)

    def after_step(trainer: Any) -> None:
        nonlocal done
        done += 1
        warm_up = recipe["warmup_epochs"] * len(trainer.train_loader)
        for model in (trainer.model, trainer.ema.ema):
            for module in model.modules():
                if isinstance(module, Opening) and module.gain is None:
                    module.opened = min(1.0, done / warm_up)
        if done % GATE_EVERY == 0 and openings():
            gates.append({"step": done, "g": [round(module.openness(), 5) for module in openings()]})

    def after_epoch(trainer: Any) -> None:
        if len(maps) <= recipe["epochs"]:
            maps.append(float(trainer.metrics[METRIC]))
            steps.append(done)

    trainer.add_callback("on_train_start", before)
    trainer.add_callback("on_train_batch_end", after_step)
    trainer.add_callback("on_fit_epoch_end", after_epoch)
    begun = time.perf_counter()
    trainer.train()
    return {"maps": maps, "steps": steps, "gates": gates, "seconds": round(time.perf_counter() - begun, 1)}


def plan(layers: Sequence[str], places: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return all fine-tunings in the order in which they are run: every layer and start of a seed before the next."""
    keys = ("layer", "place", "start", "seed")
    runs = []
    for seed in seeds:
        runs.append(dict(zip(keys, ("none", "", "base", seed), strict=True)))
        for place, layer, start in itertools.product(places, layers, STARTS):
            runs.append(dict(zip(keys, (layer, place, start, seed), strict=True)))
    return runs


def study(data: str, base: Path, runs: Sequence[dict[str, Any]], recipe: dict[str, Any], work: Path) -> None:
    """Run what is not done yet. Several processes may share the work.

    Args:
        data: Data YAML.
        base: Checkpoint of the base.
        runs: What ``plan`` gave.
        recipe: Training arguments.
        work: Folder of one JSON file a run.
    """
    (work / "runs").mkdir(parents=True, exist_ok=True)
    for run in runs:
        file = work / "runs" / ("-".join(str(value) for value in run.values()).replace(" ", "_") + ".json")
        claim = file.with_suffix(".claim")
        if file.exists() or not _claim(claim):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            model = "yolov8n.yaml" if run["start"] == "base" else _model(Path(temporary), run)
            found = fine_tune(base, data, model, run["start"], run["seed"], Path(temporary), **recipe)
        write_text(file, json.dumps({**run, **found}) + "\n")
        claim.unlink()


def _claim(file: Path) -> bool:
    """Take a run unless a process that is alive has it."""
    try:
        with file.open("x") as claim:
            claim.write(str(os.getpid()))
        return True
    except FileExistsError:
        try:
            os.kill(int(file.read_text() or 0), 0)
        except (ProcessLookupError, ValueError):
            file.write_text(str(os.getpid()))
            return True
        return False


def read(work: Path) -> list[dict[str, Any]]:
    """Return the runs that are done."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((work / "runs").glob("*.json"))]


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each layer, place and start, over the seeds.

    ``maps`` is the mean mAP50-95 before training and after each epoch, ``difference`` that at the end less that of the
    fine-tuned base of the same seed, with the ends of its 95% interval, all in points; ``back`` how many seeds reached
    the base's mAP again and ``steps`` the optimiser steps that took on average; ``gates`` the mean of |g| over seeds
    and inserted layers after each epoch.
    """
    plain = {row["seed"]: row for row in rows if row["start"] == "base"}
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    order = ("base", *STARTS)
    keys = {(row["layer"], row["place"], row["start"]) for row in rows}
    result = []
    for layer, place, start in sorted(keys, key=lambda key: (layers.index(key[0]), key[1], order.index(key[2]))):
        runs = [r for r in rows if (r["layer"], r["place"], r["start"]) == (layer, place, start)]
        back = [
            next((s for s, m in zip(r["steps"][1:], r["maps"][1:], strict=True) if m >= plain[r["seed"]]["maps"][0]), 0)
            for r in runs
        ]
        ends = {r["seed"]: 100 * r["maps"][-1] for r in runs}
        pair = statistics.compare(ends, {seed: 100 * row["maps"][-1] for seed, row in plain.items()})
        gates = [[mean(map(abs, g["g"])) for g in r["gates"] if g["step"] in r["steps"]] for r in runs if r["gates"]]
        result.append({
            "layer": layer, "place": place, "start": start, "seeds": len(runs),
            "maps": [round(100 * mean(values), 2) for values in zip(*(r["maps"] for r in runs), strict=True)],
            "difference": _rounded(pair.mean), "low": _rounded(pair.low), "high": _rounded(pair.high),
            "back": sum(map(bool, back)), "steps": round(mean(filter(None, back))) if any(back) else None,
            "gates": [round(mean(values), 4) for values in zip(*gates, strict=True)],
        })  # fmt: skip
    return result


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _model(folder: Path, run: dict[str, Any]) -> str:
    """Write the model YAML of one start and return its path."""
    args = [{"gate": False}] if run["start"] == "paper" else []
    model = graft(yamls.base_model("yolov8.yaml"), run["layer"], run["place"], args)
    path = folder / f"yolov8n-{registry.find(run['layer']).slug}-{run['place']}.yaml"
    path.write_text(to_yaml(model, path.stem), encoding="utf-8")
    return str(path)


def start_table(content: Mapping[str, Any], chinese: bool = False) -> str:
    """Return the record of ``scripts/start_study.py`` as Markdown: what each start cost, and what became of the gates.

    The mAP at the end is a difference to the base that was fine-tuned without a layer.
    """
    rows = {(row["layer"], row["place"], row["start"]): row for row in content["rows"]}
    places = list(dict.fromkeys((layer, place) for layer, place, start in rows if start != "base"))
    starts = [start for start in STARTS if any(start == key[2] for key in rows)]
    ends = [
        [layer, place, f"{rows[layer, place, 'paper']['maps'][0]:.1f}"]
        + [difference(*(rows[layer, place, start][key] for key in ("difference", "low", "high"))) for start in starts]
        for layer, place in places
    ]
    gates = []
    for start, place in itertools.product([s for s in starts if s in GATES], dict.fromkeys(p for _, p in places)):
        mine = [row["gates"] for (_, where, named), row in rows.items() if (where, named) == (place, start)]
        gates.append([_title(start, chinese), place, *(f"{mean(column):.3f}" for column in zip(*mine, strict=True))])
    (base,) = (row for row in content["rows"] if row["start"] == "base")
    runs, back = (sum(row[key] for row in content["rows"]) for key in ("seeds", "back"))
    steps = content["settings"]["runs"][0]["steps"][1:]
    before, after = base["maps"][0], base["maps"][-1]
    if chinese:
        heads = ["层", "位置", "论文的初始化，微调前"]
        gate_heads = ["门控", "位置", *(f"{step} 步" for step in steps)]
        said = (
            f"基础模型的 mAP50-95 为 {before:.1f}，不加层微调后为 {after:.1f}。"
            f"全部 {runs} 次训练中，有 {back} 次在某一轮后回到了 {before:.1f}。"
        )
        over = "训练途中 |g| 对各层的均值（逐通道门控时，g 为各通道的均值）："
    else:
        heads = ["layer", "place", "paper's start, before"]
        gate_heads = ["gate", "place", *(f"{step} steps" for step in steps)]
        said = (
            f"The base has {before:.1f} mAP50-95, and {after:.1f} when it is fine-tuned without a layer. "
            f"{back} of all {runs} runs reached {before:.1f} again after any epoch."
        )
        over = "Mean of |g| over the layers, on the way (with one gate per channel, g is their mean):"
    heads += [_title(start, chinese) for start in starts]
    tables = [
        tabular.markdown_table(heads, ends, [column > 1 for column in range(len(heads))]),
        tabular.markdown_table(gate_heads, gates, [False, False, *map(bool, steps)]),
    ]
    return "\n".join([said, "", tables[0], over, "", tables[1]]).rstrip()


def _title(start: str, chinese: bool) -> str:
    return TITLES[start][chinese]
