"""``yolo-attn demo``: an ordinary training that says how good it is and draws what it found."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from yolo_attn.cli import main
from yolo_attn.coco import shapes
from yolo_attn.errors import DataError
from yolo_attn.host.run import demo

ROOT = Path(__file__).parents[3]


def test_it_trains_as_it_says_and_leaves_an_earlier_run_alone(run, tmp_path: Path, host_settings) -> None:
    earlier = tmp_path / "runs/detect/demo/mine.txt"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("mine")
    said = run("yolo-attn", "demo", "epochs=1", "imgsz=64", "batch=16", "nbs=16", "workers=0", "fraction=0.2").stdout
    (command,) = re.findall(r"^  (yolo train .*)$", said, re.M)
    score, picture, use, own = said.splitlines()[-4:]
    assert re.fullmatch(r"mAP50 \d\.\d\d, mAP50-95 \d\.\d\d on 60 images it was not trained on\.", score)
    folder = tmp_path / Path(picture.partition(": ")[2].strip()).parent
    assert folder.parent == earlier.parents[1] and folder != earlier.parent
    assert [path.name for path in earlier.parent.iterdir()] == ["mine.txt"]
    assert f"model={folder.relative_to(tmp_path)}/weights/best.pt" in use
    assert own.endswith("yolo train model=yolov8n-cbam.yaml data=your.yaml pretrained=yolov8n.pt")
    used = yaml.safe_load((folder / "args.yaml").read_text())
    for word in command.split()[2:]:
        key, _, value = word.partition("=")
        assert used[key] == yaml.safe_load(value) or key in ("data", "name"), key
    drawn = np.asarray(Image.open(folder / demo.PICTURE)).astype(int)
    assert drawn.shape == (976, 1304, 3)
    images = sorted(
        (Path(host_settings["YOLO_ATTN_CACHE"]) / f"yolo-attn/shapes-v{shapes.VERSION}/images/val").iterdir()
    )
    for number, (y, x) in enumerate([(0, 0), (0, 328)]):
        truth = np.asarray(Image.open(images[number])).astype(int)
        tile = drawn[y : y + truth.shape[0], x : x + truth.shape[1]]
        assert np.median(abs(tile - truth)) < 16, "the picture shows the validation images"


def test_predictions_are_drawn_where_the_model_finds_them(tmp_path: Path, monkeypatch, installed) -> None:
    from ultralytics import YOLO
    from ultralytics.engine.results import Results

    class Predictor:
        def __init__(self, weights: str) -> None:
            assert weights == "best.pt"

        def predict(self, sources: list[str], **arguments: object) -> list[Results]:
            assert arguments["imgsz"] == 96
            grey = np.full((100, 120, 3), 128, np.uint8)
            box = np.array([[20, 30, 80, 90, 0.9, 0]], np.float32)
            import torch

            return [Results(grey, source, {0: "circle"}, boxes=torch.from_numpy(box)) for source in sources]

    assert YOLO
    monkeypatch.setattr("ultralytics.YOLO", Predictor)
    path = demo.draw_predictions("best.pt", [tmp_path / f"{n}.png" for n in range(20)], tmp_path / "p.jpg", 96)
    drawn = np.asarray(Image.open(path)).astype(int)
    for y, x in ((0, 0), (656, 984)):
        edge = drawn[y + 60, x + 15 : x + 26]
        assert abs(edge - 128).max() > 60 and abs(drawn[y + 60, x + 50] - 128).max() < 12


def test_other_data_and_unknown_settings_are_refused(capsys: pytest.CaptureFixture[str], installed) -> None:
    with pytest.raises(DataError, match=r"for other data: yolo train data=coco8\.yaml"):
        demo.run(["data=coco8.yaml"])
    assert main(["demo", "epoch=3"]) == 1
    assert "epoch" in capsys.readouterr().err
    assert main(["demo", "epochs"]) == 1
    assert "'epochs' is not key=value" in capsys.readouterr().err
    assert main(["demo", "epochs=ten"]) == 1
    assert "'epochs=ten' is of invalid type str" in capsys.readouterr().err


@pytest.mark.slow
def test_the_main_command_convinces(tmp_path: Path, host_settings: dict[str, str]) -> None:
    """README's first command, word for word in a copy of the checkout: mAP50 of 0.8 in four minutes of two cores."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "runs", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    readme = (source / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python3 -m venv .* demo$", readme, re.M)
    install, _, show = command.rpartition(" && ")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "PYTEST_", "PYTHONPATH"))}
    settings = {k: v for k, v in host_settings.items() if k != "OMP_NUM_THREADS"}
    subprocess.run(["bash", "-c", install], cwd=source, check=True, stdout=subprocess.DEVNULL, env=clean)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(["bash", "-c", show], cwd=source, env=clean | settings, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    score, picture = done.stdout.splitlines()[-4:-2]
    assert float(score.split()[1].rstrip(",")) >= 0.8
    assert (source / picture.partition(": ")[2].strip()).is_file()
    assert (after.ru_utime - before.ru_utime) / 2 < 240
