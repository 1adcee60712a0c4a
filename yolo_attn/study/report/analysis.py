"""All comparisons of a study: each variant with plain, attention with its controls, overall, by size and by class."""

from __future__ import annotations

import statistics as means
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from .. import pairs, statistics
from ..statistics import Paired
from .reading import ATTENTION, LARGER, OVERALL, OWN, PLAIN, POINTWISE, SIZES, Study, Trial, Variant

CLASS = "class"  # metric of a comparison of one class: its mAP50-95


@dataclass(frozen=True)
class Comparison:
    """A variant against a reference by one number.

    Attributes:
        variant: Name.
        reference: Name of what it is compared with.
        against: Kind of the reference.
        metric: A name of ``OVERALL`` or ``SIZES``, or ``CLASS``.
        class_name: Of which class, or None.
        pair: The paired differences.
        q: False discovery rate within the family at which the difference stands; None where there is no interval.
        family: Comparisons of the family that have an interval.
        seeds_needed: To see the study's effect, given this spread; None if unknown or too many.
        verdict: As ``statistics.verdict``.
    """

    variant: str
    reference: str
    against: str
    metric: str
    class_name: str | None
    pair: Paired
    q: float | None = None
    family: int = 0
    seeds_needed: int | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Analysis:
    """A study and what its numbers say.

    Attributes:
        study: What was read.
        effect: The difference worth seeing, in points.
        primary: The metric of the verdicts: COCO's AP if every finished trial has it, else the host's mAP50-95.
        comparisons: All, by family, then in the study's order.
        classes: Names of the classes, in the data's order.
    """

    study: Study
    effect: float
    primary: str
    comparisons: tuple[Comparison, ...]
    classes: tuple[str, ...]

    def main(self, against: str = PLAIN, *kinds: str) -> list[Comparison]:
        """Return the comparisons by the primary metric with references of a kind, of variants of some kinds."""
        kind = {variant.name: variant.kind for variant in self.study.variants}
        found = [c for c in self.comparisons if c.metric == self.primary and c.against == against]
        return [c for c in found if not kinds or kind[c.variant] in kinds]

    def find(self, variant: str, metric: str, class_name: str | None = None) -> Comparison | None:
        """Return the comparison of a variant with plain by a metric."""
        return self._with_plain.get((variant, metric, class_name))

    def control(self, variant: str, kind: str) -> Comparison | None:
        """Return the comparison of a variant with its control of a kind, by the primary metric."""
        return next((c for c in self.main(kind) if c.variant == variant), None)

    @cached_property
    def _with_plain(self) -> dict[tuple[str, str, str | None], Comparison]:
        return {(c.variant, c.metric, c.class_name): c for c in self.comparisons if c.against == PLAIN}

    def scores(self, variant: str, metric: str) -> dict[int, float]:
        """Return the score of each finished seed of a variant, in points."""
        return _scores(self.study, variant, lambda trial: trial.scores.get(metric))

    def mean(self, variant: str, metric: str | None = None) -> float | None:
        """Return the mean over the finished seeds of a variant, by the primary metric if none is named."""
        scores = self.scores(variant, metric or self.primary)
        return means.fmean(scores.values()) if scores else None

    @property
    def digits(self) -> int:
        """Decimals of points in texts: one, or two where one would show an end of an interval as zero."""
        pairs = [c.pair for c in self.comparisons if c.metric == self.primary]
        shown = [value for pair in pairs for value in (pair.low, pair.high) if value is not None]
        return 2 if any(round(value, 1) == 0 for value in shown) else 1

    @property
    def spread(self) -> tuple[float, int] | None:
        """The spread of the differences from plain within attention variants, and its degrees of freedom."""
        return statistics.pooled_spread([c.pair for c in self.main(PLAIN, ATTENTION)])


