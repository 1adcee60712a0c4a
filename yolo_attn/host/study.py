"""What an inserted layer does to a trained detector: stock transfer, the paper's start and the identity start."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn import tasks

from .. import registry
from ..graft import graft, to_yaml
from ..layers.gated import Gated
from . import models, surgery, transfer

METRIC = "metrics/mAP50-95(B)"
STARTS = ("stock", "paper", "identity")


def train_base(data: str, folder: Path, epochs: int, **recipe: Any) -> Path:
    """Train yolov8n from scratch and return the checkpoint of its best epoch."""
    arguments = {"model": "yolov8n.yaml", "pretrained": False, "data": data, "epochs": epochs, **recipe}
    trainer = DetectionTrainer(overrides={**arguments, "project": str(folder), "name": "base", "exist_ok": True})
    trainer.train()
    return Path(trainer.best)


def fine_tune(base: Path, data: str, model: str, seed: int, folder: Path, **recipe: Any) -> dict[str, Any]:
    """Load a base into a model, train, and return mAP50-95 before training and after every epoch.

    Args:
        base: Checkpoint of the base.
        data: Data YAML.
        model: Model YAML.
        seed: Seed of the new layers and of training.
        folder: Where runs are written.
        **recipe: Training arguments.

    Returns:
        ``maps``: before, after epoch 1, 2, ...; ``gates``: the gates after training.
    """
    arguments = {**recipe, "model": model, "pretrained": str(base), "data": data, "seed": seed}
    overrides = {**arguments, "project": str(folder), "name": "run", "exist_ok": True}
    trainer: Any = DetectionTrainer(overrides=overrides)
    maps: list[float] = []

    def before(trainer: Any) -> None:
        validator = trainer.get_validator()
        maps.append(float(validator(model=copy.deepcopy(trainer.ema.ema))[METRIC]))

    def after_epoch(trainer: Any) -> None:
        if len(maps) <= recipe["epochs"]:  # the host calls once more for the final checkpoint
            maps.append(float(trainer.metrics[METRIC]))

    trainer.add_callback("on_train_start", before)
    trainer.add_callback("on_fit_epoch_end", after_epoch)
    trainer.train()
    gates = [module.openness() for module in trainer.ema.ema.modules() if isinstance(module, Gated)]
    return {"maps": maps, "gates": gates}


def study(
    data: str,
    layers: Sequence[str],
    places: Sequence[str],
    seeds: Sequence[int],
    settings: dict[str, Any],
    work: Path,
    done: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Train a base; fine-tune it as it is, and with each layer at each place from each start.

    Args:
        data: Data YAML.
        layers: YAML names of the layers.
        places: Places of the layers.
        seeds: Seeds of the new layers and of training.
        settings: ``base epochs``, ``common`` arguments of all trainings and the fine-tuning's ``recipe``.
        work: Folder of the base and of ``runs.jsonl``; runs that stand there are not repeated.
        done: Takes all runs at the end.
    """
    work.mkdir(parents=True, exist_ok=True)
    common, recipe = settings["common"], {**settings["common"], **settings["recipe"]}
    base = work / "base" / "weights" / "best.pt"
    if not base.is_file():
        train_base(data, work, settings["base epochs"], seed=0, **common)
    journal = work / "runs.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    variants = [("none", "", "base"), *itertools.product(layers, places, STARTS)]
    with tempfile.TemporaryDirectory() as temporary:
        for seed, (layer, place, start) in itertools.product(seeds, variants):
            key = {"layer": layer, "place": place, "start": start, "seed": seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            model = "yolov8n.yaml" if start == "base" else _model(Path(temporary), layer, place, start)
            with _stock_loading() if start == "stock" else nullcontext():
                run = fine_tune(base, data, model, seed, Path(temporary), **recipe)
            rows.append({**key, **run})
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    done(rows)


def summarise(rows: Sequence[dict[str, Any]], epochs: Sequence[int]) -> list[dict[str, Any]]:
    """Return mean and spread (largest minus smallest) over the seeds, for each layer, place and start."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    order = ("base", *STARTS)
    keys = sorted(
        {(row["layer"], row["place"], row["start"]) for row in rows},
        key=lambda key: (layers.index(key[0]), key[1], order.index(key[2])),
    )
    result = []
    for layer, place, start in keys:
        runs = [r["maps"] for r in rows if (r["layer"], r["place"], r["start"]) == (layer, place, start)]
        line: dict[str, Any] = {"layer": layer, "place": place, "start": start, "seeds": len(runs)}
        for epoch in epochs:
            values = [maps[epoch] for maps in runs]
            line[f"epoch {epoch}"] = round(statistics.mean(values), 4)
            line[f"spread {epoch}"] = round(max(values) - min(values), 4)
        result.append(line)
    return result


def _model(folder: Path, layer: str, place: str, start: str) -> str:
    """Write the model YAML of one start and return its path."""
    args = [{"gate": False}] if start != "identity" else []
    model = graft(models.base_model("yolov8.yaml"), layer, place, args)
    path = folder / f"yolov8n-{registry.find(layer).slug}-{place}-{start}.yaml"
    path.write_text(to_yaml(model, path.stem), encoding="utf-8")
    return str(path)


def transfer_row(family: str, place: str, layer: str = "CBAM") -> dict[str, Any]:
    """Load a randomised base of a family into its grafted model, by the host alone and by us.

    Args:
        family: Name of a model YAML without ``.yaml``, such as ``yolo11n``.
        place: Place of the layer.
        layer: YAML name of the layer.

    Returns:
        ``tensors`` of the base, how many of them equal the base's in the model after ``stock`` and after ``ours``, and
        the largest ``difference`` of our model's outputs from the base's.
    """
    plain = tasks.yaml_model_load(f"{family}.yaml")
    base = randomise(build(plain))
    target = build(graft(plain, layer, place))
    with _stock_loading():
        target.load(base, verbose=False)
    stock = _arrived(base, target)
    target = build(graft(plain, layer, place))
    target.load(base, verbose=False)
    pairs = zip(surgery.outputs(base), surgery.outputs(target), strict=True)
    return {
        "model": family, "layer": layer, "place": place, "tensors": len(base.model.state_dict()), "stock": stock,
        "ours": _arrived(base, target), "difference": max((a - b).abs().max().item() for a, b in pairs),
    }  # fmt: skip


def _arrived(base: Any, target: Any) -> int:
    """Count the tensors of the base that stand, unchanged, in the corresponding layer of the target."""
    count = 0
    for i, j in transfer.align(list(base.model), list(target.model)).items():
        theirs = transfer.plain_state(target.model[j])
        state = transfer.plain_state(base.model[i])
        count += sum(k in theirs and torch.equal(theirs[k].float(), v.float()) for k, v in state.items())
    return count


def build(config: dict[str, Any]) -> Any:
    """Return the model of a model dictionary, in the class of its task, in eval mode."""
    with surgery.silence():
        return surgery.build(config).eval()


def randomise(model: Any, seed: int = 1) -> Any:
    """Give every parameter and statistic of a model values that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(seed + 6)
    return model


@contextmanager
def _stock_loading() -> Iterator[None]:
    """Give ``BaseModel.load`` back to the host for a while; rows and names stay ours."""
    ours = tasks.BaseModel.load
    tasks.BaseModel.load = inspect.unwrap(ours)  # type: ignore[method-assign]
    try:
        yield
    finally:
        tasks.BaseModel.load = ours  # type: ignore[method-assign]
