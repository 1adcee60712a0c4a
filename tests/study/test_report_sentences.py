"""Sentences and cells of a report, in the cases that a made-up study seldom has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import made_study
import numpy as np
import pytest

from yolo_attn.study.report import cells, sentences
from yolo_attn.study.report.analysis import Analysis, analyse, curves, front
from yolo_attn.study.report.reading import read

ROWS = made_study.variants(("SE", "CBAM"), ("neck",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_study.make(tmp_path_factory.mktemp("study") / "small", ROWS, epochs=5)


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyse(read(folder))


@pytest.mark.parametrize(
    ("needed", "english", "chinese"),
    [
        (9, "not told from noise by 3 seeds; 9 would be needed to see 0.5", "需要 9 个种子"),
        (3, "not told from noise by 3 seeds", "3 个种子下无法与随机波动区分"),
        (None, "not told from noise by 3 seeds; more than 1000 would be needed to see 0.5", "需要超过 1000 个种子"),
    ],
)
def test_what_noise_says_of_the_seeds_needed(
    analysis: Analysis, needed: int | None, english: str, chinese: str
) -> None:
    c = replace(analysis.main()[-1], verdict="noise", seeds_needed=needed)
    value = sentences.value(c, analysis.digits)
    assert sentences.verdict(analysis, c, "en") == f"{value}: {english}"
    assert chinese in sentences.verdict(analysis, c, "zh")


def test_verdicts_name_the_rate_and_the_family(analysis: Analysis) -> None:
    c = replace(analysis.main()[-1], q=0.01234, family=8)
    named = {key: replace(c, verdict=key) for key in ("better", "worse", "chance", "noise", "single")}
    assert {key: sentences.verdict_words(analysis, named[key], "en") for key in list(named)[:3]} == {
        "better": "better, beyond chance, by 3 seeds (q = 0.012)",
        "worse": "worse, beyond chance, by 3 seeds (q = 0.012)",
        "chance": "stands out alone, but may be chance among 8 compared at once (q = 0.012)",
    }
    assert [sentences.rate(q) for q in (0.00012, 0.5)] == ["< 0.001", "= 0.5"]
    assert [sentences.sign(c) for c in named.values()] == ["▲", "▼", "◆", "○", "\u2013"]


def test_the_larger_scale_is_told_with_what_is_known_of_its_cost(analysis: Analysis) -> None:
    (c,) = (c for c in analysis.main() if c.variant == "yolov8s")
    said = sentences.larger(analysis, c, "en")
    value = sentences.value(c, analysis.digits)
    assert said.startswith(f"The next larger scale, yolov8s, brings {value} points for 3.4 times the GFLOPs and ")
    assert said.endswith(" and 3.5 times the latency.")
    study = analysis.study
    bare = tuple(replace(v, latency=None, latency_ratio=None) for v in study.variants)
    said = sentences.larger(replace(analysis, study=replace(study, variants=bare)), c, "en")
    assert said.endswith("for 3.4 times the GFLOPs.")
    unknown = tuple(replace(v, gflops=None) for v in study.variants)
    said = sentences.larger(replace(analysis, study=replace(study, variants=unknown)), c, "en")
    assert said.endswith(f"{value} points.")


def test_latency_against_plain_is_that_measured_in_turns_or_of_the_medians(analysis: Analysis) -> None:
    plain, other = analysis.study.variants[0], analysis.study.variants[-1]
    assert sentences.latency_ratio(other, plain) == other.latency_ratio["median"]  # type: ignore[index]
    ratio = sentences.latency_ratio(replace(other, latency_ratio=None), plain)
    assert ratio == pytest.approx(other.latency["median"] / 0.0123)  # type: ignore[index]
    assert sentences.latency_ratio(replace(other, latency_ratio=None, latency=None), plain) is None
    assert cells.latency(analysis, plain) == "12.3"
    assert cells.latency(analysis, other).startswith("12.8 (1.04\u00d7")


def test_mean_and_standard_deviation_in_a_cell(analysis: Analysis) -> None:
    plain = analysis.study.plain
    scores = list(analysis.scores("yolov8n", "coco.AP").values())
    digits = analysis.digits
    assert (
        cells.scores(analysis, plain, "coco.AP")
        == f"{np.mean(scores):.{digits}f} ± {np.std(scores, ddof=1):.{digits}f}"
    )
    assert cells.scores(analysis, plain, "coco.APs") == "\u2013"


def test_many_names_end_in_how_many_more(tmp_path: Path) -> None:
    layers = [f"L{i}" for i in range(8)]
    gains = {f"yolov8n-l{i}-neck": 0.05 + i / 100 for i in range(8)}
    rows = made_study.variants(layers, ("neck",))
    many = analyse(read(made_study.make(tmp_path / "many", rows, range(4), epochs=3, noise=0.001, gains=gains)))
    answer = sentences.answer(many, "en")
    assert "better than plain yolov8n beyond chance, 8 of 8 attention variants: yolov8n-l7-neck (+" in answer
    assert ") and 2 more." in answer and "yolov8n-l1-neck" not in answer.split("more.")[0]
    assert "等另外 2 个" in sentences.answer(many, "zh")


def test_curves_go_as_far_as_all_seeds(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "trials" / "yolov8n" / "seed1" / "trial.json"
    made_study.change(file, epochs=json.loads(file.read_text())["epochs"][:3])
    assert list(curves(read(copy), "yolov8n")) == [1, 2, 3]
    assert len(curves(read(copy), "yolov8n")[3]) == 3 and len(curves(read(copy), "yolov8s")) == 5


def test_the_front_takes_the_better_of_two_as_cheap_and_the_cheaper_of_two_as_good() -> None:
    assert front({"a": (1, 5), "b": (1, 6), "c": (2, 6), "d": (3, 7), "e": (4, 2)}) == ["b", "d"]


def test_without_attention_or_controls_there_is_still_an_answer(tmp_path: Path) -> None:
    rows = made_study.variants((), ("neck",))
    alone = analyse(read(made_study.make(tmp_path / "alone", rows, epochs=3)))
    assert sentences.answer(alone, "en").startswith("No attention layer was compared. The next larger scale")
    bare = made_study.variants(("SE",), ("neck",), controls=False)
    analysis = analyse(read(made_study.make(tmp_path / "bare", bare, epochs=3)))
    assert sentences.answer(analysis, "en").startswith(
        "By COCO AP, yolov8n-se-neck is not told from plain yolov8n with 3 seeds."
    )
    assert [len(group) for group in cells.groups(analysis)] == [1, 1]


def test_a_layer_is_compared_with_the_pointwise_convolution_made_for_it(tmp_path: Path) -> None:
    plain, point, _, se, cbam = ROWS
    own = {**point, "name": "yolov8n-pointwise-cbam-neck", "matched": cbam["name"]}
    other = {**point, "name": "yolov8n-pointwise-backbone", "place": "backbone"}
    rows = [plain, other, {**point, "matched": "another"}, own, se, cbam]
    found = analyse(read(made_study.make(tmp_path / "own", rows, epochs=3)))
    controls = {c.variant: c.reference for c in found.main("pointwise")}
    assert controls == {se["name"]: point["name"], cbam["name"]: own["name"]}


def test_commands_costs_and_settings_are_short(analysis: Analysis, folder: Path) -> None:
    made_study.change(folder / "study.json", command=["/home/me/yolo_attn/__main__.py", "study", "data=my data.yaml"])
    study = read(folder)
    assert cells.command(analyse(study)) == "yolo-attn study 'data=my data.yaml'"
    made_study.change(folder / "study.json", extensions=[["yolo-attn", "study", "runs/study/s", "seeds=5"]])
    assert cells.command(analyse(read(folder))).splitlines()[1:] == ["yolo-attn study runs/study/s seeds=5"]
    settings = dict(cells.facts(analysis))["settings"]
    assert "layers=SE,CBAM,CoordAtt,BiFormer, at=backbone,neck" in settings and 'train={"optimizer": "SGD"}' in settings
    assert "pretrained" not in settings
    shown = [cells.gflops(replace(study.plain, gflops=gflops)) for gflops in (8.21, 0.0823, None)]
    assert shown == ["8.2", "0.082", "-"]
    assert len(cells.commands(analysis)) == 15 and cells.commands(analysis)[0].startswith("yolo train model=")


def test_the_method_names_only_the_controls_that_were_there(analysis: Analysis, tmp_path: Path) -> None:
    rows = made_study.variants(("SE",), ("neck",), controls=False)
    bare = analyse(read(made_study.make(tmp_path / "bare", rows, epochs=3)))
    assert sum(line.startswith("Control") for line in sentences.method(analysis, "en")) == 2
    assert not any(line.startswith("Control") for line in sentences.method(bare, "en"))
    assert not any("at once: " in line for line in sentences.method(bare, "en"))  # one comparison is no family


def test_two_decimals_where_one_would_hide_the_side_of_zero_of_an_end(analysis: Analysis) -> None:
    c = analysis.main()[0]
    for low, digits in ((0.04, 2), (-0.04, 2), (0.06, 1)):
        pair = replace(c.pair, low=low, high=1.0)
        assert replace(analysis, comparisons=(replace(c, pair=pair),)).digits == digits
