"""Rows of a checkpoint keep the meaning that they had when they were trained."""

from __future__ import annotations

import pytest
import torch

import yolo_attn
from yolo_attn.host.model import transfer
from yolo_attn.layers import CBAM
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


def reloaded(tmp_path, row: list, layer: torch.nn.Module) -> torch.nn.Module:
    """Save a model with this layer under this row, as another version built it, and open the checkpoint."""
    model = tasks.DetectionModel("yolov8n-cbam.yaml", verbose=False)
    vars(layer).update({key: vars(model.model[10])[key] for key in ("i", "f", "type", "np")})
    model.model[10] = layer
    model.yaml["backbone"][10] = row
    torch.save({"model": model, "train_args": {}}, tmp_path / "old.pt")
    return tasks.torch_safe_load(str(tmp_path / "old.pt"))[0]["model"]


@pytest.mark.parametrize(
    ("row", "layer", "kept"),
    [
        ([7], CBAM(256, reduction=7), [{"reduction": 7}]),
        ([1024, 7], CBAM(256, reduction=7), [{"reduction": 7}]),
        ([512], CBAM(256, reduction=512), [{"reduction": 512}]),
        ([1024], CBAM(256), []),
        ([7, {"gate": True}], Gated(CBAM(256, reduction=7)), [{"reduction": 7, "gate": True}]),
        ([{"kernel_size": 3}], CBAM(256, kernel_size=3), [{"kernel_size": 3}]),
        ([], CBAM(256), []),
    ],
)
def test_what_a_checkpoint_was_trained_with_is_rebuilt(row, layer, kept, tmp_path) -> None:
    base = reloaded(tmp_path, [-1, 1, "CBAM", row], layer)
    assert base.yaml["backbone"][10] == [-1, 1, "CBAM", kept]
    model = tasks.DetectionModel(base.yaml, verbose=False)
    model.load(base)
    assert transfer.reports[model].complete and not transfer.reports[model].new
