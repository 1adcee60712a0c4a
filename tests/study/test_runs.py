"""``yolo-attn runs``: records of many trainings as one table."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from yolo_attn import tabular
from yolo_attn.cli import main
from yolo_attn.errors import DataError
from yolo_attn.study import runs

RECORD: dict[str, Any] = {
    "schema": 1, "state": "finished", "reason": None, "name": "a",
    "model": {"file": "cfg/yolov8n-cbam.yaml", "parameters": 3019724, "layers": []},
    "settings": {"epochs": 3, "world_size": 1},
    "data": {"file": "/data/a|b_c.yaml", "images": {"train": 48}},
    "epochs": [{"epoch": 1}, {"epoch": 2}],
    "metrics": {"ultralytics": {"metrics/mAP50-95(B)": 0.4014}, "coco": {"AP": 0.39876, "AP50": 0.6}},
    "times": {"train_images_per_second": 62.4},
    "memory": {"cuda_reserved": None, "process": 2**30},
    "problems": [{"epoch": 2, "what": "loss is nan, at once"}],
}  # fmt: skip


def layer(name: str, place: str | None, index: int) -> dict[str, Any]:
    return {"name": name, "place": place, "index": index, "arguments": [], "gated": False}


def save(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.json"
    file.write_text(json.dumps(copy.deepcopy(RECORD) | changes), encoding="utf-8")
    return file


def refuse(line: str) -> None:
    raise AssertionError(line)


def test_a_digit_that_is_no_number_is_a_letter() -> None:
    assert sorted(["x²10", "x²9", "²"], key=tabular.natural) == ["x²9", "x²10", "²"]


def test_runs_are_found_below_the_folder_in_natural_order(tmp_path: Path) -> None:
    for name in ("train10", "train9", "detect/train2", ".trash/x", "train9/weights", "1/2/3/4/5/6", "1/2/3/4/5/6/7"):
        save(tmp_path / name)
    assert [run["run"] for run in runs.find_runs(tmp_path, refuse)] == [
        "1/2/3/4/5/6", "detect/train2", "train9", "train10",
    ]  # fmt: skip


def test_the_folder_of_one_run_is_named_by_itself(tmp_path: Path) -> None:
    save(tmp_path / "only")
    assert [run["run"] for run in runs.find_runs(tmp_path / "only", refuse)] == ["only"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "Expecting"), ('{"schema": 2}', "schema is 2"), ("[]", "list"), ('{"schema": 1}', "has no 'model'")],
)
def test_a_broken_record_is_named_and_left_out(tmp_path: Path, content: str, reason: str) -> None:
    save(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text(content)
    said: list[str] = []
    assert [run["run"] for run in runs.find_runs(tmp_path, said.append)] == ["good"]
    assert len(said) == 1 and said[0].startswith(str(tmp_path / "bad" / "run.json")) and reason in said[0]


def test_no_folder_and_no_run_are_errors_that_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        runs.find_runs(tmp_path / "absent", refuse)
    with pytest.raises(DataError, match=r"holds no run\.json"):
        runs.find_runs(tmp_path, refuse)


@pytest.mark.parametrize(
    ("rows", "short"),
    [
        ([], "none"),
        ([layer("CBAM", "neck-p3", 16), layer("CBAM", "neck-p4", 20)], "CBAM@neck-p3,p4"),
        ([layer("CBAM", "backbone-p5", 10), layer("CBAM", "neck-p4", 20)], "CBAM@backbone-p5,neck-p4"),
        ([layer("SE", "backbone-blocks", 2), layer("SE", "backbone-blocks", 4)], "SE@backbone-blocks"),
        ([layer("SE", None, 7), layer("SE", "backbone", 10), layer("BAM", None, 3)], "SE@7,backbone BAM@3"),
    ],
)
def test_layers_and_places_in_short(rows: list[dict[str, Any]], short: str) -> None:
    assert runs.layers(rows) == short


def test_both_maps_of_boxes_or_of_masks() -> None:
    run = copy.deepcopy(RECORD)
    assert (runs.coco_ap(run), runs.host_ap(run)) == (0.39876, 0.4014)
    run["metrics"]["coco"] = {"bbox": {"AP": 0.5}, "segm": {"AP": 0.4}}
    run["metrics"]["ultralytics"]["metrics/mAP50-95(M)"] = 0.3
    assert (runs.coco_ap(run), runs.host_ap(run)) == (0.4, 0.3)
    run["metrics"] = {"ultralytics": {}, "coco": None}
    assert (runs.coco_ap(run), runs.host_ap(run)) == (None, None)


def three(folder: Path) -> list[dict[str, Any]]:
    wide = [layer("CBAM", f"neck-p{level}", level) for level in (3, 4, 5)]
    save(folder / "short", state="running")
    save(folder / "a-very-long-name-of-a-run", model=RECORD["model"] | {"layers": wide})
    save(folder / "gpu", memory={"cuda_reserved": 3 * 2**30, "process": 1}, times={})
    return runs.find_runs(folder, refuse)


def test_a_wide_text_table_is_aligned_and_whole(tmp_path: Path) -> None:
    head, *rows, _ = runs.text(three(tmp_path), 160).splitlines()
    cells = [line.split() for line in rows]
    assert head.split() == [name for name, _, _ in runs.COLUMNS]
    assert cells[0][0] == "a-very-long-name-of-a-run" and cells[0][2] == "CBAM@neck-p3,p4,p5"
    assert [row[4:9] for row in cells] == [
        ["2/3", "39.88", "40.14", "62", "1.0"],
        ["2/3", "39.88", "40.14", "-", "3.0"],
        ["2/3", "39.88", "40.14", "62", "1.0"],
    ]
    ends = {line.index(cell[5]) + len(cell[5]) for line, cell in zip(rows, cells, strict=True)}
    assert ends == {head.index("COCO") + len("COCO")}


@pytest.mark.parametrize("width", [80, 66])
def test_a_narrow_table_keeps_every_number(tmp_path: Path, width: int) -> None:
    lines = runs.text(three(tmp_path), width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("model: yolov8n-cbam; data: a|b_c")
    assert sum(line.count("39.88") for line in lines) == 3
    assert any(line.startswith("…") and line.split()[0].endswith("-run") for line in lines)


def test_csv_has_every_field_flat(tmp_path: Path) -> None:
    rows = list(csv.DictReader(runs.table_csv(three(tmp_path)).splitlines()))
    assert [row["run"] for row in rows] == ["a-very-long-name-of-a-run", "gpu", "short"]
    first = rows[0]
    assert (first["metrics.coco.AP"], first["epochs"], first["model.parameters"]) == ("0.39876", "2", "3019724")
    assert json.loads(first["problems"]) == RECORD["problems"]
    assert rows[1]["times.train_images_per_second"] == ""


def test_markdown_and_latex_escape_what_they_must(tmp_path: Path) -> None:
    found = three(tmp_path)
    lines = runs.markdown(found).splitlines()
    assert len(lines) == 5 and r" a\|b_c " in lines[2] and lines[1].count("---:") == 5
    tex = runs.latex(found)
    assert r"a\textbar{}b\_c" in tex and tex.count(r"\\") == 4
    assert r"\toprule" in tex and r"\begin{tabular}{llllrrrrrl}" in tex
    escaped = r"50\% \{a\}\&\#\$\textasciicircum{}\textasciitilde{}\textbackslash{}"
    assert tabular.escape_latex("50% {a}&#$^~\\") == escaped


def test_the_verb_writes_files_and_never_over_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "r" / "a")
    files = {form: tmp_path / f"t.{form}" for form in ("csv", "markdown", "latex")}
    words = ["runs", str(tmp_path / "r"), *(word for form, file in files.items() for word in (f"--{form}", str(file)))]
    assert main(words) == 0
    assert "39.88" in capsys.readouterr().out
    assert all("39.88" in files[form].read_text() for form in ("markdown", "latex")) and files["csv"].read_text()
    files["latex"].write_text("mine")
    files["csv"].unlink()
    assert main(words) == 1
    assert f"{files['markdown']} is there already" in capsys.readouterr().err
    assert files["latex"].read_text() == "mine" and not files["csv"].exists()
    assert main([*words, "--force"]) == 0
    assert "39.88" in files["latex"].read_text()
    assert main(["runs", str(tmp_path / "r"), "--csv", str(tmp_path / "no" / "t.csv")]) == 1
    assert "cannot write" in capsys.readouterr().err
    one = str(tmp_path / "one")
    assert main(["runs", str(tmp_path / "r"), "--csv", one, "--latex", one]) == 1
    assert "--csv and --latex: give each a file of its own" in capsys.readouterr().err


def test_a_run_whose_wiring_is_wrong_is_marked(tmp_path: Path) -> None:
    model = RECORD["model"] | {"layers": [layer("CBAM", None, 22)]}
    save(tmp_path / "a", model=model)
    assert runs.MARKED not in runs.text(runs.find_runs(tmp_path, refuse), 200)
    save(tmp_path / "b", model=model | {"warnings": ["row 22, CBAM, is read by no row"]})
    found = runs.find_runs(tmp_path, refuse)
    table = runs.text(found, 200)
    assert [line.count("! CBAM@22") for line in table.splitlines()[:3]] == [0, 0, 1] and runs.MARKED in table
    assert runs.markdown(found).count("| ! CBAM@22 |") == 1


def test_a_link_that_leads_nowhere_is_there_too(tmp_path: Path) -> None:
    (tmp_path / "table.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="is there already"):
        tabular.check_absent([tmp_path / "table.csv"])
