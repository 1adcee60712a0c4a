"""What an inserted layer does to a trained detector: stock transfer, the paper's start and the identity start."""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ultralytics.models.yolo.detect import DetectionTrainer

from yolo_attn import registry
from yolo_attn.graft import graft, to_yaml
from yolo_attn.host.model import yamls
from yolo_attn.layers.gated import Gated

from .transfer_table import stock_loading

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
            with stock_loading() if start == "stock" else nullcontext():
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
    model = graft(yamls.base_model("yolov8.yaml"), layer, place, args)
    path = folder / f"yolov8n-{registry.find(layer).slug}-{place}-{start}.yaml"
    path.write_text(to_yaml(model, path.stem), encoding="utf-8")
    return str(path)
