"""Paired differences between trainings that share a seed: mean, interval, seeds needed, verdict; all in mAP points.

Each seed pairs two trainings that start from the same weights and see the same data in the same order, so their
difference is what counts and Student's t says how well a few of them bound its mean. Intervals are those of one
comparison alone. Many variants are compared at once, so the verdict asks more: the false discovery rate of
Benjamini and Hochberg over the comparisons of one family. Differences of one family share their reference and so move
together, which that procedure withstands.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ERROR = 0.05
CONFIDENCE = 1 - ERROR
POWER = 0.8
EFFECT = 0.5  # points
MOST_SEEDS = 1000
_NO_SPREAD = 1e-9  # points; less is rounding


@dataclass(frozen=True)
class Paired:
    """Differences of two variants over the seeds that both have, in mAP points.

    Attributes:
        seeds: Those that both have, sorted.
        differences: Variant minus reference, one a seed.
        mean: Their mean; None without a seed.
        low: Lower end of the 95% interval of the mean; None for one seed, or without any spread.
        high: Its upper end.
        spread: Standard deviation of the differences; None for fewer than two seeds.
        p: Two-sided p of a mean of zero by the paired t test; None where there is no interval.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    p: float | None = None


def compare(variant: Mapping[int, float], reference: Mapping[int, float]) -> Paired:
    """Pair the scores of two variants by seed.

    Args:
        variant: Score of each seed in mAP points.
        reference: The same of what it is compared with.
    """
    seeds = tuple(sorted(variant.keys() & reference.keys()))
    differences = tuple(float(variant[seed] - reference[seed]) for seed in seeds)
    if not seeds:
        return Paired(seeds, differences)
    mean = float(np.mean(differences))
    if len(seeds) == 1:
        return Paired(seeds, differences, mean)
    spread = float(np.std(differences, ddof=1))
    if spread < _NO_SPREAD:
        return Paired(seeds, differences, mean, spread=0.0)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return Paired(seeds, differences, mean, float(interval.low), float(interval.high), spread, float(test.pvalue))


def adjust(ps: Sequence[float | None]) -> list[float | None]:
    """Return for each p of a family the smallest false discovery rate at which it stands; None stays None."""
    known = [p for p in ps if p is not None]
    adjusted = iter(stats.false_discovery_control(known, method="bh").tolist() if known else [])
    return [None if p is None else next(adjusted) for p in ps]


def verdict(pair: Paired, q: float | None) -> str:
    """Return what can be said of a difference.

    Args:
        pair: The difference.
        q: What ``adjust`` made of its p within the family.

    Returns:
        ``better`` or ``worse`` than the reference at a false discovery rate of 5%; ``chance`` if the interval alone
        excludes zero, but the family makes chance likely; ``noise`` if the interval holds zero; and without an
        interval ``missing`` (no seed), ``single`` (one seed) or ``constant`` (no spread).
    """
    if pair.mean is None:
        return "missing"
    if pair.p is None or q is None:
        return "single" if len(pair.seeds) == 1 else "constant"
    if q < ERROR:
        return "better" if pair.mean > 0 else "worse"
    return "chance" if pair.p < ERROR else "noise"


def power(seeds: int, spread: float, effect: float) -> float:
    """Return how likely the paired t test, two-sided at 5%, sees a true difference with that many seeds."""
    freedom = seeds - 1
    edge = stats.t.isf(ERROR / 2, freedom)
    shift = math.sqrt(seeds) * effect / spread
    seen = stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift)
    return float(seen) if math.isfinite(seen) else 1.0  # a shift too large for the distribution's tails


def seeds_needed(spread: float | None, effect: float = EFFECT) -> int | None:
    """Return the seeds with which one paired comparison would see a difference in 8 of 10 studies.

    Args:
        spread: Standard deviation of the paired differences in points.
        effect: The true difference to be seen, in points, above 0.

    Returns:
        A number from 2, or None if there is no spread to judge by or ``MOST_SEEDS`` are too few.
    """
    if not spread:
        return None
    counts = range(2, MOST_SEEDS + 1)
    place = bisect_left(counts, POWER, key=lambda seeds: power(seeds, spread, effect))
    return counts[place] if place < len(counts) else None


def pooled_spread(pairs: Sequence[Paired]) -> tuple[float, int] | None:
    """Return the standard deviation within variants over all of them, and its degrees of freedom."""
    spreads = [(pair.spread, len(pair.seeds) - 1) for pair in pairs if pair.spread is not None]
    freedom = sum(weight for _, weight in spreads)
    return (math.sqrt(sum(weight * spread**2 for spread, weight in spreads) / freedom), freedom) if freedom else None


def spread_factors(freedom: int) -> tuple[float, float]:
    """Return by what factors the true spread may be smaller or larger than the one seen, with 95% confidence."""
    low, high = stats.chi2.interval(CONFIDENCE, freedom)
    return math.sqrt(freedom / high), math.sqrt(freedom / low)
