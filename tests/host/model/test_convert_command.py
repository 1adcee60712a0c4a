"""The stock ``yolo`` command uses what ``yolo-attn convert`` wrote, in processes of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from yolo_attn.coco import shapes

SMALL = ("imgsz=64", "device=cpu")


@pytest.fixture
def folder(tmp_path: Path, old_files: Path) -> Path:
    shutil.copy(old_files / "se-half.pt", tmp_path / "old.pt")
    shutil.copy(old_files / "unclear.pt", tmp_path / "unclear.pt")
    shapes.write_shapes(tmp_path / "data", {"train": 8, "val": 4})
    (tmp_path / "my.yaml").write_text(
        f"path: {tmp_path / 'data'}\ntrain: annotations/train.json\nval: annotations/val.json\n"
        "images: {train: images/train, val: images/val}\n"
    )
    return tmp_path


def test_the_stock_command_predicts_validates_exports_and_trains(run, folder) -> None:
    lost = run("yolo", "predict", "model=old.pt", "source=data/images/val", *SMALL, ok=False)
    assert "yolo-attn convert <this checkpoint> -o new.pt" in lost.stdout + lost.stderr
    done = run("yolo-attn", "convert", "old.pt", "-o", "new.pt")
    assert "ultralytics.nn.modules.conv.SEAttention  SE(reduction=8)  2" in done.stdout and not done.stderr
    assert "image 4/4" in run("yolo", "predict", "model=new.pt", "source=data/images/val", *SMALL).stdout
    assert "Official COCO numbers" in run("yolo", "val", "model=new.pt", "data=my.yaml", "workers=0", *SMALL).stdout
    run("yolo", "export", "model=new.pt", "format=torchscript", *SMALL)
    few = ("epochs=1", "batch=4", "workers=0", "plots=False", "val=False", "amp=False")
    trained = run("yolo", "train", "model=new.pt", "data=my.yaml", *few, *SMALL)
    assert "Transferred 49/49" in trained.stdout + trained.stderr
    again = torch.load(folder / "runs/detect/train/weights/last.pt", weights_only=False)["model"]
    assert type(again.model[2]).__module__ == "yolo_attn.layers.se" and again.model[2].reduction == 8


def test_the_command_asks_and_is_answered(run, folder) -> None:
    asked = run("yolo-attn", "convert", "unclear.pt", "-o", "new.pt", ok=False)
    assert asked.stderr.startswith("yolo-attn: unclear.pt, row 2: pasted_attention.Focus2") and not asked.stdout
    run("yolo-attn", "convert", "unclear.pt", "-o", "new.pt", "--as", "Focus2=Polarized")
    restricted = run("yolo-attn", "convert", "old.pt", "-o", "other.pt", ok=False, ULTRALYTICS_SAFE_LOAD="1")
    assert "old.pt is not opened: ULTRALYTICS_SAFE_LOAD is set" in restricted.stderr
    long = run("yolo-attn", "convert", "a" * 300 + ".pt", "-o", "other.pt", ok=False)
    assert long.stderr.startswith("yolo-attn: [Errno") and "Traceback" not in long.stderr


OWN = """
import torch
from torch import nn


class {}(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.alpha, self.mix = nn.Parameter(torch.rand(3)), nn.Linear(channels, 2 * channels)

    def forward(self, x):
        return x
"""


@pytest.mark.parametrize(("name", "answer"), [("Own", ()), ("MyOwn", ("--as", "Own=MyOwn"))])
def test_a_class_that_is_none_of_ours_is_carried_into_a_layer_of_the_users_own(
    run, tmp_path, old_files, name, answer
) -> None:
    shutil.copy(old_files / "own.pt", tmp_path)
    (tmp_path / "layers.py").write_text(OWN.format(name))
    setting = {"YOLO_ATTN_LAYERS": f"layers.py:{name}"}
    assert "53 of 53 tensors" in run("yolo-attn", "convert", "own.pt", "-o", "new.pt", *answer, **setting).stdout
    code = "import torch; print(type(torch.load('new.pt', weights_only=False)['model'].model[2]))"
    assert f"yolo_attn.own.layers.{name}" in run("python", "-c", code, **setting).stdout
