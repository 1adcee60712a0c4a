"""What stands in the tables and lists of a report, as text, for Markdown and HTML alike."""

from __future__ import annotations

import json
import shlex
import statistics as means
from typing import Any

from ...tabular import number
from . import sentences
from .analysis import Analysis, Comparison
from .phrases import say
from .reading import ATTENTION, LARGER, OVERALL, OWN, PLAIN, POINTWISE, SIZES, Variant


def overall(analysis: Analysis) -> list[str]:
    """Return the metrics over all objects that were measured."""
    return [m for m in OVERALL if any(c.metric == m and c.pair.seeds for c in analysis.comparisons)]


def sizes(analysis: Analysis) -> list[str]:
    """Return the metrics by object size that were measured."""
    return [m for m in SIZES if any(c.metric == m and c.pair.seeds for c in analysis.comparisons)]


def groups(analysis: Analysis) -> list[list[Variant]]:
    """Return the variants as plain, controls, and attention with the user's models, without empty groups."""
    wanted = ((PLAIN,), (POINTWISE, LARGER), (ATTENTION, OWN))
    found = [[v for v in analysis.study.variants if v.kind in kinds] for kinds in wanted]
    return [group for group in found if group]


def short_name(name: str, plain: str) -> str:
    """Return a variant's name without the model's that all share."""
    return name.removeprefix(f"{plain}-")


def millions(variant: Variant) -> str:
    """Return the parameters in millions."""
    return number(None if variant.parameters is None else variant.parameters / 1e6, 2)


def gflops(variant: Variant) -> str:
    """Return the GFLOPs, with more decimals for a model at a tiny image size."""
    return number(variant.gflops, 1 if (variant.gflops or 1) >= 1 else 3)


def milliseconds(variant: Variant) -> float | None:
    """Return the median latency of one image."""
    return 1000 * variant.latency["median"] if variant.latency else None


def latency(analysis: Analysis, variant: Variant) -> str:
    """Return ``13.1 (1.06x)``: milliseconds, and how many times plain's."""
    times = sentences.latency_ratio(variant, analysis.study.plain)
    text = number(milliseconds(variant), 1)
    return text if times is None or variant.kind == PLAIN else f"{text} ({times:.2f}\u00d7)"


def scores(analysis: Analysis, variant: Variant, metric: str) -> str:
    """Return ``38.4 ± 0.3``, the mean and standard deviation over seeds."""
    found = list(analysis.scores(variant.name, metric).values())
    if not found:
        return sentences.NONE
    mean = f"{means.fmean(found):.{analysis.digits}f}"
    return f"{mean} ± {means.stdev(found):.{analysis.digits}f}" if len(found) > 1 else mean


def with_control(analysis: Analysis, variant: Variant, kind: str) -> str:
    """Return a variant's difference from its control of a kind, after the sign of the verdict, or nothing."""
    c = analysis.control(variant.name, kind)
    return f"{sentences.sign(c)} {sentences.value(c, analysis.digits)}" if c else ""


def verdict(analysis: Analysis, variant: Variant, language: str) -> str:
    """Return the verdict on a variant, or what plain is."""
    c = analysis.find(variant.name, analysis.primary)
    return sentences.verdict(analysis, c, language) if c else say("plain", language)


def class_difference(analysis: Analysis, c: Comparison | None) -> str:
    """Return the mean difference of a class."""
    if c is None or c.pair.mean is None:
        return sentences.NONE
    return sentences.signed(c.pair.mean, analysis.digits)


def is_beyond_chance(c: Comparison | None) -> bool:
    """Return whether a difference is called better or worse."""
    return c is not None and c.verdict in ("better", "worse")


def command(analysis: Analysis) -> str:
    """Return the command line of the whole study, and below it those by which it was extended."""
    facts = analysis.study.facts
    lines = [facts.get("command") or [], *(facts.get("extensions") or [])]
    return "\n".join(
        line if isinstance(line, str) else shlex.join(["yolo-attn", *map(str, line[1:])]) for line in lines
    )


def commands(analysis: Analysis) -> list[str]:
    """Return the command of each trial that has run."""
    found = [trial.record.get("command") for trial in analysis.study.trials.values()]
    return [text if isinstance(text, str) else shlex.join(map(str, text)) for text in found if text]


def facts(analysis: Analysis) -> list[tuple[str, str]]:
    """Return versions, data, settings and machine: the key of a phrase and the text, as far as they are known."""
    study = analysis.study
    data, machine = (study.facts.get(key) or {} for key in ("data", "machine"))
    settings = {k: v for k, v in study.facts["settings"].items() if v is not None}
    devices = sorted({str(t.record["device"]) for t in study.trials.values() if t.record.get("device")})
    seconds = sum(t.record.get("seconds") or 0 for t in study.trials.values())
    counts = {key: data.get(key) or {} for key in ("images", "instances")}
    known = [
        ("created", study.facts.get("created")),
        ("hours", f"{seconds / 3600:.1f}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in (study.facts.get("versions") or {}).items())),
        ("data", data.get("file")),
        *((key, f"{c.get('train', '?')} / {c.get('val', '?')}" if c else "") for key, c in counts.items()),
        ("fingerprint", data.get("fingerprint")),
        ("processor", machine.get("processor")),
        ("cores", machine.get("cores")),
        ("devices", ", ".join(devices)),
        ("latency_on", ", ".join(str(study.cost[k]) for k in ("device", "processor") if study.cost.get(k))),
        ("settings", ", ".join(f"{name}={_short(value)}" for name, value in settings.items())),
    ]
    return [(key, str(text)) for key, text in known if text]


def _short(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return ",".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
