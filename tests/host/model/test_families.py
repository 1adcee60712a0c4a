"""One grafted model per family: it builds, runs, trains a step and is opened again by a fresh process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import yolo_attn
from experiments.transfer_table import build, randomise
from yolo_attn.graft import graft
from yolo_attn.host.model import surgery

tasks = pytest.importorskip("ultralytics.nn.tasks")

# Family, layer, place: every family of the supported hosts, different layers and places in turn.
FAMILIES = {
    "yolov8n": ("CBAM", "neck"),
    "yolo11n": ("CoordAtt", "stages"),
    "yolo26n": ("BiFormer", "backbone"),
    "yolov5n": ("SE", "stages"),
    "yolo12n": ("CAA", "neck"),
    "yolov8n-seg": ("CPCA", "neck"),
    "yolov8n-pose": ("CoT", "backbone"),
    "yolov8n-obb": ("DAttention", "backbone"),
    "yolov8n-cls": ("MHSALePE", "backbone"),
    "rtdetr-l": ("BAM", "neck"),
}
SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    yolo_attn.install()
    return tmp_path_factory.mktemp("families")


def batch_of(task: str, side: int = SIDE) -> dict[str, torch.Tensor]:
    """Return a batch of two images with one object each, in the host's form."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, side, side, generator=generator)
    boxes = torch.tensor([[0.5, 0.5, 0.6, 0.5], [0.4, 0.6, 0.5, 0.5]])
    if task == "classify":
        return {"img": images, "cls": torch.tensor([0, 0])}
    batch = {"img": images, "batch_idx": torch.tensor([0.0, 1.0]), "cls": torch.zeros(2, 1), "bboxes": boxes}
    if task == "obb":
        batch["bboxes"] = torch.cat([boxes, torch.tensor([[0.3], [0.1]])], 1)
    if task == "segment":
        batch["masks"] = torch.zeros(2, side // 4, side // 4)
        batch["masks"][:, 4:12, 4:12] = 1
    if task == "pose":
        batch["keypoints"] = torch.rand(2, 17, 3, generator=generator)
    return batch


@pytest.mark.parametrize("family", FAMILIES)
def test_builds_runs_trains_a_step_and_reloads(family: str, folder: Path, run) -> None:
    from ultralytics.cfg import get_cfg

    try:
        plain = tasks.yaml_model_load(f"{family}.yaml")
    except FileNotFoundError:
        pytest.skip(f"this Ultralytics has no {family}")
    layer, place = FAMILIES[family]
    base = randomise(build(plain))
    model = build(graft(plain, layer, place))
    model.load(base, verbose=False)
    inserted = [m for m in model.modules() if type(m).__name__ == layer]
    assert inserted and all(torch.isfinite(y).all() for y in surgery.outputs(model))

    task = tasks.guess_model_task(plain) or "detect"
    model.args = get_cfg(overrides={"task": task})
    model.nc = plain["nc"]  # what a trainer sets
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    side = 2 * SIDE if family.startswith("rtdetr") else SIDE  # its 300 queries need as many pixels
    model.train()
    for _ in range(2):  # the gate moves in the first step, the layer behind it from the second on
        optimizer.zero_grad()
        loss = model.loss(batch_of(task, side))[0].sum()
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert any(name.endswith(".gate") for name in changed)
    assert any(".layer." in name for name in changed)

    model.eval()
    model.criterion = None
    saved = folder / f"number{list(FAMILIES).index(family)}"  # the host reads a meaning into names like yolov5n.pt
    torch.save({"model": model, "train_args": {}}, f"{saved}.pt")
    torch.save(surgery.outputs(model), f"{saved}.outputs")
    code = f"""
import json, torch
from ultralytics.nn import tasks
torch.set_num_threads({torch.get_num_threads()})  # sums in another order may order the queries of RT-DETR anew
load = getattr(tasks, "load_checkpoint", None) or tasks.attempt_load_one_weight
model, _ = load({str(saved)!r} + ".pt")
from yolo_attn.host.model import surgery
again, saved = surgery.outputs(model), torch.load({str(saved)!r} + ".outputs")
apart = max((a - b).abs().max().item() / max(b.abs().max().item(), 1e-9) for a, b in zip(again, saved))
print("REPORT", json.dumps([apart, len(saved), sum(type(m).__name__ == {layer!r} for m in model.modules())]))
"""
    apart, count, layers = json.loads(run("python", "-c", code).stdout.split("REPORT")[1])
    assert apart < 1e-5  # float32 noise
    assert count and layers == len(inserted)
