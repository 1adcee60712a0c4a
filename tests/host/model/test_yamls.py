"""The drop-in models: equal to what graft writes, right indices, a forward at every scale."""

from __future__ import annotations

import pytest
import torch

import yolo_attn
from yolo_attn import registry
from yolo_attn.host.model import yamls

tasks = pytest.importorskip("ultralytics.nn.tasks")

FILES = yamls.model_names()


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


def test_there_is_one_file_per_layer_and_place() -> None:
    layers = [*registry.TABLE, registry.slugs()["timm-eca"]]  # one of timm's stands for all
    expected = {f"yolov8-{layer.slug}{place}.yaml" for layer in layers for place in ("", "-neck")}
    assert set(FILES) == expected and len(FILES) == len(expected)


@pytest.mark.parametrize("name", FILES)
def test_files_are_what_graft_writes(name: str) -> None:
    text = (yamls.cfg_folder() / "models" / name).read_text(encoding="utf-8")
    assert text == yamls.drop_in_files()[name], "run: python scripts/make_cfg.py"


def test_indices_of_the_backbone_place() -> None:
    rows = tasks.yaml_model_load("yolov8n-cbam.yaml")
    rows = rows["backbone"] + rows["head"]
    assert rows[10][:3] == [-1, 1, "CBAM"]
    assert [row[0] for row in rows[11:]] == [
        -1,
        [-1, 6],
        -1,
        -1,
        [-1, 4],
        -1,
        -1,
        [-1, 13],
        -1,
        -1,
        [-1, 10],
        -1,
        [16, 19, 22],
    ]


def test_indices_of_the_neck_place() -> None:
    rows = tasks.yaml_model_load("yolov8n-cbam-neck.yaml")
    rows = rows["backbone"] + rows["head"]
    assert [i for i, row in enumerate(rows) if row[2] == "CBAM"] == [16, 20, 24]
    assert rows[-1][0] == [16, 20, 24]
    assert rows[18][0] == [-1, 12] and rows[22][0] == [-1, 9]


@pytest.mark.parametrize("scale", ["n", *(pytest.param(scale, marks=pytest.mark.slow) for scale in "smlx")])
@pytest.mark.parametrize("name", FILES)
def test_builds_and_runs_a_forward_on_a_map_that_is_not_square(name: str, scale: str) -> None:
    model = tasks.DetectionModel(name.replace("yolov8", f"yolov8{scale}"), verbose=False).eval()
    layer = registry.find(
        next(row[2] for row in model.yaml["backbone"] + model.yaml["head"] if row[2] in registry.names())
    )
    count = 3 if name.endswith("-neck.yaml") else 1
    assert sum(type(m) is layer.load() for m in model.model) == count
    with torch.no_grad():
        y = model(torch.rand(1, 3, 256, 320))[0]
    assert y.shape == (1, 84, 32 * 40 + 16 * 20 + 8 * 10)
    assert torch.isfinite(y).all()
