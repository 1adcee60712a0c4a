"""What the numbers say, in sentences of either language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import statistics
from ..statistics import MOST_SEEDS
from .analysis import Analysis, Comparison
from .phrases import say
from .reading import ATTENTION, LARGER, OWN, PLAIN, POINTWISE, Variant, base_name

SIGNS = {"better": "▲", "worse": "▼", "chance": "◆", "noise": "○"}  # of a verdict; without an interval a dash
NAMES_SHOWN = 6
NONE = "\u2013"


def signed(value: float, digits: int) -> str:
    """Return points with their sign, zero without one."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def interval(c: Comparison, digits: int) -> str:
    """Return ``[-0.3, +1.1]``, or nothing where there is none."""
    low, high = c.pair.low, c.pair.high
    return "" if low is None or high is None else f"[{signed(low, digits)}, {signed(high, digits)}]"


def value(c: Comparison, digits: int) -> str:
    """Return ``+0.4 [-0.3, +1.1]``, or the mean alone, or a dash."""
    return NONE if c.pair.mean is None else f"{signed(c.pair.mean, digits)} {interval(c, digits)}".strip()


def sign(c: Comparison) -> str:
    """Return the sign of a verdict."""
    return SIGNS.get(c.verdict, NONE)


def rate(q: float | None) -> str:
    """Return ``= 0.012``, a false discovery rate with two digits that count, or ``< 0.001``."""
    return NONE if q is None else f"= {q:.2g}" if q >= 0.001 else "< 0.001"


def verdict(analysis: Analysis, c: Comparison, language: str) -> str:
    """Return a difference and the verdict: ``+0.4 [-0.3, +1.1]: not told from noise by 3 seeds; …``."""
    words = verdict_words(analysis, c, language)
    return words if c.pair.mean is None else say("said", language, value=value(c, analysis.digits), words=words)


def verdict_words(analysis: Analysis, c: Comparison, language: str) -> str:
    """Return the verdict on a difference without its numbers."""
    key, n = c.verdict, len(c.pair.seeds)
    if key == "noise":
        key = _noise(c, analysis.effect)
    words = say(
        key, language, n=n, needed=c.seeds_needed, most=MOST_SEEDS, effect=f"{analysis.effect:g}",
        family=c.family, q=rate(c.q),
    )  # fmt: skip
    left_out = [seed for seed in analysis.study.seeds if seed not in c.pair.seeds]
    if c.pair.seeds and left_out:
        return say("left_out", language, words=words, seeds=numbers(left_out))
    return words


def _noise(c: Comparison, effect: float) -> str:
    """Return the phrase for a difference that is not told from noise: does its interval exclude the effect?"""
    if c.pair.low is not None and c.pair.high is not None and -effect < c.pair.low <= c.pair.high < effect:
        return "noise_small"
    if c.seeds_needed is None:
        return "noise_many"
    return "noise" if c.seeds_needed <= len(c.pair.seeds) else "noise_needed"


def numbers(values: Sequence[int]) -> str:
    """Return ``0, 1, 2``."""
    return ", ".join(map(str, values))


def answer(analysis: Analysis, language: str) -> str:
    """Return the paragraph that answers the study's question."""
    study = analysis.study
    planned, finished = len(study.trials), len(study.in_state("finished"))
    counts = {"planned": planned, "done": finished}
    if not finished:
        return say("answer_none", language, **counts)
    sentences = [say("answer_unfinished", language, **counts)] if finished < planned else []
    sentences += _attention(analysis, language)
    sentences += [
        say("answer_own", language, name=c.variant, verdict=verdict(analysis, c, language))
        for c in analysis.main(PLAIN, OWN)
    ]
    sentences += [larger(analysis, c, language) for c in analysis.main(PLAIN, LARGER) if c.pair.mean is not None]
    spread = analysis.spread
    if spread and spread[0]:
        needed = statistics.seeds_needed(spread[0], analysis.effect)
        key = "answer_seeds" if needed else "answer_seeds_many"
        sentences.append(say(key, language, effect=f"{analysis.effect:g}", needed=needed, most=MOST_SEEDS))
    return say("join", language).join(sentences)


def larger(analysis: Analysis, c: Comparison, language: str) -> str:
    """Return what the next larger scale brings, and for how much more."""
    variants = {variant.name: variant for variant in analysis.study.variants}
    mine, plain = variants[c.variant], variants[c.reference]
    points = say("points" if interval(c, 1) else "points_alone", language, value=value(c, analysis.digits))
    known = {"name": c.variant, "value": points}
    key = "larger" if c.verdict in ("better", "worse") or c.q is None else "larger_noise"
    if not (mine.gflops and plain.gflops):
        return say(key, language, **known, cost="")
    ratio = f"{mine.gflops / plain.gflops:.1f}"
    times = latency_ratio(mine, plain)
    if times is None:
        return say(key, language, **known, cost=say("larger_gflops", language, ratio=ratio))
    return say(key, language, **known, cost=say("larger_latency", language, ratio=ratio, times=f"{times:.1f}"))


def latency_ratio(variant: Variant, plain: Variant) -> float | None:
    """Return how many times plain's latency a variant has, measured in turns where that was done."""
    if variant.latency_ratio:
        return variant.latency_ratio["median"]
    return variant.latency["median"] / plain.latency["median"] if variant.latency and plain.latency else None


