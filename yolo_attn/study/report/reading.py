"""A study's folder of plain files, finished or not, as one object; what cannot be read is said, not guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ...errors import DataError
from .. import pairs
from ..pairs import LARGER, OWN

SCHEMA = 1
PLAIN, POINTWISE, ATTENTION = "plain", "pointwise", "attention"
KINDS = (PLAIN, POINTWISE, LARGER, ATTENTION, OWN)
COCO, HOST = "coco", "ultralytics"
# Numbers by which variants are compared: where a trial has them and what they are called in tables.
OVERALL = {
    "coco.AP": "COCO AP",
    "coco.AP50": "COCO AP50",
    "coco.AP75": "COCO AP75",
    "ultralytics.map": "Ultralytics mAP50-95",
    "ultralytics.map50": "Ultralytics mAP50",
}
SIZES = {"coco.APs": "small", "coco.APm": "medium", "coco.APl": "large"}

Row = dict[str, Any]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Variant:
    """A model of the study.

    Attributes:
        name: As in the folder ``trials``.
        kind: One of ``KINDS``.
        layer: YAML name of the attention layer, if that is what it is.
        place: Where the layer or the pointwise convolution stands.
        matched: The variant whose parameters a pointwise convolution has, if that is said.
        parameters: Number, if known.
        gflops: At the study's image size, if known.
        latency: Seconds an image, ``median``, ``q1`` and ``q3``, if measured.
        latency_ratio: The same against plain, measured in turns.
    """

    name: str
    kind: str
    layer: str | None = None
    place: str | None = None
    matched: str | None = None
    parameters: int | None = None
    gflops: float | None = None
    latency: Mapping[str, float] | None = None
    latency_ratio: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Trial:
    """One training: ``finished``, ``failed``, ``running`` (or killed, with epochs so far) or ``missing``."""

    variant: str
    seed: int
    state: str
    epochs: int = 0
    record: Row = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """What it reached, in mAP points, by the names of ``OVERALL`` and ``SIZES``; only what was measured."""
        if self.state != "finished":
            return {}
        metrics = self.record["metrics"]
        found = {f"{source}.{name}": value for source in (COCO, HOST) for name, value in _items(metrics.get(source))}
        return _points({name: found.get(name) for name in (*OVERALL, *SIZES)})

    @property
    def class_scores(self) -> dict[str, float]:
        """The mAP50-95 of each class in points, where it was measured."""
        if self.state != "finished":
            return {}
        classes = _items(self.record["metrics"].get("per_class"))
        return _points({name: (row or {}).get("map") for name, row in classes})

    @property
    def curve(self) -> dict[int, float]:
        """The mAP50-95 of each finished epoch, in points."""
        return _points({row["epoch"]: row.get("map") for row in self.record.get("epochs") or []})


@dataclass(frozen=True)
class Study:
    """What a study's folder holds.

    Attributes:
        folder: Where it is.
        facts: ``study.json``.
        variants: In the study's order; the plain model is ``plain``.
        seeds: As planned.
        trials: All that are planned, by variant and seed.
        plan: ``plan.json``, or nothing.
        cost: ``cost.json``, or nothing.
        problems: Files that could not be used and trials that were not paired, a line each.
        checked: Finished trials that began as plain did, and all that could have.
    """

    folder: Path
    facts: Row
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    trials: Mapping[tuple[str, int], Trial]
    plan: Row
    cost: Row
    problems: tuple[str, ...] = ()
    checked: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """What the study is called."""
        return str(self.facts.get("name") or self.folder.absolute().name)

    @property
    def data(self) -> str:
        """The data's file, without its folder."""
        return base_name(str(self.facts["settings"].get("data")))

    @property
    def plain(self) -> Variant:
        """The model that all others are compared with."""
        return next(variant for variant in self.variants if variant.kind == PLAIN)

    def of(self, variant: str, *states: str) -> list[Trial]:
        """Return the trials of a variant in these states, by seed."""
        return [t for seed in self.seeds if (t := self.trials[variant, seed]).state in states]

    def in_state(self, *states: str) -> list[Trial]:
        """Return the trials in these states, in the study's order."""
        return [trial for variant in self.variants for trial in self.of(variant.name, *states)]


def base_name(path: str) -> str:
    """Return a path's last part, of whatever system the path is."""
    return re.split(r"[/\\]", path)[-1]


