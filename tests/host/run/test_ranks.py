"""Two ranks on the CPU, as two machines with one device each: what multi-GPU workers do, without a GPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import yolo_attn
from yolo_attn.coco import shapes
from yolo_attn.errors import HostError
from yolo_attn.host.run import ranks

# The host's ranks are CUDA devices: a CPU rank differs from them in how the group starts, in the argument of DDP, and
# in the device of the last validation.
WORKER = """
import json, sys
import torch, torch.distributed as dist
from ultralytics import YOLO
from ultralytics.engine import validator
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOCAL_RANK, RANK

def setup(self):
    assert LOCAL_RANK == 0
    self.device = torch.device("cpu")
    dist.init_process_group("gloo", rank=RANK, world_size=self.world_size)

class OnCPU(torch.nn.parallel.DistributedDataParallel):
    def __init__(self, module, device_ids=None, **kwargs):
        super().__init__(module, **kwargs)

class Torch:
    def __getattr__(self, name):
        return getattr(torch, name)

    def device(self, *_):
        return torch.device("cpu")

validator.torch = Torch()
validator.get_torch_device_backend = lambda kind: torch.cpu
BaseTrainer._setup_ddp = setup
torch.nn.parallel.DistributedDataParallel = OnCPU
yolo = YOLO("yolov8n-cbam.yaml")
seen = []
yolo.add_callback("on_train_start", lambda t: seen.append([t.world_size, len(t.train_loader)]))
yolo.train(data=sys.argv[1], project=sys.argv[2], name="run", exist_ok=True, epochs=2, imgsz=64, batch=8, workers=0,
           device="cpu", plots=False, verbose=False)
weights = [p.detach().double().sum().item() for p in yolo.trainer.model.parameters()]
json.dump({"seen": seen, "weights": weights}, open(f"{sys.argv[2]}/rank{RANK}.json", "w"))
dist.destroy_process_group()
"""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_machines_train_one_model_and_report_once(tmp_path: Path, host_settings: dict[str, str]) -> None:
    if not _host_can():
        pytest.skip("this Ultralytics cannot train on several machines")
    data = _data(tmp_path)
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    runs = tmp_path / "runs"
    runs.mkdir()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "PYTEST_"))} | host_settings
    launch = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
        "--master_addr", "127.0.0.1", "--master_port", str(_free_port()),
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [*launch, "--node_rank", str(node), str(worker), str(data), str(runs)],
            cwd=tmp_path,
            env={**clean, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    first, second = (json.loads((runs / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["seen"] == second["seen"] == [[2, 4]]  # 32 images, 8 a step over both ranks
    assert first["weights"] == second["weights"]
    report = json.loads((runs / "run/coco_metrics.json").read_text())
    assert report["images"] == 12
    assert len((runs / "run/results.csv").read_text().splitlines()) == 3
    # Each rank predicts its half; the report holds both.
    images = {p["image_id"] for p in json.loads(Path(report["predictions"]["bbox"]).read_text())}
    truth = json.loads(Path(report["json"]).read_text())
    assert images == {image["id"] for image in truth["images"]}
    assert "Official COCO numbers" in said[0] and "Official COCO numbers" not in said[1]


def test_an_older_host_says_that_it_cannot(monkeypatch) -> None:
    class Trainer:
        def _setup_ddp(self) -> None:
            raise AssertionError

        def _do_train(self) -> str:
            return "trained"

    train = ranks.do_train_joint(Trainer._do_train)
    assert train(Trainer()) == "trained"
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HostError, match="4 ranks, 2 of them on this machine"):
        train(Trainer())
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train(Trainer()) == "trained"


def _host_can() -> bool:
    yolo_attn.install()
    from ultralytics.engine.trainer import BaseTrainer

    return "LOCAL_RANK" in BaseTrainer._setup_ddp.__code__.co_names


def _data(folder: Path) -> Path:
    shapes.write_shapes(folder / "data", {"train": 32, "val": 12})
    file = folder / "data/data.yaml"
    file.write_text(
        "train: annotations/train.json\nval: annotations/val.json\nimages: {train: images/train, val: images/val}\n"
    )
    return file
