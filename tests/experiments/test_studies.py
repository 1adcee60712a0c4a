"""The published studies: what their records say of differences is what their scores give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

RECORDS = sorted((Path(__file__).parents[2] / "results").glob("*--study-*.json"))


@pytest.fixture(params=RECORDS, ids=lambda path: path.stem)
def record(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf-8"))


def test_there_is_one() -> None:
    assert RECORDS


def test_every_difference_is_that_of_the_scores_seed_by_seed(record: dict[str, Any]) -> None:
    metric = record["settings"]["metric"]
    rows = {row["name"]: row for row in record["rows"]}
    plain, larger = (next(name for name, row in rows.items() if row["kind"] == kind) for kind in ("plain", "larger"))
    pointwise = {row["place"]: name for name, row in rows.items() if row["kind"] == "pointwise"}
    seeds = {str(seed) for seed in record["settings"]["seeds"]}
    assert all(row["scores"][metric].keys() == seeds for row in rows.values())
    compared = 0
    for name, row in rows.items():
        assert row["score"] == pytest.approx(np.mean([*row["scores"][metric].values()]))
        pairs = {plain: row, pointwise.get(row["place"]): row["vs pointwise"], larger: row["vs larger"]}
        for other, said in pairs.items():
            if other is None or other == name or not said:
                continue
            found = stats.ttest_rel(
                *([rows[one]["scores"][metric][seed] for seed in sorted(seeds)] for one in (name, other))
            )
            ends = found.confidence_interval(0.95)
            mean = np.mean([row["scores"][metric][seed] - rows[other]["scores"][metric][seed] for seed in seeds])
            assert (said["mean"], said["low"], said["high"]) == pytest.approx((mean, *ends))
            assert said["p"] == pytest.approx(found.pvalue)
            compared += 1
    attention = sum(row["kind"] == "attention" for row in rows.values())
    assert compared == len(rows) - 1 + 2 * attention


def test_every_mark_follows_from_the_rates_of_its_family(record: dict[str, Any]) -> None:
    attention = [row for row in record["rows"] if row["kind"] == "attention"]
    for family in (attention, [row["vs pointwise"] for row in attention], [row["vs larger"] for row in attention]):
        rates = stats.false_discovery_control([said["p"] for said in family])
        for said, rate in zip(family, rates, strict=True):
            assert said["q"] == pytest.approx(rate)
            sign = "better" if said["mean"] > 0 else "worse"
            assert said["verdict"] == (sign if rate < 0.05 else "chance" if said["p"] < 0.05 else "noise")
