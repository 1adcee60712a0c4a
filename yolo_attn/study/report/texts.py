"""The report as plain files: CSV, JSON, Markdown, LaTeX. All mAP numbers are points, 100 x mAP."""

from __future__ import annotations

import dataclasses
import re
import statistics as means
from collections.abc import Iterable, Sequence
from typing import Any

from ... import tabular
from ...tabular import number
from .. import statistics
from . import cells, sentences
from .analysis import CLASS, Analysis, Comparison, costs, curves, front
from .phrases import say
from .reading import LARGER, OVERALL, PLAIN, POINTWISE, SIZES, Variant

SCHEMA = 1
RECORD = ("error", "attempts", "started", "ended", "seconds", "best_epoch", "memory", "parameters", "gflops", "device")
ABOUT = ("kind", "layer", "place", "parameters", "gflops")


def trials_csv(analysis: Analysis) -> str:
    """Return a line for each planned trial, with all of its scores."""
    study = analysis.study
    kinds = {variant.name: variant for variant in study.variants}
    rows = []
    for trial in study.trials.values():
        variant, record, scores = kinds[trial.variant], trial.record, trial.scores
        about = {"variant": trial.variant, "kind": variant.kind, "layer": variant.layer, "place": variant.place}
        numbers: dict[str, Any] = {name: scores.get(name) for name in (*OVERALL, *SIZES)}
        numbers |= {f"{CLASS}.{name}": trial.class_scores.get(name) for name in analysis.classes}
        known = {"seed": trial.seed, "state": trial.state, "epochs": trial.epochs}
        known |= {name: record.get(name) for name in RECORD}
        rows.append({**about, **known, **numbers, "command": record.get("command")})
    return tabular.to_csv(rows)


def variants_csv(analysis: Analysis) -> str:
    """Return a line for each variant: cost, mean scores, differences from plain and from its controls."""
    rows = []
    for variant in analysis.study.variants:
        row: dict[str, Any] = {"variant": variant.name, **{name: getattr(variant, name) for name in ABOUT}}
        row |= {"latency_ms": cells.milliseconds(variant), "latency_ratio": _ratio(analysis, variant)}
        for metric in (*OVERALL, *SIZES):
            summary = _summary(analysis, variant, metric)
            row |= {f"{metric}.mean": summary["mean"], f"{metric}.sd": summary["sd"]}
            row[f"{metric}.n"] = len(summary["seeds"])
        for against in (PLAIN, POINTWISE, LARGER):
            row |= _difference(analysis, against, analysis.control(variant.name, against))
        rows.append(row)
    return tabular.to_csv(rows)


def everything(analysis: Analysis) -> dict[str, Any]:
    """Return all statistics, ready for JSON."""
    study = analysis.study
    kind, points = costs(analysis)
    states = {state: len(study.in_state(state)) for state in ("finished", "failed", "running", "missing")}
    spread, freedom = analysis.spread or (None, 0)
    return {
        "schema": SCHEMA,
        "name": study.name,
        "unit": "mAP points, 100 x mAP",
        "primary": analysis.primary,
        "confidence": statistics.CONFIDENCE,
        "false_discovery_rate": statistics.ERROR,
        "power": statistics.POWER,
        "effect": analysis.effect,
        "answer": {language: sentences.answer(analysis, language) for language in ("en", "zh")},
        "trials": {"planned": len(study.trials), **states},
        "spread": {
            "of_differences": spread,
            "degrees_of_freedom": freedom,
            "seeds_needed": statistics.seeds_needed(spread, analysis.effect),
        },
        "variants": [_variant(analysis, variant) for variant in study.variants],
        "comparisons": [_comparison(analysis, c) for c in analysis.comparisons],
        "pareto": {"cost": kind, "points": points, "front": front(points)},
        "curves": {variant.name: curves(study, variant.name) for variant in study.variants},
        "lacking": sentences.lacking(analysis, "en"),
    }