def method(analysis: Analysis, language: str) -> list[str]:
    """Return how variants were compared, a sentence or two each."""
    study = analysis.study
    settings = study.facts["settings"]
    names = say("comma", language).join(variant.name for variant in study.variants)
    pairs = [c.pair for c in analysis.main(PLAIN, ATTENTION) if c.pair.p is not None]
    same, count = study.checked
    lines = [
        say(
            "method_models", language, count=len(study.variants), data=study.data, names=names,
            epochs=settings.get("epochs"), imgsz=settings.get("imgsz"), start=_start(settings, language),
            seeds=numbers(study.seeds),
        ),
        say("method_pairing", language),
        say("method_checked", language, same=same, count=count),
    ]  # fmt: skip
    if analysis.main(PLAIN, POINTWISE):
        lines.append(say("method_pointwise", language, matched=_matched(analysis, language)))
    if analysis.main(PLAIN, LARGER):
        lines.append(say("method_larger", language))
    lines += [
        say("method_seeds", language),
        say("method_primary", language, metric=say(analysis.primary, language)),
    ]
    if analysis.primary == "coco.AP":
        lines.append(say("method_programs", language))
    lines.append(say("method_interval", language))
    if any(c.q is not None for c in analysis.comparisons):
        lines.append(say("method_rate", language))
    if len(pairs) > 1:
        lines.append(say("method_family", language, count=len(pairs)))
    lines.append(say("method_power", language, effect=f"{analysis.effect:g}"))
    if analysis.spread:
        spread, _ = analysis.spread
        seeds = min(len(pair.seeds) for pair in pairs) if pairs else 2
        low, high = (f"{factor:.1f}" for factor in statistics.spread_factors(seeds - 1))
        lines.append(say("method_spread", language, spread=f"{spread:.2f}", n=seeds, low=low, high=high))
    if any(str(word).startswith("seeds=") for words in study.facts.get("extensions") or [] for word in words):
        lines.append(say("method_extended", language))
    return [*lines, say("method_selection", language)]


def _start(settings: Mapping[str, Any], language: str) -> str:
    """Return the weights that models start from."""
    pretrained = settings.get("pretrained")
    if not pretrained:
        return say("random_start", language)
    return f"pretrained={base_name(str(pretrained))}" + (" gate=false" if settings.get("gate") is False else "")


def _matched(analysis: Analysis, language: str) -> str:
    """Return whose parameters each pointwise control has, where that is known."""
    found = [
        say("matched_pair", language, name=variant.name, matched=variant.matched)
        for variant in analysis.study.variants
        if variant.kind == POINTWISE and variant.matched
    ]
    return say("matched", language, pairs=say("comma", language).join(found)) if found else ""


def lacking(analysis: Analysis, language: str) -> list[str]:
    """Return what failed or is missing, a line each."""
    study = analysis.study
    found = []
    for trial in study.in_state("failed", "running", "missing"):
        key = {"missing": "absent"}.get(trial.state, trial.state)
        error = _last_line(trial.record.get("error"))
        words = say(key, language, error=error, epochs=trial.epochs)
        found.append(say("said", language, value=f"{trial.variant} seed{trial.seed}", words=words))
    found += [say("unusable", language, problem=problem) for problem in study.problems]
    if not analysis.primary.startswith("coco"):
        found.append(say("no_coco", language))
    if not any(variant.latency for variant in study.variants):
        found.append(say("no_cost", language))
    return found


def _last_line(text: object) -> str:
    """Return the line of an error that says what it is: the last of a traceback."""
    return next((line.strip() for line in reversed(str(text or "").splitlines()) if line.strip()), "?")


def _attention(analysis: Analysis, language: str) -> list[str]:
    found = analysis.main(PLAIN, ATTENTION)
    if not found:
        return [] if analysis.main(PLAIN, OWN) else [say("answer_no_attention", language)]
    plain = analysis.study.plain.name
    judged = [c for c in found if c.q is not None]
    if not judged:
        return [say("answer_no_interval", language, plain=plain)]
    metric = say(analysis.primary, language)
    by = {key: [c for c in judged if c.verdict == key] for key in ("better", "worse", "chance")}
    about = {"metric": metric, "plain": plain, "count": len(judged), "family": judged[0].family}
    counts = sorted({len(c.pair.seeds) for c in judged})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    none = "answer_noise" if len(judged) > 1 else "answer_noise_one"
    unsure = say(none, language, **about, name=judged[0].variant, seeds=seeds)
    sentences = [] if by["better"] or by["worse"] else [unsure]
    for key, chosen in by.items():
        if chosen:
            said = {**about, key: len(chosen), "names": _names(analysis, chosen, language)}
            sentences.append(say(f"answer_{key}", language, **said))
    return sentences + _with_pointwise(analysis, {c.variant for c in by["better"]}, language)


def _with_pointwise(analysis: Analysis, better: set[str], language: str) -> list[str]:
    """Return whether those better than plain are also better than as many parameters without attention."""
    compared = [c for c in analysis.main(POINTWISE) if c.variant in better and c.q is not None]
    if not compared:
        return []
    beaten = [c for c in compared if c.verdict == "better"]
    if not beaten:
        return [say("answer_not_pointwise", language)]
    return [say("answer_beats_pointwise", language, names=_names(analysis, beaten, language))]


def _names(analysis: Analysis, found: Sequence[Comparison], language: str) -> str:
    """Return the variants with their differences, the largest first."""
    ordered = sorted(found, key=lambda c: -abs(c.pair.mean or 0))
    shown = [say("named_value", language, name=c.variant, value=value(c, analysis.digits)) for c in ordered]
    if len(shown) > NAMES_SHOWN:
        names = say("comma", language).join(shown[:NAMES_SHOWN])
        return say("more_named", language, names=names, count=len(shown) - NAMES_SHOWN)
    if len(shown) == 1:
        return shown[0]
    return say("comma", language).join(shown[:-1]) + say("and", language) + shown[-1]