def analyse(study: Study, effect: float = statistics.EFFECT) -> Analysis:
    """Compare all variants of a study.

    Args:
        study: As read.
        effect: The difference worth seeing, in mAP points.
    """
    finished = study.in_state("finished")
    has_coco = bool(finished) and all("coco.AP" in trial.scores for trial in finished)
    primary = "coco.AP" if has_coco else "ultralytics.map"
    named = [str(name) for name in (study.facts.get("data") or {}).get("names") or []]
    classes = tuple(dict.fromkeys([*named, *(name for trial in finished for name in trial.class_scores)]))
    measured = {name for trial in finished for name in trial.scores}
    overall = [name for name in OVERALL if name in measured or name == primary]
    found = []
    for variant in study.variants:
        for reference in _references(study, variant):
            is_plain = reference.kind == PLAIN
            for metric in [*overall, *(name for name in SIZES if is_plain and name in measured)]:
                found.append(_compare(study, variant, reference, metric, None))
            found += [_compare(study, variant, reference, CLASS, name) for name in classes if is_plain]
    return Analysis(study, effect, primary, tuple(_judged(study, found, effect)), classes)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names, cheapest first, for which nothing is as cheap or cheaper and as good or better.

    Args:
        points: Cost and score by name.
    """
    best, kept = float("-inf"), []
    for name, (_, score) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if score > best:
            best = score
            kept.append(name)
    return kept


def costs(analysis: Analysis) -> tuple[str, dict[str, tuple[float, float]]]:
    """Return what cost the variants are drawn against, and cost and mean score of each that has both.

    The cost is ``latency`` in milliseconds if all variants with a score have one, else ``gflops``.
    """
    scored = [(v, mean) for v in analysis.study.variants if (mean := analysis.mean(v.name)) is not None]
    if scored and all(variant.latency for variant, _ in scored):
        return "latency", {v.name: (1000 * v.latency["median"], mean) for v, mean in scored if v.latency}
    return "gflops", {v.name: (v.gflops, mean) for v, mean in scored if v.gflops is not None}


def curves(study: Study, variant: str) -> dict[int, list[float]]:
    """Return for each epoch that all finished seeds of a variant ran the mAP50-95 of each, in points."""
    found = [trial.curve for trial in study.of(variant, "finished")]
    shared = set.intersection(*map(set, found)) if found else set()
    return {epoch: [curve[epoch] for curve in found] for epoch in sorted(shared)}


def _references(study: Study, variant: Variant) -> Iterable[Variant]:
    """Yield what a variant is compared with: plain, and for attention the larger scale and its own pointwise control.

    That is the one made for it, where there is one, else that of its place. A model of the user's has none.
    """
    points = [v for v in study.variants if v.kind == POINTWISE and v.place == variant.place]
    own = [v for v in points if v.matched == variant.name] or points[:1]
    for other in study.variants:
        is_control = other.kind == LARGER or other in own
        is_judged = variant.kind == ATTENTION or (variant.kind == OWN and other.kind == LARGER)
        if variant.kind != PLAIN and (other.kind == PLAIN or (is_judged and is_control)):
            yield other


def _scores(study: Study, variant: str, read: Callable[[Trial], float | None]) -> dict[int, float]:
    read_all = {trial.seed: read(trial) for trial in study.of(variant, "finished")}
    return {seed: value for seed, value in read_all.items() if value is not None}


def _compare(study: Study, variant: Variant, reference: Variant, metric: str, class_name: str | None) -> Comparison:
    """Compare two variants over the seeds whose trials are pairs."""

    def score(trial: Trial) -> float | None:
        return trial.scores.get(metric) if class_name is None else trial.class_scores.get(class_name)

    mine, theirs = (_scores(study, name, score) for name in (variant.name, reference.name))
    for seed in mine.keys() & theirs.keys():
        records = (study.trials[name, seed].record for name in (variant.name, reference.name))
        if pairs.differing((variant.kind, reference.kind), *records):
            del mine[seed]
    pair = statistics.compare(mine, theirs)
    return Comparison(variant.name, reference.name, reference.kind, metric, class_name, pair)


def _judged(study: Study, found: Iterable[Comparison], effect: float) -> Iterable[Comparison]:
    """Add to each comparison what its family makes of it.

    Controls stand in families of their own: that a larger model is better would make weak differences look strong.
    """
    kinds = {variant.name: variant.kind for variant in study.variants}
    families: dict[tuple[str, ...], list[Comparison]] = {}
    for c in found:
        key = (kinds[c.variant], c.against, "sizes" if c.metric in SIZES else c.metric)
        families.setdefault(key, []).append(c)
    for family in families.values():
        rates = statistics.adjust([c.pair.p for c in family])
        for c, q in zip(family, rates, strict=True):
            needed = None if c.class_name else statistics.seeds_needed(c.pair.spread, effect)
            size = sum(rate is not None for rate in rates)
            yield replace(c, q=q, family=size, seeds_needed=needed, verdict=statistics.verdict(c.pair, q))
