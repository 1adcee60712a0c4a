"""Reports of studies as they come: unfinished, failed, odd names, no cost, no COCO numbers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import made_study
import pytest

from yolo_attn.errors import DataError
from yolo_attn.study.report import page, plots, sentences, texts, write_report
from yolo_attn.study.report.analysis import Analysis, analyse
from yolo_attn.study.report.reading import read

TEXTS = ["report.html", "report.md", "report.tex", "report.json", "trials.csv", "variants.csv"]
PLOTS = [f"{name}.{form}" for name in ("differences", "cost", "curves") for form in ("png", "pdf")]
SMALL = made_study.variants(("SE", "CBAM"), ("neck",))


def load(folder: Path) -> dict[str, Any]:
    return json.loads(json.dumps(texts.everything(analyse(read(folder))), allow_nan=False))


def markdown(folder: Path) -> str:
    return texts.markdown(analyse(read(folder)))


def page_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the page without its plots, which take a second."""
    with monkeypatch.context() as patch:
        patch.setattr(plots, "PLOTS", {})
        return page.html(analyse(read(folder)))


def sentence(folder: Path, variant: str) -> str:
    analysis = analyse(read(folder))
    (found,) = (c for c in analysis.main() if c.variant == variant)
    return sentences.verdict(analysis, found, "en")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return made_study.make(tmp_path / "small", SMALL, epochs=5)


def test_an_unfinished_study_says_what_is_missing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(small / "trials" / "yolov8n-cbam-neck")
    (small / "trials" / "yolov8s" / "seed2" / "trial.json").unlink()
    made_study.fail(small, "yolov8n-se-neck", 1, "Traceback:\n  in train\nRuntimeError: CUDA out of memory\n")
    said = load(small)
    assert said["trials"] == {"planned": 15, "finished": 10, "failed": 1, "running": 1, "missing": 3}
    assert said["answer"]["en"].startswith("The study is not complete: 10 of 15 trials have finished.")
    assert said["lacking"][:3] == [
        "yolov8s seed2: not finished, 5 epochs so far",
        "yolov8n-se-neck seed1: failed: RuntimeError: CUDA out of memory",
        "yolov8n-cbam-neck seed0: not started",
    ]
    assert sentence(small, "yolov8n-cbam-neck") == "no seed has a score in both"
    assert sentence(small, "yolov8n-se-neck").endswith("(without seeds 1)") and "by 2 seeds" in sentence(
        small, "yolov8n-se-neck"
    )
    page = page_of(small, monkeypatch)
    assert "not started" in page and "尚未开始" in page


def test_a_study_without_a_finished_trial_has_a_report_and_no_old_plots(small: Path) -> None:
    write_report(small)
    shutil.rmtree(small / "trials")
    files = write_report(small)
    assert [file.name for file in files] == TEXTS and not list((small / "report").glob("*.png"))
    assert load(small)["answer"]["en"] == "There is no score to compare yet: 0 of 15 trials are done."


@pytest.mark.parametrize("key", ["batches", "start"])
def test_a_trial_that_is_no_pair_of_another_is_in_no_difference_with_it(small: Path, key: str) -> None:
    made_study.change(small / "trials" / "yolov8n-se-neck" / "seed1" / "trial.json", **{key: "sha256:other"})
    for c in load(small)["comparisons"]:
        is_other_scale = "yolov8s" in (c["variant"], c["reference"])
        is_apart = "yolov8n-se-neck" in (c["variant"], c["reference"]) and (key == "batches" or not is_other_scale)
        if c["pair"]["seeds"]:
            assert c["pair"]["seeds"] == ([0, 2] if is_apart else [0, 1, 2]), c
    assert sentence(small, "yolov8n-se-neck").endswith("(without seeds 1)")
    assert load(small)["lacking"] == [f"Left out or not paired: yolov8n-se-neck seed1: other {key} than plain"]


