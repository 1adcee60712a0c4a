"""A training killed at any moment resumes with nothing lost but the running epoch."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

EPOCHS = 3
# Each makes one moment last: it says so on standard output and waits to be killed.
MOMENTS = {
    "in the middle of an epoch": """
def wait(trainer):
    if trainer.epoch == 1:
        ready()
yolo.add_callback("on_train_batch_end", wait)
""",
    "in the middle of writing a checkpoint": """
import pathlib
original = pathlib.Path.write_bytes
def write_bytes(self, data):
    if self.name == "last.pt" and yolo.trainer.epoch == 1:
        original(self, data[:len(data) // 2])
        ready()
    return original(self, data)
pathlib.Path.write_bytes = write_bytes
""",
    "in the middle of stripping a checkpoint": """
import io, os, pathlib
original = torch.save
def save(obj, f, *args, **kwargs):
    if isinstance(f, (str, os.PathLike)) and "best.pt" in os.fspath(f):
        buffer = io.BytesIO()
        original(obj, buffer)
        pathlib.Path(f).write_bytes(buffer.getvalue()[:1000])
        ready()
    return original(obj, f, *args, **kwargs)
torch.save = save
""",
    "in the final validation": """
def wait(validator):
    if not validator.training:
        ready()
yolo.add_callback("on_val_start", wait)
""",
}
TRAIN = """
import pathlib, time
import torch
from ultralytics import YOLO
def ready():
    print("READY", flush=True)
    time.sleep(300)
yolo = YOLO("gated.yaml")
{moment}
yolo.train(data="shapes.yaml", epochs={epochs}, imgsz=32, batch=16, fraction=0.1, workers=0, plots=False,
           optimizer="AdamW", warmup_epochs=0, nbs=16, project=str(pathlib.Path("out").absolute()), name="run")
"""
# What a resumed trainer starts from, against the file it resumes.
RESUME = """
import torch
from ultralytics import YOLO
ckpt = torch.load("out/run/weights/last.pt", map_location="cpu", weights_only=False)
def compare(trainer):
    assert trainer.start_epoch == ckpt["epoch"] + 1, trainer.start_epoch
    assert trainer.best_fitness == ckpt["best_fitness"] and trainer.ema.updates == ckpt["updates"]
    saved, now = ckpt["ema"].float().state_dict(), trainer.ema.ema.state_dict()
    assert saved.keys() == now.keys() and all(torch.equal(saved[k], now[k]) for k in saved)
    gates = [k for k in now if k.endswith(".gate")]
    assert gates and all(now[k] != 0 for k in gates), gates
    old, new = ckpt["optimizer"]["state"], trainer.optimizer.state_dict()["state"]
    assert old.keys() == new.keys() and all(torch.equal(old[k]["exp_avg"], new[k]["exp_avg"]) for k in old)
    print("COMPARED", trainer.start_epoch, trainer.stopper.best_epoch)
yolo = YOLO("out/run/weights/last.pt")
yolo.add_callback("on_train_start", compare)
yolo.train(resume=True)
"""


def start(folder: Path, moment: str, env: dict[str, str]) -> subprocess.Popen:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "ULTRALYTICS_", "PYTEST_"))}
    code = TRAIN.format(moment=MOMENTS.get(moment, moment), epochs=EPOCHS)
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=clean | env, stdout=log, stderr=log)


def kill_when_ready(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 200
    while "READY" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def write_gated_model(folder: Path) -> None:
    from yolo_attn.host.model import yamls

    text = yamls.find_model("yolov8-cbam.yaml").read_text(encoding="utf-8")
    assert "CBAM, []" in text
    (folder / "gated.yaml").write_text(text.replace("CBAM, []", "CBAM, [{gate: true}]"), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
@pytest.mark.parametrize(
    ("moment", "epochs_done"),
    [
        ("in the middle of an epoch", 1),
        ("in the middle of writing a checkpoint", 1),
        ("in the middle of stripping a checkpoint", EPOCHS),
        ("in the final validation", EPOCHS),
    ],
)
def test_a_killed_training_resumes(moment: str, epochs_done: int, run, host_settings, tmp_path: Path) -> None:
    write_gated_model(tmp_path)
    kill_when_ready(start(tmp_path, moment, host_settings), tmp_path / "log.txt")
    folder = tmp_path / "out" / "run"
    weights = folder / "weights"
    last = torch.load(weights / "last.pt", map_location="cpu", weights_only=False)
    assert last["epoch"] == epochs_done - 1
    assert json.loads((folder / "run.json").read_text())["state"] == "running"

    if epochs_done < EPOCHS:
        assert f"COMPARED {epochs_done}" in run("python", "-c", RESUME).stdout
    else:
        done = run("yolo", "train", "resume", f"model={weights / 'last.pt'}")
        assert f"All {EPOCHS} epochs of" in done.stdout + done.stderr
    with (folder / "results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(epoch + 1) for epoch in range(EPOCHS)]
    record = json.loads((folder / "run.json").read_text())
    assert (record["state"], record["resumed_at"]) == ("finished", [epochs_done + 1])
    assert [row["epoch"] for row in record["epochs"]] == [1, 2, 3]
    for name in ("last.pt", "best.pt"):
        checkpoint = torch.load(weights / name, map_location="cpu", weights_only=False)
        assert checkpoint["epoch"] == -1 and checkpoint["optimizer"] is None
        assert checkpoint["model"].yaml["backbone"][-1][2] == "CBAM"
    assert sorted(file.name for file in weights.iterdir()) == ["best.pt", "last.pt"]
    assert "metrics/mAP50-95(B)" in record["metrics"]["ultralytics"] and "AP" in record["metrics"]["coco"]["bbox"]
    assert set(record["data"]["fingerprint"]) >= {"train", "val"}
