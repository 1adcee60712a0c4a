"""Paired statistics: known answers, and what must hold for any scores."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from yolo_attn.study import statistics
from yolo_attn.study.statistics import Paired, compare

scores = st.floats(0, 100).map(lambda x: round(x, 3))
pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=8)


def paired(rows: list[tuple[float, float]]) -> Paired:
    return compare(dict(enumerate(a for a, _ in rows)), dict(enumerate(b for _, b in rows)))


def test_a_textbook_case() -> None:
    """Student's sleep data: extra hours by two drugs in ten patients, t = 4.0621, p = 0.002833."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    pair = compare(dict(enumerate(second)), dict(enumerate(first)))
    assert pair.seeds == tuple(range(10))
    assert pair.mean == pytest.approx(1.58)
    assert (pair.low, pair.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert pair.p == pytest.approx(0.002833, abs=1e-6) and pair.spread == pytest.approx(1.229995, abs=1e-6)


@given(pairs)
def test_the_other_way_round_turns_every_sign(rows: list[tuple[float, float]]) -> None:
    pair, turned = paired(rows), paired([(b, a) for a, b in rows])
    assert turned.mean == pytest.approx(-pair.mean)
    assert turned.spread == pair.spread or turned.spread == pytest.approx(pair.spread)
    if pair.low is not None:
        assert (turned.low, turned.high) == pytest.approx((-pair.high, -pair.low))
        assert turned.p == pytest.approx(pair.p)


@given(pairs, st.floats(-5, 5))
def test_a_shift_of_the_variant_shifts_mean_and_interval(rows: list[tuple[float, float]], shift: float) -> None:
    pair, moved = paired(rows), paired([(a + shift, b) for a, b in rows])
    assert moved.mean == pytest.approx(pair.mean + shift, abs=1e-9)
    if pair.low is not None and moved.low is not None:
        assert (moved.low, moved.high) == pytest.approx((pair.low + shift, pair.high + shift), abs=1e-6)


@given(pairs, st.floats(-5, 5))
def test_what_both_gain_by_a_seed_changes_nothing(rows: list[tuple[float, float]], luck: float) -> None:
    assert paired([(a + luck * i, b + luck * i) for i, (a, b) in enumerate(rows)]).mean == pytest.approx(
        paired(rows).mean, abs=1e-9
    )


@given(st.dictionaries(st.integers(0, 99), st.tuples(scores, scores), min_size=1, max_size=8), st.randoms())
def test_seeds_are_paired_whatever_their_order(rows: dict[int, tuple[float, float]], order: object) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    pair = compare({seed: rows[seed][0] for seed in shuffled}, {seed: b for seed, (_, b) in rows.items()})
    assert pair == compare({seed: a for seed, (a, _) in rows.items()}, {seed: b for seed, (_, b) in rows.items()})
    assert pair.seeds == tuple(sorted(rows))


@given(st.lists(scores, min_size=2, max_size=6))
def test_the_interval_holds_the_mean_and_agrees_with_p(differences: list[float]) -> None:
    pair = paired([(d, 50.0) for d in differences])
    if pair.low is None:
        assert pair.spread == 0 and pair.p is None
    else:
        assert pair.low < pair.mean < pair.high
        assert (pair.low > 0 or pair.high < 0) == (pair.p < 0.05)


def test_only_seeds_that_both_have_count() -> None:
    pair = compare({0: 1.0, 1: 5.0, 7: 2.0}, {7: 1.0, 0: 0.5, 3: 9.0})
    assert pair.seeds == (0, 7) and pair.differences == (0.5, 1.0)
    assert compare({0: 1.0}, {1: 1.0}) == Paired((), ())


@pytest.mark.parametrize(
    ("variant", "reference"),
    [({0: 1.5}, {0: 1.0}), ({0: 0.1 + 0.2, 1: 1.0, 2: 2.0}, {0: 0.0, 1: 0.7, 2: 1.7})],
)
def test_one_seed_or_no_spread_gives_no_interval_and_no_warning(
    variant: dict[int, float], reference: dict[int, float]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = compare(variant, reference)
    assert (pair.low, pair.high, pair.p) == (None, None, None) and pair.mean is not None
    assert pair.spread == (None if len(variant) == 1 else 0.0)


def test_verdicts() -> None:
    clear = compare({0: 2.0, 1: 2.1, 2: 2.2}, {0: 1.0, 1: 1.0, 2: 1.0})
    worse = compare({0: 1.0, 1: 1.0, 2: 1.0}, {0: 2.0, 1: 2.1, 2: 2.2})
    vague = compare({0: 2.0, 1: 1.0, 2: 2.2}, {0: 1.0, 1: 2.0, 2: 1.0})
    assert statistics.verdict(clear, clear.p) == "better"
    assert statistics.verdict(worse, worse.p) == "worse"
    assert statistics.verdict(clear, 0.05) == "chance"
    assert statistics.verdict(vague, 0.9) == "noise"
    assert statistics.verdict(compare({0: 9.0}, {0: 1.0}), None) == "single"
    assert statistics.verdict(compare({0: 9.0, 1: 9.0}, {0: 1.0, 1: 1.0}), None) == "constant"
    assert statistics.verdict(compare({}, {0: 1.0}), None) == "missing"


def test_the_false_discovery_rate_of_a_textbook_family() -> None:
    """Benjamini and Hochberg's own 15 p values: four stand at 5%."""
    family = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240]
    family += [0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    rates = statistics.adjust([None, *family])
    assert rates[0] is None and sum(rate < 0.05 for rate in rates if rate is not None) == 4
    assert rates[4] == pytest.approx(0.0095 * 15 / 4)
    assert statistics.adjust([None, None]) == [None, None] and statistics.adjust([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_family_never_makes_a_difference_stronger(ps: list[float]) -> None:
    rates = statistics.adjust(ps)
    assert all(rate >= p * (1 - 1e-12) for rate, p in zip(rates, ps, strict=True) if rate is not None)
    assert statistics.adjust(ps[:1]) == ps[:1]


def test_seeds_needed_of_a_published_table() -> None:
    """Cohen's d of 0.5, two-sided 5%, power 80%: 34 pairs; of 0.8: 15; of 0.2: 199 (G*Power)."""
    assert [statistics.seeds_needed(1.0, d) for d in (0.5, 0.8, 0.2)] == [34, 15, 199]


@given(st.floats(0.05, 8), st.floats(0.1, 3))
def test_seeds_needed_are_the_fewest_that_reach_the_power(spread: float, effect: float) -> None:
    needed = statistics.seeds_needed(spread, effect)
    if needed is None:
        assert statistics.power(statistics.MOST_SEEDS, spread, effect) < 0.8
        return
    assert statistics.power(needed, spread, effect) >= 0.8
    assert needed == 2 or statistics.power(needed - 1, spread, effect) < 0.8
    more = statistics.seeds_needed(spread * 2, effect)
    assert more is None or more >= needed


def test_power_is_what_simulated_studies_find() -> None:
    drawn = np.random.default_rng(0).normal(0.5, 0.6, (20_000, 6))
    seen = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert statistics.power(6, 0.6, 0.5) == pytest.approx(seen.mean(), abs=0.01)  # three standard errors


@pytest.mark.parametrize(("spread", "needed"), [(None, None), (0.0, None), (1e-9, 2), (1e-320, 2), (1e9, None)])
def test_seeds_needed_without_spread_or_with_far_too_much(spread: float | None, needed: int | None) -> None:
    assert statistics.seeds_needed(spread) == needed


def test_a_difference_far_beyond_the_spread_is_always_seen() -> None:
    assert statistics.power(3, 1e-320, 0.5) == 1.0


def test_the_spread_over_variants_weighs_them_by_their_freedom() -> None:
    first = compare({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    second = compare({0: 1.0, 1: 4.0}, {0: 0.0, 1: 0.0})
    spread, freedom = statistics.pooled_spread([first, second, compare({0: 9.0}, {0: 1.0})]) or (0, 0)
    assert freedom == 3 and spread == pytest.approx(math.sqrt((2 * 1.0 + 1 * 4.5) / 3))
    assert statistics.pooled_spread([]) is None


def test_how_well_few_seeds_know_their_spread() -> None:
    low, high = statistics.spread_factors(2)
    drawn = np.random.default_rng(1).normal(size=(50_000, 3)).std(axis=1, ddof=1)
    assert ((drawn * low < 1) & (drawn * high > 1)).mean() == pytest.approx(0.95, abs=0.004)
    assert statistics.spread_factors(100)[1] < 1.2