def test_a_model_of_the_users_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"name": "mine", "kind": "own", "parameters": 3_100_000, "model": "models/mine.yaml"}]
    folder = made_study.make(tmp_path / "own", [*made_study.variants(("SE",), ("neck",)), *rows], epochs=5)
    made_study.change(folder / "trials" / "mine" / "seed1" / "trial.json", start="of fewer weights")
    found = load(folder)
    assert [c["against"] for c in found["comparisons"] if c["variant"] == "mine" and c["metric"] == "coco.AP"] == [
        "plain", "larger",
    ]  # fmt: skip
    assert "Your own model mine: " in found["answer"]["en"] and "自己的模型 mine" in found["answer"]["zh"]
    assert "mine" in page_of(folder, monkeypatch) and "mine &" in texts.latex(analyse(read(folder)))
    assert found["lacking"] == []
    with plots.style():
        assert all(draw(analyse(read(folder)), "zh") for draw in plots.PLOTS.values())


@pytest.mark.parametrize("data", ["/home/ann/neu.yaml", r"C:\\data\\neu.yaml", "neu.yaml"])
def test_data_go_by_their_name_and_a_control_by_what_it_matches(
    small: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    facts = json.loads((small / "study.json").read_text())
    for row in facts["variants"]:
        if row["kind"] == "pointwise":
            row["matched"] = "yolov8n-cbam-neck"
    made_study.change(small / "study.json", settings=facts["settings"] | {"data": data}, variants=facts["variants"])
    assert "Attention in yolov8n on neu.yaml (" in texts.latex(analyse(read(small)))
    assert "5 models on neu.yaml, " in markdown(small) and " · neu.yaml · " in page_of(small, monkeypatch)
    assert "as one attention variant there (yolov8n-pointwise-neck: yolov8n-cbam-neck)." in markdown(small)


def test_one_seed_names_no_winner(tmp_path: Path) -> None:
    folder = made_study.make(tmp_path / "one", SMALL, seeds=(0,), epochs=5)
    assert all(c["verdict"] == "single" and c["pair"]["low"] is None for c in load(folder)["comparisons"])
    assert sentence(folder, "yolov8n-se-neck").endswith(": one seed, so no interval and no verdict")
    answer = load(folder)["answer"]["en"]
    assert "none is called better or worse" in answer and "(no interval) for 3.4 times the GFLOPs" in answer
    assert " & -- & 1 " in texts.latex(analyse(read(folder)))


def test_equal_scores_have_no_interval(tmp_path: Path) -> None:
    folder = made_study.make(tmp_path / "equal", SMALL, epochs=5)
    for seed in (0, 1, 2):
        plain = json.loads((folder / "trials" / "yolov8n" / f"seed{seed}" / "trial.json").read_text())
        file = folder / "trials" / "yolov8n-se-neck" / f"seed{seed}" / "trial.json"
        made_study.change(file, metrics=plain["metrics"])
    (c,) = (c for c in analyse(read(folder)).main() if c.variant == "yolov8n-se-neck")
    assert (c.verdict, c.pair.spread, c.q, c.family) == ("constant", 0.0, None, 1)
    assert sentence(folder, "yolov8n-se-neck").endswith(": the same by all 3 seeds, so no interval and no verdict")


def test_without_cost_the_plot_is_against_gflops_and_without_coco_by_the_hosts_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_study.make(tmp_path / "yolo", SMALL, coco=False, cost=False, epochs=5)
    said = load(folder)
    assert said["primary"] == "ultralytics.map" and said["pareto"]["cost"] == "gflops"
    assert len(said["pareto"]["points"]) == 5
    assert [line[:7] for line in said["lacking"]] == ["No COCO", "No late"]
    page = page_of(folder, monkeypatch)
    assert 'id="sizes"' not in page and "## By object size" not in markdown(folder)
    assert 'id="both"' in page and "COCO AP" not in markdown(folder)


def test_coco_numbers_of_some_trials_do_not_decide(small: Path) -> None:
    file = small / "trials" / "yolov8n-se-neck" / "seed1" / "trial.json"
    record = json.loads(file.read_text())
    made_study.change(file, metrics=record["metrics"] | {"coco": None})
    assert load(small)["primary"] == "ultralytics.map"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting"),
        ('{"schema": 2}', "its schema is 2"),
        ("[]", "list"),
        ('{"schema": 1, "variant": "yolov8s", "seed": 0}', "it is the trial of yolov8s with seed 0"),
        ('{"schema": 1, "variant": "yolov8n-se-neck", "seed": 1, "state": "running"}', "its state is 'running'"),
        ('{"schema": 1, "variant": "yolov8n-se-neck", "seed": 1, "state": "finished"}', "it has no 'metrics'"),
    ],
)
def test_a_broken_trial_file_counts_as_not_done_and_is_named(small: Path, content: str, said: str) -> None:
    (small / "trials" / "yolov8n-se-neck" / "seed1" / "trial.json").write_text(content)
    (line,) = (line for line in load(small)["lacking"] if "trial.json" in line)
    assert "trials/yolov8n-se-neck/seed1/trial.json: " in line and said in line
    assert "by 2 seeds" in sentence(small, "yolov8n-se-neck")