def read(folder: Path) -> Study:
    """Read a study's folder.

    Raises:
        DataError: If it has no ``study.json`` of this schema that names variants, one of them plain, and seeds.
    """
    file = folder / "study.json"
    if not file.is_file():
        raise DataError(f"{folder} holds no study.json; name the folder of a study, such as runs/study/NAME")
    facts = _facts(file)
    problems: list[str] = []
    plan, cost = (_optional(folder / name, problems) for name in ("plan.json", "cost.json"))
    names = [row["name"] for row in facts["variants"]]
    seeds = tuple(facts["settings"]["seeds"])
    trials = {(name, seed): _trial(folder, name, seed, problems) for name in names for seed in seeds}
    variants = tuple(_variant(row, plan, cost, trials.values()) for row in facts["variants"])
    study = Study(folder, facts, variants, seeds, trials, plan, cost)
    found = list(_pairs(study))
    problems += [f"{t.variant} seed{t.seed}: other {key} than plain" for t, keys in found for key in keys or ()]
    return replace(study, problems=tuple(problems), checked=(sum(keys == [] for _, keys in found), len(found)))


def _facts(file: Path) -> Row:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["schema"] != SCHEMA:
            raise ValueError(f"its schema is {facts['schema']!r}, this version reads {SCHEMA}")
        kinds = [row["kind"] for row in facts["variants"] if row["name"]]
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or kinds.count(PLAIN) != 1:
            raise ValueError(f"its variants are of the kinds {kinds}; one must be plain, the others of {KINDS[1:]}")
        if not facts["settings"]["seeds"]:
            raise ValueError("it has no seeds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} cannot be used: {_reason(error)}; it is written when a study starts") from error
    return facts


def _optional(file: Path, problems: list[str]) -> Row:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        problems.append(f"{file.name}: {error}")
        return {}
    return content


def _trial(folder: Path, variant: str, seed: int, problems: list[str]) -> Trial:
    run = folder / "trials" / variant / f"seed{seed}"
    file = run / "trial.json"
    if file.is_file():
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA:
                raise ValueError(f"its schema is {record['schema']!r}, this version reads {SCHEMA}")
            if (record["variant"], record["seed"]) != (variant, seed):
                raise ValueError(f"it is the trial of {record['variant']} with seed {record['seed']}")
            trial = Trial(variant, seed, record["state"], len(record.get("epochs") or []), record)
            if trial.state not in ("finished", "failed"):
                raise ValueError(f"its state is {trial.state!r}")
            _ = trial.scores, trial.class_scores, trial.curve
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{file.relative_to(folder).as_posix()}: {_reason(error)}")
        else:
            return trial
    epochs = _epochs_so_far(run / "results.csv")
    return Trial(variant, seed, "running" if epochs else "missing", epochs)


def _epochs_so_far(file: Path) -> int:
    try:
        return max(0, sum(1 for line in file.read_text(encoding="utf-8").splitlines() if line.strip()) - 1)
    except (OSError, ValueError):
        return 0


def _pairs(study: Study) -> Iterator[tuple[Trial, list[str] | None]]:
    """Yield each finished trial but plain's with what began otherwise than with plain; None where that is unknown.

    A model of another scale or of the user's shares only the batches for sure.
    """
    for variant in study.variants:
        shared = pairs.shared(PLAIN, variant.kind)
        for trial in study.of(variant.name, "finished") if variant.kind != PLAIN else []:
            base = study.trials[study.plain.name, trial.seed].record
            known = all(trial.record.get(key) and base.get(key) for key in shared)
            yield trial, pairs.differing((PLAIN, variant.kind), trial.record, base) if known else None


def _variant(row: Row, plan: Row, cost: Row, trials: Iterable[Trial]) -> Variant:
    """Put together what is known of a variant: measured at the end, said by a trial, or planned."""
    name = row["name"]
    mine = [trial.record for trial in trials if trial.variant == name]
    records = [cost.get(name), *mine, (plan.get("variants") or {}).get(name), row]

    def known(key: str) -> Any:
        return next((r[key] for r in records if isinstance(r, Mapping) and r.get(key) is not None), None)

    measured = cost.get(name)
    times = measured if isinstance(measured, dict) else {}
    return Variant(
        name, row["kind"], row.get("layer"), row.get("place"), row.get("matched"), known("parameters"), known("gflops"),
        times.get("latency"), times.get("latency_ratio"),
    )  # fmt: skip


def _items(table: Any) -> Iterable[tuple[str, Any]]:
    return (table or {}).items()


def _points(scores: Mapping[Key, Any]) -> dict[Key, float]:
    """Keep what is a score in [0, 1], not null, NaN or COCO's -1 for nothing to measure, and make it points."""
    return {
        key: 100 * value
        for key, value in scores.items()
        if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
    }


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
