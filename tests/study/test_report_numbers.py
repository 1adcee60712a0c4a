"""Every number of a report, computed again from the trials' own files by numpy and scipy alone."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import made_study
import numpy as np
import pytest
from scipy import stats

from yolo_attn.study.report import write_report

GONE = ("yolov8n-cbam-neck", 1)
LAYER_GAINS = {"yolov8s": 0.05, "yolov8n-coordatt-neck": 0.06, "yolov8n-biformer-neck": 0.012}
Rows = dict[str, dict[int, float]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_study.make(
        tmp_path_factory.mktemp("study") / "neu", seeds=(0, 1, 2, 5), noise=0.003, gains=LAYER_GAINS
    )
    made_study.fail(folder, *GONE, "RuntimeError: CUDA out of memory")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def own(study: Path) -> dict[str, Rows]:
    """The scores in points by metric, variant and seed, from what each training itself wrote."""
    found: dict[str, Rows] = {}
    for run in sorted((study / "trials").glob("*/seed*")):
        name, seed = run.parent.name, int(run.name.removeprefix("seed"))
        record = json.loads((run / "trial.json").read_text())
        if record["state"] != "finished":
            continue
        table = list(csv.DictReader((run / "results.csv").read_text().splitlines()))
        best = max(table, key=lambda row: float(row["metrics/mAP50-95(B)"]))
        coco = json.loads((run / "coco_metrics.json").read_text())["bbox"]["numbers"]
        scores = {f"coco.{key}": value for key, value in coco.items() if value >= 0}
        scores["ultralytics.map"] = float(best["metrics/mAP50-95(B)"])
        scores["ultralytics.map50"] = float(best["metrics/mAP50(B)"])
        scores |= {f"class {c}": row["map"] for c, row in record["metrics"]["per_class"].items()}
        for metric, value in scores.items():
            found.setdefault(metric, {}).setdefault(name, {})[seed] = 100 * value
    return found


@pytest.fixture(scope="module")
def said(study: Path) -> dict[str, Any]:
    return json.loads((study / "report" / "report.json").read_text())


def by_hand(a: dict[int, float], b: dict[int, float]) -> dict[str, Any]:
    seeds = sorted(set(a) & set(b))
    d = np.array([a[s] - b[s] for s in seeds])
    n, mean, sd = len(d), d.mean(), d.std(ddof=1)
    half = stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n)
    p = 2 * stats.t.sf(abs(mean) / (sd / np.sqrt(n)), n - 1)
    return {"seeds": seeds, "mean": mean, "low": mean - half, "high": mean + half, "spread": sd, "p": p}


def metric_of(c: dict[str, Any]) -> str:
    return c["metric"] if c["class_name"] is None else f"class {c['class_name']}"


def test_every_difference_and_interval_in_the_json(said: dict[str, Any], own: dict[str, Rows]) -> None:
    assert len(said["comparisons"]) == 11 * (5 + 2 + 6) + 8 * 2 * 5  # with plain: sizes and classes too
    assert said["primary"] == "coco.AP" and {c["metric"] for c in said["comparisons"]} >= {"coco.APm", "class"}
    for c in said["comparisons"]:
        scores = own[metric_of(c)]
        wanted = by_hand(scores[c["variant"]], scores[c["reference"]])
        for key in ("mean", "low", "high", "spread", "p"):
            assert c["pair"][key] == pytest.approx(wanted[key], rel=1e-6, abs=1e-9), (c["variant"], key)
        assert c["pair"]["seeds"] == wanted["seeds"]
    assert any(c["pair"]["seeds"] == [0, 2, 5] for c in said["comparisons"])


def test_every_family_is_adjusted_by_itself(said: dict[str, Any], own: dict[str, Rows]) -> None:
    kinds = {variant["name"]: variant["kind"] for variant in said["variants"]}
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for c in said["comparisons"]:
        group = "sizes" if c["metric"] in ("coco.APs", "coco.APm", "coco.APl") else c["metric"]
        families.setdefault((kinds[c["variant"]], kinds[c["reference"]], group), []).append(c)
    assert len(families[("attention", "plain", "class")]) == 8 * 6
    for found in families.values():
        ps = np.array([by_hand(own[metric_of(c)][c["variant"]], own[metric_of(c)][c["reference"]])["p"] for c in found])
        order = np.argsort(ps)
        steps = ps[order] * len(ps) / np.arange(1, len(ps) + 1)
        wanted = np.empty_like(ps)
        wanted[order] = np.minimum(1, np.minimum.accumulate(steps[::-1])[::-1])
        assert [c["q"] for c in found] == pytest.approx(wanted.tolist(), rel=1e-6)
        assert {c["family"] for c in found} == {len(found)}
        for c, q, p in zip(found, wanted, ps, strict=True):
            sign = "better" if c["pair"]["mean"] > 0 else "worse"
            assert c["verdict"] == (sign if q < 0.05 else "chance" if p < 0.05 else "noise")
    assert {c["verdict"] for c in said["comparisons"]} >= {"better", "worse", "noise"}


def test_seeds_needed_in_the_json(said: dict[str, Any]) -> None:
    found = [c for c in said["comparisons"] if c["class_name"] is None]
    for c in found:
        n, sd = c["seeds_needed"], c["pair"]["spread"]
        powers = [by_simulation_free_power(k, sd) for k in (n - 1, n) if k > 1]
        assert powers[-1] >= 0.8 and (n == 2 or powers[0] < 0.8)


def by_simulation_free_power(n: int, sd: float) -> float:
    """Return the power by the distribution of t under the alternative, integrated over the spread by hand."""
    chi = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, n - 1) / (n - 1))
    edge, shift = stats.t.ppf(0.975, n - 1), 0.5 * np.sqrt(n) / sd
    return float(np.mean(stats.norm.sf(edge * chi - shift) + stats.norm.cdf(-edge * chi - shift)))


def test_means_spreads_and_cost_in_the_json(said: dict[str, Any], own: dict[str, Rows], study: Path) -> None:
    cost = json.loads((study / "cost.json").read_text())
    for variant in said["variants"]:
        for metric, summary in variant["scores"].items():
            scores = own[metric][variant["name"]]
            assert {int(seed): score for seed, score in summary["seeds"].items()} == pytest.approx(scores)
            assert summary["mean"] == pytest.approx(np.mean(list(scores.values())))
            assert summary["sd"] == pytest.approx(np.std(list(scores.values()), ddof=1))
        assert variant["latency"] == cost[variant["name"]]["latency"]
        assert variant["gflops"] == cost[variant["name"]]["gflops"]


def test_the_pareto_front_is_what_nothing_dominates(said: dict[str, Any], own: dict[str, Rows], study: Path) -> None:
    cost = json.loads((study / "cost.json").read_text())
    points = {
        name: (1000 * cost[name]["latency"]["median"], np.mean(list(scores.values())))
        for name, scores in own["coco.AP"].items()
    }
    free = {
        a for a, (x, y) in points.items() if not any(u <= x and v >= y and (u, v) != (x, y) for u, v in points.values())
    }
    assert set(said["pareto"]["front"]) == free and 1 < len(free) < len(points)
    assert {name: tuple(point) for name, point in said["pareto"]["points"].items()} == {
        name: pytest.approx(point) for name, point in points.items()
    }


def test_the_curves_are_those_of_results_csv(said: dict[str, Any], study: Path) -> None:
    name = "yolov8n-cbam-neck"
    wanted: list[list[float]] = []
    for seed in (0, 2, 5):
        text = (study / "trials" / name / f"seed{seed}" / "results.csv").read_text().splitlines()
        wanted.append([100 * float(row["metrics/mAP50-95(B)"]) for row in csv.DictReader(text)])
    curve = said["curves"][name]
    assert list(curve) == [str(epoch) for epoch in range(1, 31)]
    np.testing.assert_allclose(np.array(list(curve.values())).T, wanted)


def test_the_pooled_spread(said: dict[str, Any], own: dict[str, Rows]) -> None:
    total, freedom = 0.0, 0
    for name, scores in own["coco.AP"].items():
        if "pointwise" not in name and name not in ("yolov8n", "yolov8s"):
            d = [scores[seed] - own["coco.AP"]["yolov8n"][seed] for seed in scores]
            total, freedom = total + np.var(d, ddof=1) * (len(d) - 1), freedom + len(d) - 1
    assert said["spread"]["degrees_of_freedom"] == freedom == 7 * 3 + 2
    assert said["spread"]["of_differences"] == pytest.approx(np.sqrt(total / freedom))


def test_both_csv_files(study: Path, own: dict[str, Rows]) -> None:
    trials = list(csv.DictReader((study / "report" / "trials.csv").read_text().splitlines()))
    assert len(trials) == 12 * 4
    for row in trials:
        for metric in ("coco.AP", "coco.APm", "ultralytics.map", "ultralytics.map50"):
            score = own[metric][row["variant"]].get(int(row["seed"]))
            assert (float(row[metric]) if row[metric] else None) == (score if score is None else pytest.approx(score))
        crazing = own["class crazing"][row["variant"]].get(int(row["seed"]))
        assert row["class.crazing"] == "" if crazing is None else float(row["class.crazing"]) == pytest.approx(crazing)
    assert [row["error"] for row in trials if row["state"] == "failed"] == ["RuntimeError: CUDA out of memory"]
    for row in csv.DictReader((study / "report" / "variants.csv").read_text().splitlines()):
        scores = own["coco.AP"]
        assert float(row["coco.AP.mean"]) == pytest.approx(np.mean(list(scores[row["variant"]].values())))
        place = row["place"]
        for against, reference in (
            ("plain", "yolov8n"),
            ("pointwise", f"yolov8n-pointwise-{place}"),
            ("larger", "yolov8s"),
        ):
            if row[f"vs_{against}.n"]:
                wanted = by_hand(scores[row["variant"]], scores[reference])
                assert float(row[f"vs_{against}.mean"]) == pytest.approx(wanted["mean"])
                assert float(row[f"vs_{against}.high"]) == pytest.approx(wanted["high"])
                assert int(row[f"vs_{against}.n"]) == len(wanted["seeds"])
            else:
                assert row["kind"] == "plain" or (against != "plain" and row["kind"] != "attention")


@pytest.mark.parametrize("file", ["report.md", "report.tex", "report.html"])
def test_texts_show_these_numbers_rounded(file: str, study: Path, own: dict[str, Rows]) -> None:
    text = (study / "report" / file).read_text()
    text = text.replace("\u2212", "-").replace("\u00a0", " ").replace("$", "").replace(r"\rlap{^{*}}", "")
    base = own["coco.AP"]["yolov8n"]
    values = [by_hand(scores, base) for name, scores in own["coco.AP"].items() if name != "yolov8n"]
    ends = [end for value in values for end in (value["low"], value["high"])]
    digits = 2 if any(abs(end) < 0.05 for end in ends) else 1
    for value in values:
        mean, low, high = (f"{value[key]:+.{digits}f}" for key in ("mean", "low", "high"))
        mean = mean if float(mean) else mean[1:]  # zero has no sign
        gap = r"(</td>|[\s&])*" if file != "report.md" else " "
        assert re.search(re.escape(mean) + gap + re.escape(f"[{low}, {high}]"), text), (mean, low, high)