def test_scores_that_are_no_numbers_are_left_out(small: Path) -> None:
    file = small / "trials" / "yolov8n-se-neck" / "seed1" / "trial.json"
    record = json.loads(file.read_text())
    record["metrics"]["ultralytics"]["map50"] = float("inf")
    record["metrics"]["coco"]["AP50"] = float("nan")
    record["metrics"]["per_class"]["crazing"] = None
    made_study.change(file, metrics=record["metrics"])
    (small / "cost.json").write_text("{")
    rows = list(csv.DictReader(texts.trials_csv(analyse(read(small))).splitlines()))
    (row,) = (row for row in rows if (row["variant"], row["seed"]) == ("yolov8n-se-neck", "1"))
    assert [row[k] for k in ("ultralytics.map50", "coco.AP50", "class.crazing", "coco.APs")] == [""] * 4 and row[
        "coco.AP"
    ]
    assert any("cost.json" in line for line in load(small)["lacking"])


def test_trials_that_began_otherwise_than_plain_are_named(small: Path) -> None:
    assert "Checked by hash: 12 of 12 finished trials" in markdown(small)
    made_study.change(small / "trials" / "yolov8n-se-neck" / "seed1" / "trial.json", batches="sha256:other")
    made_study.change(small / "trials" / "yolov8n-se-neck" / "seed2" / "trial.json", start=None)
    assert "Checked by hash: 10 of 12 finished trials" in markdown(small)
    assert load(small)["lacking"] == ["Left out or not paired: yolov8n-se-neck seed1: other batches than plain"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 9}, "its schema is 9"),
        ({"variants": [{"name": "a", "kind": "attention"}]}, "one must be plain"),
        ({"variants": [{"name": "a", "kind": "plain"}, {"name": "b", "kind": "odd"}]}, "odd"),
        ({"settings": {"seeds": []}}, "no seeds"),
        ({"settings": {}}, "it has no 'seeds'"),
    ],
)
def test_a_folder_that_is_no_study_is_an_error_that_says_why(small: Path, change: dict[str, Any], said: str) -> None:
    made_study.change(small / "study.json", **change)
    with pytest.raises(DataError, match=r"study\.json cannot be used") as caught:
        write_report(small)
    assert said in str(caught.value) and not (small / "report").exists()


def test_the_answer_says_whether_attention_beats_its_parameters(tmp_path: Path) -> None:
    same = {"yolov8n-se-neck": 0.05, "yolov8n-cbam-neck": -0.04, "yolov8n-pointwise-neck": 0.05}
    folder = made_study.make(tmp_path / "same", SMALL, seeds=range(5), noise=0.001, gains=same, epochs=5)
    answer = analysis_answer(folder)
    assert "1 of 2 attention variants: yolov8n-se-neck (+" in answer and "worse than plain yolov8n" in answer
    assert "None of these is told from the pointwise convolution" in answer
    more = made_study.make(
        tmp_path / "more", SMALL, seeds=range(5), noise=0.001, gains={"yolov8n-se-neck": 0.05}, epochs=5
    )
    assert "without attention: yolov8n-se-neck" in analysis_answer(more)


def analysis_answer(folder: Path) -> str:
    from yolo_attn.study.report import sentences

    return sentences.answer(analyse(read(folder)), "en")


def test_the_effect_worth_seeing_is_configurable(small: Path) -> None:
    def needed(analysis: Analysis) -> list[int]:
        return [c.seeds_needed or 10**6 for c in analysis.main()]

    study = read(small)
    assert all(a < b for a, b in zip(needed(analyse(study, 2.0)), needed(analyse(study, 0.2)), strict=True))