def markdown(analysis: Analysis) -> str:
    """Return the report in Markdown."""
    study = analysis.study
    main_notes = ["caption_variants"] + ["caption_controls"] * any(map(analysis.main, (POINTWISE, LARGER)))
    sections = [
        ("variants", _with_notes(_markdown_main(analysis), *main_notes, plain=study.plain.name)),
        ("both", _with_notes(_markdown_metrics(analysis, cells.overall(analysis)), "caption_both")),
        ("sizes", _with_notes(_markdown_metrics(analysis, cells.sizes(analysis)), "caption_sizes")),
        ("classes", _with_notes(_markdown_classes(analysis), "caption_classes")),
        ("method", _bullets(sentences.method(analysis, "en"))),
        ("lacking", _bullets(sentences.lacking(analysis, "en"))),
        (
            "repeat",
            _code([cells.command(analysis)]) + f"\n{say('commands', 'en')}:\n\n" + _code(cells.commands(analysis)),
        ),
        ("machine", _bullets(f"{say(key, 'en')}: {text}" for key, text in cells.facts(analysis))),
    ]
    complete = say("nothing_lacks", "en", planned=len(study.trials)) + "\n"
    texts = [f"## {say(key, 'en')}\n\n{text or complete}" for key, text in sections if text or key == "lacking"]
    title = f"# {_safe(study.name)}\n"
    return "\n".join([title, _safe(sentences.answer(analysis, "en")) + "\n", *texts])


def latex(analysis: Analysis) -> str:
    """Return the main table in LaTeX, with caption and label; it needs the package ``booktabs``."""
    study, metric = analysis.study, analysis.primary
    second = "coco.AP50" if metric == "coco.AP" else "ultralytics.map50"
    heads = ["Variant", "Params", "GFLOPs", "Latency", "mAP", r"mAP$_{50}$", r"$\Delta$", r"95\% CI", "Seeds"]
    rows: list[list[str]] = []
    for group in cells.groups(analysis):
        rows += [[]] if rows else []  # a rule
        rows += [_latex_row(analysis, variant, (metric, second)) for variant in group]
    plain, data = (tabular.escape_latex(name) for name in (study.plain.name, study.data))
    label = re.sub(r"[^a-z0-9]+", "-", study.name.lower()).strip("-") or "study"
    settings = study.facts["settings"]
    latency_on = tabular.escape_latex(dict(cells.facts(analysis)).get("latency_on", ""))
    caption = (
        f"Attention in {plain} on {data} ({settings.get('epochs')} epochs, image size {settings.get('imgsz')}): "
        f"means over seeds at the best epoch on the validation split. mAP: {tabular.escape_latex(say(metric, 'en'))}; "
        r"mAP$_{50}$: the same at IoU 0.5; both in points ($100 \times$ mAP). Params in millions"
        f"{f'; latency of one image in ms ({latency_on})' if latency_on else ''}. "
        rf"$\Delta$: mean difference from {plain} paired by seed, in points, with its 95\% interval by the paired $t$ "
        "test, each for its variant alone, so one without a star may exclude zero. "
        r"$^{*}$: holds at a false discovery rate of 5\% over all variants of its kind (Benjamini--Hochberg)."
    )
    lines = [
        r"% \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}",
        tabular.latex_table(heads, rows, [False, *[True] * 8]).rstrip(), r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_row(analysis: Analysis, variant: Variant, metrics: Sequence[str]) -> list[str]:
    c = analysis.find(variant.name, metrics[0])
    numbers = [cells.millions(variant), cells.gflops(variant), number(cells.milliseconds(variant), 1)]
    numbers += [number(analysis.mean(variant.name, metric), analysis.digits) for metric in metrics]
    mean = ends = ""
    if c and c.pair.mean is not None:
        star = r"\rlap{$^{*}$}" if cells.is_beyond_chance(c) else ""
        mean = f"${sentences.signed(c.pair.mean, analysis.digits)}${star}"
        ends = f"${text}$" if (text := sentences.interval(c, analysis.digits)) else "--"
    seeds = len(c.pair.seeds) if c else len(analysis.scores(variant.name, metrics[0]))
    name = tabular.escape_latex(cells.short_name(variant.name, analysis.study.plain.name))
    return [name, *(text.replace("-", "--") for text in numbers), mean, ends, str(seeds)]


def _with_notes(table: str, *keys: str, **values: str) -> str:
    """Return a table with what its marks mean below it, or nothing for no table."""
    notes = " ".join(say(key, "en", **values) for key in keys)
    return table and f"{table}\n{_safe(notes)}\n"


def _markdown_main(analysis: Analysis) -> str:
    heads = [say(key, "en") for key in ("variant", "parameters", "gflops", "latency")]
    heads += [say("score", "en", metric=say(analysis.primary, "en"))]
    heads += [say(key, "en") for key in ("verdict", "vs_pointwise", "vs_larger")]
    rows = [
        [
            v.name, cells.millions(v), cells.gflops(v), cells.latency(analysis, v),
            cells.scores(analysis, v, analysis.primary), _safe(cells.verdict(analysis, v, "en")),
            *(cells.with_control(analysis, v, kind) for kind in (POINTWISE, LARGER)),
        ]
        for v in analysis.study.variants
    ]  # fmt: skip
    return _markdown_table(heads, rows, 1, 5)


def _markdown_metrics(analysis: Analysis, metrics: Sequence[str]) -> str:
    """Return a table of differences from plain by several metrics; plain has its means."""
    if not metrics:
        return ""
    rows = [[v.name, *(_metric(analysis, v, metric) for metric in metrics)] for v in analysis.study.variants]
    return _markdown_table([say("variant", "en"), *(say(m, "en") for m in metrics)], rows, 1, len(metrics) + 1)


def _metric(analysis: Analysis, variant: Variant, metric: str) -> str:
    c = analysis.find(variant.name, metric)
    return _bold(c, sentences.value(c, analysis.digits)) if c else cells.scores(analysis, variant, metric)


def _markdown_classes(analysis: Analysis) -> str:
    rows = []
    for variant in analysis.study.variants if analysis.classes else ():
        found = [analysis.find(variant.name, CLASS, name) for name in analysis.classes]
        if any(found):
            rows.append([variant.name, *(_bold(c, cells.class_difference(analysis, c)) for c in found)])
    heads = [say("variant", "en"), *analysis.classes]
    return _markdown_table(heads, rows, 1, len(heads)) if rows else ""


def _bold(c: Comparison | None, text: str) -> str:
    return f"**{text}**" if cells.is_beyond_chance(c) else text


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], first: int, end: int) -> str:
    """Return a table of names and Markdown, whose columns from ``first`` up to ``end`` are numbers."""
    numeric = [first <= i < end for i in range(len(heads))]
    lines = [[_safe(name), *row] for name, *row in rows]
    return tabular.markdown_table([_safe(head) for head in heads], lines, numeric)


