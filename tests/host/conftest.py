"""Fresh processes in a folder that is not the checkout, as users start them, and a user's COCO data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import yolo_attn
from yolo_attn.coco import shapes

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def host_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment that keeps the host's settings and our caches away from the user's and from the network."""
    home = tmp_path_factory.mktemp("home")
    settings = {
        "YOLO_CONFIG_DIR": str(home),
        "YOLO_ATTN_CACHE": str(home / "cache"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "OMP_NUM_THREADS": "1" if "PYTEST_XDIST_WORKER" in os.environ else "2",
    }
    # Runs go below the working directory, wherever the host itself is installed (in a checkout, they would go there).
    code = "from ultralytics.utils import SETTINGS; SETTINGS.update({'runs_dir': 'runs'})"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, check=True, capture_output=True)
    return settings


@pytest.fixture
def run(tmp_path: Path, host_settings: dict[str, str]) -> Run:
    """Return a function that runs ``python ...`` or ``yolo ...`` in ``tmp_path`` and returns the finished process."""

    def run(*command: str, ok: bool = True, **env: str) -> subprocess.CompletedProcess:
        program, *rest = command
        path = {"python": sys.executable}.get(program, str(Path(sys.executable).with_name(program)))
        ours = ("YOLO_", "ULTRALYTICS_", "PYTEST_")
        clean = {k: v for k, v in os.environ.items() if k == "YOLO_ATTN_FAST" or not k.startswith(ours)}
        done = subprocess.run(
            [path, *rest],
            cwd=tmp_path,
            env={**clean, **host_settings, **env},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode == 0) == ok, f"{command} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def installed():
    """The joints are in place for the tests of a module, and as before afterwards."""
    was = yolo_attn.installed()
    yolo_attn.install()
    yield
    if not was:
        yolo_attn.uninstall()


@pytest.fixture
def demo(tmp_path: Path, monkeypatch) -> Path:
    """Shapes with string image ids, crowd regions, other category ids and a box outside, as a user's own data."""
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shapes.write_shapes(tmp_path / "data", {"train": 16, "val": 24})
    for split in ("train", "val"):
        path = tmp_path / "data/annotations" / f"{split}.json"
        document = json.loads(path.read_text())
        for image in document["images"]:
            image["id"] = f"pic-{image['id']}"
        for number, note in enumerate(document["annotations"]):
            note["image_id"] = f"pic-{note['image_id']}"
            note["category_id"] = note["category_id"] * 1000 + 1
            note["iscrowd"] = int(number % 7 == 0)
        for category in document["categories"]:
            category["id"] = category["id"] * 1000 + 1
        path.write_text(json.dumps(document))
    file = tmp_path / "data/data.yaml"
    images = {"train": "images/train", "val": "images/val"}
    file.write_text(
        yaml.safe_dump({"train": "annotations/train.json", "val": "annotations/val.json", "images": images})
    )
    return file


@pytest.fixture
def oracle(monkeypatch):
    """Let every object the model 'predicts' be a disturbed true one with a coarse score, so that numbers say much."""
    from ultralytics.models.yolo.detect import DetectionValidator

    def replace(categories: int) -> None:
        import torch

        rng = np.random.default_rng(0)
        plain = DetectionValidator.update_metrics

        def update_metrics(self, preds, batch):
            # Ground truth that a newer host builds of its own would cost time and mean other ids.
            assert not getattr(self, "gdict", None)
            h, w = batch["img"].shape[2:]
            made = []
            for i in range(len(batch["im_file"])):
                mine = batch["batch_idx"] == i
                xywh = batch["bboxes"][mine].cpu().numpy().repeat(3, 0) * (w, h, w, h)
                cls = batch["cls"][mine].cpu().numpy().ravel().repeat(3)
                flip = rng.uniform(size=len(cls)) < 0.2
                cls[flip] = rng.integers(0, categories, flip.sum())
                xywh = xywh * rng.normal(1, 0.08, xywh.shape)
                score = rng.uniform(0.1, 1, len(cls)).round(1)
                order = np.argsort(-score)
                xyxy = np.concatenate([xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2], 1)
                rows = torch.tensor(np.column_stack([xyxy, score, cls])[order], dtype=torch.float32)
                if preds and isinstance(preds[0], dict):
                    rows = {"bboxes": rows[:, :4], "conf": rows[:, 4], "cls": rows[:, 5], "extra": rows[:, 6:]}
                if self.args.task == "segment":
                    number = torch.arange(1, int(mine.sum()) + 1).view(-1, 1, 1)
                    masks = (batch["masks"][i] == number).float()[None]
                    masks = torch.nn.functional.interpolate(masks, (h, w))[0] if mine.any() else torch.zeros(0, h, w)
                    rows["masks"] = torch.roll(masks.repeat_interleave(3, 0)[order], int(rng.integers(-1, 2)), 2).byte()
                if self.args.task == "pose":
                    points = batch["keypoints"][mine].cpu() * torch.tensor([w, h, 1])
                    noise = torch.tensor(rng.normal(0, 1, (3 * len(points), *points.shape[1:])), dtype=torch.float32)
                    rows["keypoints"] = (points.repeat_interleave(3, 0) + noise)[order]
                made.append(rows)
            plain(self, made, batch)

        monkeypatch.setattr(DetectionValidator, "update_metrics", update_metrics)

    return replace
