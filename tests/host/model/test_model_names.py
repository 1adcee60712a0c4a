"""Names typed as models: what they build, and what is said about those that build nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolo_attn import registry
from yolo_attn.errors import ModelNameError
from yolo_attn.graft import split_names

tasks = pytest.importorskip("ultralytics.nn.tasks")


@pytest.fixture(autouse=True, scope="module")
def _patched(installed) -> None:
    pass


def layers_of(name: str) -> list[tuple[int, str]]:
    model = tasks.yaml_model_load(name)
    rows = [*model["backbone"], *model["head"]]
    return [(i, row[2]) for i, row in enumerate(rows) if row[2] in registry.names()]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("yolov8n-SEAttention.yaml", [(10, "SE")]),
        ("yolov8n-seattention.yaml", [(10, "SE")]),
        ("yolov8n-CBAM-neck.yaml", [(16, "CBAM"), (20, "CBAM"), (24, "CBAM")]),
        ("yolov8n-ca.yaml", [(10, "CoordAtt")]),
        ("yolov8n-cbam-coordatt.yaml", [(10, "CBAM"), (11, "CoordAtt")]),
        ("yolov8n-coordatt-cbam.yaml", [(10, "CoordAtt"), (11, "CBAM")]),
        ("yolov8n-cbam-neck-p3-mhsa-lepe.yaml", [(10, "MHSALePE"), (17, "CBAM")]),
        ("yolo11n-seg-cbam-backbone-p4-se-caa-neck-p5.yaml", [(7, "CBAM"), (12, "SE"), (25, "CAA")]),
    ],
)
def test_aliases_and_several_layers_build(name: str, layers: list[tuple[int, str]]) -> None:
    assert layers_of(name) == layers
    assert tasks.yaml_model_load(name)["scale"] == "n"


def test_a_name_is_read_with_the_longest_base_first() -> None:
    assert split_names("yolov8n-seg-se-caa-neck") == [
        ("yolov8n-seg-se", [("CAA", "neck")]),
        ("yolov8n-seg", [("SE", "backbone"), ("CAA", "neck")]),
    ]
    assert split_names("yolov8n") == []


def test_a_users_file_is_the_base(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yolov8n-cbam.yaml").write_text(
        "nc: 1\nbackbone: [[-1, 1, Conv, [8]], [-1, 1, Conv, [8]]]\nhead: [[1, 1, Conv, [8]]]\n"
    )
    assert layers_of("yolov8n-cbam-coordatt.yaml") == [(2, "CoordAtt")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yolov11n-cbam", "; did you mean 'yolo11n-cbam.yaml'?"),
        ("yolov12n-se-neck", "; did you mean 'yolo12n-se-neck.yaml'?"),
        ("yolo8n-cbam", "; did you mean 'yolov8n-cbam.yaml'?"),
        ("YOLOv8n-cbam", "; did you mean 'yolov8n-cbam.yaml'?"),
        ("yolov8-n-cbam", "; did you mean 'yolov8n-cbam.yaml'?"),
        ("yolo-v8s-cbam", "; did you mean 'yolov8s-cbam.yaml'?"),
        ("yolov8n_cbam", "; did you mean 'yolov8n-cbam.yaml'?"),
        ("yolov8n-cbam-seg", "; did you mean 'yolov8n-seg-cbam.yaml'?"),
        ("yolov8n-cbam-neck-pose", "; did you mean 'yolov8n-pose-cbam-neck.yaml'?"),
        ("yolov11n-cbam-obb-coordatt", "; did you mean 'yolo11n-obb-cbam-coordatt.yaml'?"),
        ("yolov8n-neck-cbam", "; did you mean 'yolov8n-cbam-neck.yaml'?"),
        ("yolov8n-cbam-backbone-neck", "; did you mean 'yolov8n-cbam-backbone-cbam-neck.yaml'?"),
        ("yolov11n-cbamm", "; did you mean 'yolo11n-cbam.yaml'?"),
        ("yolov8n-cbamm", ": 'cbamm' is no layer; did you mean 'cbam'? Layers: se, "),
        ("yolov8n-cbam-coordat", ": 'coordat' is no layer; did you mean 'coordatt'? Layers: se, "),
        ("yolov8n-C2f_CBAM", ": 'C2f' is a block. 'yolov8n-cbam-blocks.yaml' has the layer inside its blocks, "),
        ("yolov8n-cbam-c2f", ": 'c2f' is a block. 'yolov8n-cbam-blocks.yaml' has "),
        ("yolov8n-cbam-inside", ": 'inside' is no place for a layer; did you mean 'blocks'?"),
        ("yolov8n-cbam-head", ": 'head' is no place for a layer; did you mean 'neck'?"),
        ("yolov8n-cbam-neck-block", ": 'neck-block' is no place for a layer; did you mean 'neck-blocks'?"),
        ("yolov8n-nothing-cbam", ": 'nothing' is no layer. Layers: se, "),
        ("yolov8n-fca-cbam", ": 'fca' is no layer. Layers: se, "),
        ("yolov8n-cbam-here", ": 'here' is no place for a layer. Places: backbone, stages, neck, "),
        ("yolov8n-cbam-nek", ": 'nek' is no place for a layer; did you mean 'neck'? Places: "),
        ("yolov8n-cbam-p3", ": 'p3' is no place for a layer; say 'backbone-p3' or 'neck-p3'. Places: "),
        ("mine-cbam", ": Ultralytics has no mine.yaml"),
    ],
)
@pytest.mark.parametrize("folder", ["", "./", "models/", "/nowhere/"])
def test_a_name_that_builds_nothing_says_what_is_meant(name: str, said: str, folder: str) -> None:
    with pytest.raises(ModelNameError) as caught:
        tasks.yaml_model_load(f"{folder}{name}.yaml")
    assert str(caught.value).startswith(f"'{folder}{name}.yaml' does not exist{said}")
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    "name", ["./yolov8n-cbam.yaml", "models/yolov8n-seg-caa-neck.yaml", f"{os.sep}x/yolov8n-se.yml"]
)
def test_a_folder_in_front_is_explained(name: str) -> None:
    with pytest.raises(
        ModelNameError, match=rf"'{name}' does not exist: there is no such file\. Without the folder, 'yol"
    ):
        tasks.yaml_model_load(name)


@pytest.mark.parametrize("name", ["yolov8n-nothing.yaml", "yolov8n-fca.yaml", "foo.yaml", "./foo/bar.yaml", "-.yaml"])
def test_a_name_without_a_layer_of_ours_is_left_to_the_host(name: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        tasks.yaml_model_load(name)
    assert type(caught.value) is FileNotFoundError


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("yolov11n-cbam.yaml", "did you mean 'yolo11n-cbam.yaml'?"),
        ("./yolov8n-cbam.yaml", "Without the folder, 'yolov8n-cbam.yaml' is built from its name"),
        ("yolov8n-cbam", "did you mean 'yolov8n-cbam.yaml'?"),
        ("yolov8n-cbamm.pt", "'cbamm' is no layer; did you mean 'cbam'?"),
    ],
)
def test_the_command_says_it_in_one_line(model: str, said: str, run) -> None:
    done = run("yolo", "train", f"model={model}", "data=shapes.yaml", ok=False)
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and said in lines[-1]
    assert "Traceback" not in done.stderr and done.returncode == 1


def test_the_command_shows_the_hosts_own_traceback(run) -> None:
    done = run("yolo", "train", "model=yolov8n-nothing.yaml", "data=shapes.yaml", ok=False)
    assert "Traceback" in done.stderr and "FileNotFoundError: 'yolov8-nothing.yaml' does not exist" in done.stderr