def _bullets(lines: Iterable[str]) -> str:
    return "".join(f"* {_safe(line)}\n" for line in lines)


def _code(lines: Sequence[str]) -> str:
    return "".join(["```sh\n", *(f"{line}\n" for line in lines), "```\n"])


def _safe(text: str) -> str:
    """Return text that Markdown shows as it stands: no tags, no emphasis."""
    return re.sub(r"([<*`\\])", r"\\\1", text)


def _variant(analysis: Analysis, variant: Variant) -> dict[str, Any]:
    summaries = {m: _summary(analysis, variant, m) for m in (*OVERALL, *SIZES)}
    about = {**dataclasses.asdict(variant), "latency_ratio_median": _ratio(analysis, variant)}
    return {**about, "scores": {m: summary for m, summary in summaries.items() if summary["seeds"]}}


def _summary(analysis: Analysis, variant: Variant, metric: str) -> dict[str, Any]:
    scores = analysis.scores(variant.name, metric)
    found = list(scores.values())
    spread = means.stdev(found) if len(found) > 1 else None
    return {"mean": means.fmean(found) if found else None, "sd": spread, "seeds": scores}


def _comparison(analysis: Analysis, c: Comparison) -> dict[str, Any]:
    return {**dataclasses.asdict(c), "sentence": sentences.verdict(analysis, c, "en")}


def _ratio(analysis: Analysis, variant: Variant) -> float | None:
    return sentences.latency_ratio(variant, analysis.study.plain)


def _difference(analysis: Analysis, against: str, c: Comparison | None) -> dict[str, Any]:
    row: dict[str, Any] = {"n": len(c.pair.seeds) if c else None}
    row |= {name: getattr(c.pair, name) if c else None for name in ("mean", "low", "high", "spread", "p")}
    row |= {name: getattr(c, name) if c else None for name in ("q", "seeds_needed", "verdict")}
    row["sentence"] = sentences.verdict(analysis, c, "en") if c else None
    return {f"vs_{against}.{name}": value for name, value in row.items()}
