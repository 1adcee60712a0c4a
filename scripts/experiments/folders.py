"""Records of what users measure with ``yolo-attn bench`` and ``yolo-attn study``, made from the folders they write."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments import evidence
from yolo_attn import registry
from yolo_attn.bench.command import CLOCKS, WORDS
from yolo_attn.errors import DataError
from yolo_attn.study.report import analyse, read
from yolo_attn.study.report.analysis import Analysis, curves
from yolo_attn.study.report.cells import command as study_command
from yolo_attn.study.report.reading import LARGER, OVERALL, PLAIN, POINTWISE
from yolo_attn.study.statistics import EFFECT

Record = dict[str, Any]
_SAID = ("processor", "device", "yolo-attn", "ultralytics", "torch", "python")


def write_record(folder: Path, out: Path) -> Path:
    """Write the record of a bench or a study and return its path.

    Raises:
        DataError: If the folder is neither.
    """
    if (folder / "bench.json").is_file():
        return evidence.save(_bench(json.loads((folder / "bench.json").read_text(encoding="utf-8"))), out)
    if (folder / "study.json").is_file():
        return evidence.save(_study(analyse(read(folder), EFFECT)), out)
    raise DataError(f"{folder} holds neither a bench.json nor a study.json")


def _bench(content: Mapping[str, Any]) -> Record:
    about = content["about"]
    model, *others = content["rows"]
    layers, places = (list(dict.fromkeys(row[key] for row in others)) for key in ("layer", "place"))
    layers = ["all"] if layers == [layer.name for layer in registry.TABLE] else layers
    asked = {"model": Path(model["model"]).name, "layers": ",".join(layers), "at": ",".join(map(str, places))}
    asked |= {key: str(about[key]) for key in ("imgsz", "batch", "threads", "clock") if str(about[key]) != WORDS[key]}
    if about["clock"] not in CLOCKS:  # a GPU's own, which nobody asks for
        del asked["clock"]
    settings = {key: value for key, value in about.items() if key not in _SAID}
    return _record("bench", f"yolo-attn bench {_words(asked)}", about, about, settings, content["rows"])


def _study(analysis: Analysis) -> Record:
    facts = analysis.study.facts
    plain, pointwise, larger = (_compared(analysis, kind) for kind in (PLAIN, POINTWISE, LARGER))
    rows = [
        {
            **asdict(variant), "score": analysis.mean(variant.name), "scores": _scores(analysis, variant.name),
            "curve": _curve(analysis, variant.name), "mean": None, **plain.get(variant.name, {}),
            "vs pointwise": pointwise.get(variant.name), "vs larger": larger.get(variant.name),
        }
        for variant in analysis.study.variants
    ]  # fmt: skip
    machine = dict(facts["machine"])
    machine["device"] = "cpu" if machine.get("kind") == "cpu" else ", ".join(machine["devices"])
    settings = {**facts["settings"], "data": facts["data"]["images"], "metric": analysis.primary}
    command = " ".join(_named(word) for word in study_command(analysis).split())
    return _record(f"study-{analysis.study.name}", command, facts["versions"], machine, settings, rows)


def _scores(analysis: Analysis, variant: str) -> Record:
    """Return the score of each seed by each metric over all objects, in mAP points."""
    return {metric: found for metric in OVERALL if (found := analysis.scores(variant, metric))}


def _curve(analysis: Analysis, variant: str) -> list[float]:
    """Return the host's mAP50-95 after each epoch, in points, the mean of the seeds."""
    return [round(statistics.fmean(seeds), 2) for seeds in curves(analysis.study, variant).values()]


def _compared(analysis: Analysis, kind: str) -> dict[str, Record]:
    """Return what each variant's difference from the reference of a kind is, by the variant's name."""
    found = {}
    for c in analysis.main(kind):
        pair = {key: value for key, value in asdict(c.pair).items() if key in ("mean", "low", "high", "seeds", "p")}
        found[c.variant] = {**pair, "q": c.q, "verdict": c.verdict, "seeds_needed": c.seeds_needed}
    return found


def _record(
    task: str, command: str, versions: Mapping[str, str], machine: Mapping[str, Any], settings: Record,
    rows: list[Record],
) -> Record:  # fmt: skip
    """Return a record with the versions and the machine that the folder names, not those of now."""
    found = evidence.record(task, json.loads(json.dumps(settings), object_hook=_bare), rows, command)
    found["versions"] = {name: versions[name] for name in ("yolo-attn", "python", "torch", "ultralytics")}
    found["machine"] = {key: machine[key] for key in ("device", "processor")}
    return found


def _bare(values: Record) -> Record:
    """Return values with names of files in place of their paths."""
    return {key: Path(value).name if isinstance(value, str) else value for key, value in values.items()}


def _words(values: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _named(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{key}={Path(value).name}" if equals else word
