"""What a report claims: no more than its numbers hold, in units and terms that it explains."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_study
import pytest

from yolo_attn.study.report import sentences, texts
from yolo_attn.study.report.analysis import Analysis, Comparison, analyse
from yolo_attn.study.report.phrases import say
from yolo_attn.study.report.reading import read

ROWS = made_study.variants(("SE", "CBAM"), ("neck",))
SE, CBAM = "yolov8n-se-neck", "yolov8n-cbam-neck"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read(made_study.make(tmp_path_factory.mktemp("study") / "small", ROWS, epochs=5)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_study.make(tmp_path / "small", ROWS, epochs=3)


def rescore(folder: Path, score: Callable[[str, int], float]) -> Analysis:
    """Give each trial another COCO AP."""
    for file in folder.glob("trials/*/seed*/trial.json"):
        record: dict[str, Any] = json.loads(file.read_text())
        record["metrics"]["coco"]["AP"] = score(record["variant"], record["seed"])
        made_study.save(file, record)
    return analyse(read(folder))


def noise(analysis: Analysis, low: float, high: float, needed: int | None) -> str:
    c = analysis.main()[-1]
    c = replace(c, verdict="noise", seeds_needed=needed, pair=replace(c.pair, low=low, high=high))
    return sentences.verdict_words(analysis, c, "en")


def test_only_an_interval_without_the_effect_speaks_against_it(analysis: Analysis) -> None:
    assert noise(analysis, -0.4, 0.49, 3) == "not told from noise by 3 seeds; the interval leaves no room for 0.5"
    for low, high in ((-0.4, 0.6), (-0.6, 0.4)):  # a spread that few seeds happen to show small promises nothing
        assert noise(analysis, low, high, 3) == "not told from noise by 3 seeds"
        assert noise(analysis, low, high, 4).endswith("; 4 would be needed to see 0.5")


def larger(analysis: Analysis, **changes: Any) -> str:
    (c,) = (c for c in analysis.main() if c.variant == "yolov8s")
    return sentences.larger(analysis, replace(c, **changes), "en")


def test_a_larger_scale_that_is_not_told_from_plain_brings_nothing(analysis: Analysis) -> None:
    assert " brings +" in larger(analysis) and "] points for 3.4 times the GFLOPs" in larger(analysis)
    said = larger(analysis, verdict="noise")
    assert said.startswith("The next larger scale, yolov8s, is not told from plain: +") and "brings" not in said
    assert said.endswith("] points for 3.4 times the GFLOPs and 3.5 times the latency.")


def test_without_an_interval_the_reason_fits(folder: Path) -> None:
    same = rescore(folder, lambda variant, seed: 0.0)
    answer = sentences.answer(same, "en")
    assert "two seeds or more whose differences are not all the same" in answer and "yet" not in answer
    assert "brings 0.0 points (no interval) for 3.4 times the GFLOPs" in answer


def test_a_variant_alone_in_the_answer_is_named(folder: Path) -> None:
    for seed in (0, 1, 2):
        made_study.fail(folder, CBAM, seed, "RuntimeError: CUDA out of memory")
    said = sentences.answer(analyse(read(folder)), "en")
    assert f"By COCO AP, {SE} is not told from plain yolov8n with 3 seeds." in said


def test_what_is_worse_is_so_by_a_metric(folder: Path) -> None:
    low = rescore(folder, lambda variant, seed: 0.4 + seed / 1000 - (variant == SE) * (0.1 + seed / 10000))
    assert f"By COCO AP, worse than plain yolov8n beyond chance, 1 of 1: {SE}" in sentences.answer(low, "en")


def test_a_score_that_is_no_number_is_not_called_unfinished(folder: Path) -> None:
    found = rescore(folder, lambda variant, seed: -1.0 if variant == SE else 0.4 + seed / 1000)
    c: Comparison | None = found.find(SE, "coco.AP")
    assert c and sentences.verdict(found, c, "en") == "no seed has a score in both"


def test_seeds_needed_are_for_one_variant_alone(analysis: Analysis) -> None:
    assert "To see a difference of 0.5 points in one variant, about " in sentences.answer(analysis, "en")


def test_a_control_is_called_what_it_is(analysis: Analysis) -> None:
    phrases = [say("answer_beats_pointwise", "en", names=SE), *sentences.method(analysis, "en")]
    assert not any("same cost" in line or "extra cost" in line for line in phrases)


def test_the_method_explains_every_term(analysis: Analysis, folder: Path) -> None:
    lines = sentences.method(analysis, "en")
    method = " ".join(lines)
    assert "5 epochs each, image size 224, from random weights, seeds 0, 1, 2" in method
    assert "beyond chance, if q is below 0.05" in method and "2 attention variants are compared with plain" in method
    assert "one measure computed by two programs" in method
    assert "another split" in method and "largest of many differences is likely too large" in method
    one = analyse(read(made_study.make(folder / "one", made_study.variants(("SE",), ("neck",)), (0,), epochs=3)))
    assert not any("q is" in line for line in sentences.method(one, "en"))
    study = analysis.study
    for gate, said in ((None, ""), (False, " gate=false")):
        tuned = {"pretrained": "/weights/yolov8n.pt", "gate": gate}
        facts = {**study.facts, "settings": {**study.facts["settings"], **tuned}}
        (first, *_) = sentences.method(replace(analysis, study=replace(study, facts=facts)), "en")
        assert f"image size 224, pretrained=yolov8n.pt{said}, seeds" in first


def test_seeds_that_were_added_are_said(analysis: Analysis, folder: Path) -> None:
    def lines(extensions: list[list[str]]) -> list[str]:
        made_study.change(folder / "study.json", extensions=extensions)
        found = sentences.method(analyse(read(folder)), "en")
        return [line for line in found if "Seeds were added" in line]

    assert lines([]) == lines([["yolo-attn", "study", "runs/study/small", "layers=caa"]]) == []
    (line,) = lines([["yolo-attn", "study", "runs/study/small", "seeds=3"]])
    assert line.endswith("surer than they are.")


def test_captions_explain_every_mark() -> None:
    assert "arrow: the interval goes on" in say("caption_differences", "en", effect="0.5")
    assert "in brackets: times plain's" in say("caption_variants", "en", plain="yolov8n")
    assert "mAP in points" in say("made_from", "en")


def test_markdown_explains_its_marks(analysis: Analysis) -> None:
    text = texts.markdown(analysis)
    assert "○ not told from noise" in text and "▲ better" in text and "Bars" not in text
    (c,) = (c for c in analysis.main() if c.variant == "yolov8s")
    value = sentences.value(c, analysis.digits)
    assert f"| **{value}** |" in text and r"\*" not in text and text.count("bold: beyond chance") == 3


def test_the_latex_table_fits_a_page_and_its_caption_says_every_unit(analysis: Analysis) -> None:
    tex = texts.latex(analysis)
    (caption,) = (line for line in tex.splitlines() if line.startswith(r"\caption"))
    assert "Attention in yolov8n on neu.yaml (5 epochs, image size 224)" in caption
    assert r"mAP: COCO AP; mAP$_{50}$: the same at IoU 0.5; both in points ($100 \times$ mAP)" in caption
    assert "Params in millions; latency of one image in ms (cpu, AMD EPYC 7763)." in caption
    assert "each for its variant alone, so one without a star may exclude zero" in caption
    lines = tex.splitlines()
    assert r"\footnotesize" in lines and r"\setlength{\tabcolsep}{3pt}" in lines
    assert "\nse-neck & " in tex and "\nyolov8n & " in tex and "yolov8n-" not in tex
    bare = replace(analysis, study=replace(analysis.study, cost={}))
    assert "Params in millions." in texts.latex(bare)


def test_the_latex_table_of_long_names_fits_a_thesis(tmp_path: Path) -> None:
    """Of 12 points on A4 with margins of 25 mm, measured in the letters of LaTeX."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(Path(get_data_path(), "fonts", "ttf", "cmr10.ttf")))
    font.set_size(10, 72)  # \footnotesize there

    def width(cell: str) -> float:
        font.set_text(re.sub(r"\\rlap\{.*?\}\$?|[$\\{}]", "", cell).replace("_", ""))
        return font.get_width_height()[0] / 64

    rows = made_study.variants(("CoordAtt", "BiFormer"), ("backbone",))
    tex = texts.latex(analyse(read(made_study.make(tmp_path / "wide", rows, epochs=3, noise=0.02))))
    table = [line[: -len(r" \\")].split(" & ") for line in tex.splitlines() if line.endswith(r"\\")]
    total = sum(max(map(width, column)) + 2 * 3 for column in zip(*table, strict=True))
    assert total < 160 / 25.4 * 72
