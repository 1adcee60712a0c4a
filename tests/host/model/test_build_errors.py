"""Models that cannot be built or run: the error names the row of ours, or the alias that explodes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from yolo_attn.errors import RowError

tasks = pytest.importorskip("ultralytics.nn.tasks")

NET = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 1], 1, "Concat", [1]], [[4], 1, "Detect", ["nc"]]],
    "yaml_file": "my.yaml",
}


@pytest.fixture(autouse=True, scope="module")
def _patched(installed) -> None:
    pass


def build(*rows: list, concat: list | None = None):
    model = copy.deepcopy(NET)
    model["backbone"] += rows
    if concat:
        model["head"][1][0], model["head"][2][0] = concat, [4 + len(rows)]
    return tasks.DetectionModel(model, verbose=False)


def test_a_moved_index_is_named() -> None:
    assert build(concat=[-1, 1]).stride.tolist() == [4]
    said = r"row 5: Concat joins maps of different sizes: row 4 gives 64 x 64, row 2 gives 32 x 32\. Was row 3, SE, ins"
    with pytest.raises(RowError, match=rf"my\.yaml, {said}") as caught:
        build([-1, 1, "SE", []], concat=[-1, 2])
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_without_a_row_of_ours_the_error_stays_the_hosts() -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        build(concat=[-1, 2])


def test_a_layer_that_refuses_a_map_is_named() -> None:
    with pytest.raises(RowError, match=r"my\.yaml, row 3: BiFormer: map 32x32 is not divisible by n_win=7; auto_pad"):
        build([-1, 1, "BiFormer", {"auto_pad": False}], concat=[-1, 1])


def test_the_command_names_it_while_it_runs(run, tmp_path: Path) -> None:
    model = {**NET, "head": [[[3], 1, "Detect", ["nc"]]]}
    model["backbone"] = [*NET["backbone"], [-1, 1, "BiFormer", {"n_win": 8, "auto_pad": False}]]
    del model["yaml_file"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(model))
    arguments = ("data=shapes.yaml", "epochs=1", "imgsz=96", "batch=4", "fraction=0.05", "workers=0", "plots=False")
    done = run("yolo", "train", "model=mine.yaml", *arguments, ok=False)
    assert "error: mine.yaml, row 3: BiFormer: map 12x12 is not divisible by n_win=8" in done.stderr
    assert "Traceback" not in done.stderr


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "extra",
    [
        f"{laughs(9)}\nbackbone: *a8\nhead: []",
        f"{laughs(9)}\nbackbone: [[-1, 1, CBAM, *a8]]\nhead: []",
        "a: &a {x: 1}\n"
        + "\n".join(f"b{n}: &b{n} {{<<: [{', '.join(['*' + (f'b{n - 1}' if n else 'a')] * 9)}]}}" for n in range(9)),
        "a: &a [*a]\nbackbone: *a\nhead: []",
    ],
    ids=["rows", "arguments", "merges", "itself"],
)
@pytest.mark.parametrize("name", ["mine.yaml", "yolov8n-mine.yaml"])
def test_aliases_that_explode_are_refused_at_once(extra: str, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name.replace("v8n", "v8")).write_text(f"nc: 3\n{extra}\n")
    with pytest.raises(RowError, match=r"mine\.yaml: its (aliases|lists)"):
        tasks.yaml_model_load(name)


def test_a_dictionary_that_explodes_is_refused_and_plain_aliases_are_not(tmp_path: Path, monkeypatch) -> None:
    shared: list = [1] * 9
    for _ in range(9):
        shared = [shared] * 9
    with pytest.raises(RowError, match=r"my\.yaml: its aliases"):
        build([-1, 1, "SE", shared])
    with pytest.raises(RowError, match=r"my\.yaml: it holds a number of 20,001 bits"):
        build([-1, 1, "SE", [1 << 20_000]])
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("nc: 3\nbackbone: [[-1, 1, Conv, &a [16, 3, 2]], [-1, 1, Conv, *a]]\nhead: []\n")
    assert tasks.yaml_model_load("mine.yaml")["backbone"][1][3] == [16, 3, 2]


@pytest.mark.parametrize("part", ["backbone", "head"])
def test_a_part_that_is_missing_is_named(part: str) -> None:
    with pytest.raises(RowError, match=f"my.yaml: '{part}' must be a list of rows; it is None"):
        tasks.parse_model({key: value for key, value in NET.items() if key != part}, 3)
