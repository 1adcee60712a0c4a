"""Every command that a page shows is run, from a folder that is not the checkout, or names the test that runs it.

``commands_shown.py`` has the commands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_study
import pytest
import yaml
from commands_shown import ELSEWHERE, FAST, SLOW, TINY
from PIL import Image
from shown_commands import PAGES, ROOT, blocks, commands

from yolo_attn.coco import shapes

COCO = ROOT / "docs/coco.md"
LAYERS = ROOT / "docs/layers.md"
STUDY = ROOT / "docs/study.md"
PYTHON = list(dict.fromkeys(b for page in PAGES for b in blocks(page.read_text(encoding="utf-8"), "python")))


def test_every_command_shown_has_a_test() -> None:
    pages = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
    shown = set().union(*(commands(page.read_text(encoding="utf-8")) for page in pages))
    known = {*FAST, *SLOW, *ELSEWHERE}
    # `yolo train` in the middle of a sentence is the name of a command and no command.
    named = {command for command in shown if any(longer.startswith(f"{command} ") for longer in known)}
    assert shown - known - named == set(), "each needs a row in this file"
    assert known - shown == set(), "no page shows these"


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_the_tests_named_are_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, host_settings: dict[str, str]) -> Path:
    """The folder of a run of yolov8n-cbam."""
    folder = tmp_path_factory.mktemp("model")
    _write_data(folder)
    words = f"train model=yolov8n-cbam.yaml data=my.yaml {TINY}"
    _call(folder, host_settings, "yolo", *words.split())
    return folder / "runs/detect/train"


@pytest.fixture
def workshop(tmp_path: Path, model: Path) -> Iterator[Path]:
    """A folder with all that the commands name: data under every name, weights, a picture, the scripts."""
    _write_data(tmp_path)
    for run in ("train", "demo"):
        shutil.copytree(model, tmp_path / "runs/detect" / run)
    shutil.copy(model / "weights/best.pt", tmp_path / "best.pt")
    shutil.copytree(tmp_path / "runs", tmp_path / "DIR/runs")
    _write_base(tmp_path / "yolov8n.pt")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (study,) = blocks(STUDY.read_text(encoding="utf-8"), "yaml")
    (tmp_path / "my-study.yaml").write_text(study)
    made_study.make(tmp_path / "runs/study/my")
    yield tmp_path


@pytest.mark.parametrize("command", FAST)
def test_it_runs(command: str, workshop: Path, host_settings: dict[str, str]) -> None:
    extra, said = FAST[command]
    assert said in _call(workshop, host_settings, *_smaller(command, extra))


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_it_runs_too(command: str, workshop: Path, host_settings: dict[str, str]) -> None:
    extra, said = SLOW[command]
    assert said in _call(workshop, host_settings, *_smaller(command, extra))


@pytest.mark.parametrize(
    "code", [pytest.param(b, marks=pytest.mark.slow if ".train(" in b else ()) for b in PYTHON], ids=range(len(PYTHON))
)
def test_python_blocks_run(code: str, tmp_path: Path, host_settings: dict[str, str]) -> None:
    code = code.replace("epochs=3, imgsz=320", "epochs=1, imgsz=32, fraction=0.1, workers=0, plots=False")
    if "onnxslim" in code:
        pytest.importorskip("onnxslim")
    (tmp_path / "shown.py").write_text(code, encoding="utf-8")
    _call(tmp_path, host_settings, "python", "shown.py")


def test_rows_build(tmp_path: Path, installed) -> None:
    shown = [b for b in blocks(LAYERS.read_text(encoding="utf-8"), "yaml") if b.startswith("- [")]
    (rows,) = [b for b in shown if "reads the row before" in b]
    assert len(shown) == 3
    before = [[-1, 1, "Conv", [16 + 8 * number, 3, 2 if number < 3 else 1]] for number in range(8)]
    content = {"nc": 2, "backbone": before + yaml.safe_load(rows), "head": [[[-1], 1, "Detect", ["nc"]]]}
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(content))
    from ultralytics.nn.tasks import DetectionModel

    built = DetectionModel(str(tmp_path / "rows.yaml"), verbose=False).model[8:11]
    assert [layer.type.rpartition(".")[2] for layer in built[:2]] == ["CBAM", "CBAM"]
    assert len(built[2]) == 2
    for others in shown:
        every = {**content, "backbone": before + yaml.safe_load(others)}
        assert len(DetectionModel(every, verbose=False).model) == 8 + len(yaml.safe_load(others)) + 1


def test_what_stock_ultralytics_says_is_what_the_readme_says(tmp_path: Path, host_settings: dict[str, str]) -> None:
    """The rows of the table "What changes" that have no record: each fails without the hook and trains with it."""
    _write_data(tmp_path)
    rows = {
        "nc": 2,
        "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "CBAM", []]],
        "head": [[[-1], 1, "Detect", ["nc"]]],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(rows))
    described = yaml.safe_load((tmp_path / "my.yaml").read_text())
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(described | {"names": dict(enumerate("cst"))}))
    stock = {"YOLO_ATTN_AUTOLOAD": "0"}
    for model, data, error in (
        ("mine.yaml", "my.yaml", "KeyError: 'CBAM'"),
        ("yolo11s-coordatt-neck.yaml", "my.yaml", "FileNotFoundError"),
        ("yolov8n.yaml", "named.yaml", "FileNotFoundError"),
    ):
        code = f"from ultralytics import YOLO\nm = YOLO({model!r})\n"
        code += f"m.train(data={data!r}, epochs=1, imgsz=64, batch=4, workers=0)" if "8n" in model else ""
        assert error in _call(tmp_path, host_settings | stock, "python", "-c", code, ok=False)
        _call(tmp_path, host_settings, "python", "-c", f"from ultralytics import YOLO\nYOLO({model!r})")


def _smaller(command: str, extra: str) -> list[str]:
    """Return the words of a command; ``extra`` comes last, and nothing is given twice."""
    more = shlex.split(extra)
    keys = {word.partition("=")[0] for word in more if "=" in word}
    return [word for word in shlex.split(command) if word.partition("=")[0] not in keys] + more


def _call(folder: Path, settings: dict[str, str], program: str, *words: str, ok: bool = True) -> str:
    path = {"python": sys.executable}.get(program, str(Path(sys.executable).with_name(program)))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "ULTRALYTICS_", "PYTEST_"))}
    done = subprocess.run(
        [path, *words], cwd=folder, env=clean | settings, capture_output=True, text=True, timeout=600
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, said
    return said


def _write_data(folder: Path) -> None:
    """Write the demo set with masks and keypoints, and a YAML under each name; oriented boxes for ``dota8.yaml``."""
    shapes.write_shapes(folder / "data/mine", {"train": 8, "val": 4})
    data = folder / "data/mine"
    for split in ("train", "val"):
        path = data / "annotations" / f"{split}.json"
        document = json.loads(path.read_text())
        for category in document["categories"]:
            category["keypoints"] = ["top-left", "bottom-right"]
        for note in document["annotations"]:
            x, y, w, h = note["bbox"]
            note["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            note |= {"keypoints": [x, y, 2, x + w, y + h, 2], "num_keypoints": 2}
        path.write_text(json.dumps(document))
        (folder / "DIR/annotations").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "DIR/annotations" / f"instances_{split}.json")
        shutil.copy(path, folder / {"train": "a.json", "val": "b.json"}[split])
        shutil.copytree(data / "images" / split, folder / "DIR/images" / split)
        _write_oriented(folder / "dota" / split, data / "images" / split, document)
    shutil.copytree(data / "images/val", data / "images/test")
    shutil.copytree(data / "images/train", folder / "images")
    for number, image in enumerate(sorted((data / "images/val").iterdir())):
        shutil.copy(image, folder / "images" / f"val{number}.png")
    (data / "image_info_test.json").write_text(json.dumps({k: document[k] for k in ("images", "categories")}))
    validation = json.loads((folder / "b.json").read_text())
    for number, image in enumerate(validation["images"]):
        image["file_name"] = f"val{number}.png"
    (folder / "b.json").write_text(json.dumps(validation))
    (description,) = blocks(COCO.read_text(encoding="utf-8"), "yaml")
    for name in ("my", "your", "bccd", "neu", "coco8", "coco8-seg"):
        (folder / f"{name}.yaml").write_text(description.replace("/data/mine", str(data)))
    oriented = {
        "path": str(folder / "dota"),
        "train": "train/images",
        "val": "val/images",
        "names": dict(enumerate("cst")),
    }
    (folder / "dota8.yaml").write_text(yaml.safe_dump(oriented))
    (folder / "DIR/gates.py").write_text("from torch import nn\n\n\nclass SEAttention(nn.Identity):\n    pass\n")
    Image.open(data / "images/val/000000.png").save(folder / "image.jpg")


def _write_oriented(folder: Path, images: Path, document: dict[str, Any]) -> None:
    shutil.copytree(images, folder / "images")
    (folder / "labels").mkdir()
    number_of = {category["id"]: number for number, category in enumerate(document["categories"])}
    for image in document["images"]:
        lines = []
        for note in document["annotations"]:
            if note["image_id"] == image["id"]:
                (x, y, w, h), (width, height) = note["bbox"], (image["width"], image["height"])
                corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
                flat = (str(value) for px, py in corners for value in (px / width, py / height))
                lines.append(f"{number_of[note['category_id']]} {' '.join(flat)}")
        (folder / "labels" / Path(image["file_name"]).with_suffix(".txt").name).write_text("\n".join(lines))


def _write_base(path: Path) -> None:
    """Write a yolov8n with random weights, as the pretrained one would lie there."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    base = DetectionModel("yolov8n.yaml", nc=80, verbose=False).half()
    torch.save({"model": base, "epoch": -1, "train_args": {}}, path)
