"""Every command that a page shows is run, from a folder that is not the checkout, or names the test that runs it.

Commands run as they are shown, with a few words appended that make them small: the last word of a key wins.
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

import pytest
import yaml
from PIL import Image
from shown_commands import PAGES, ROOT, blocks, commands

from yolo_attn.coco import shapes

COCO = ROOT / "docs/coco.md"
LAYERS = ROOT / "docs/layers.md"
SMALL = "imgsz=64 batch=4 workers=0 plots=False"
TINY = f"epochs=1 amp=False {SMALL}"
BENCHMARK = "--layers SE --levels P5 --rounds 1 --no-layers -o out"

# command -> words that make it small, and what it prints
FAST = {
    "yolo train model=yolov8n-coordatt.yaml data=my.yaml": (TINY, "Official COCO numbers (bbox)"),
    "yolo train model=yolov8n-cbam.yaml pretrained=yolov8n.pt data=coco8.yaml": (TINY, "new: 10 CBAM (starts as the"),
    "yolo predict model=runs/detect/demo/weights/best.pt source=image.jpg": ("imgsz=64", "image 1/1"),
    "yolo-attn graft yolo11n.yaml --layer CoordAtt --at neck --layer SE --at 4 -o my-yolo11n.yaml": ("", "GFLOPs"),
    "yolo-attn graft yolo11n.yaml --layer ECA --at backbone-blocks --layer CBAM --at neck -o my-yolo11n.yaml": (
        "",
        "3 rows inserted, 24 kept, 4 of them with attention inside",
    ),
    "yolo-attn check yolov8n-cbam-neck.yaml --strict": ("", "nothing is wrong with its wiring"),
    "yolo-attn doctor": ("", "All is well."),
    "yolo-attn layers": ("", "[-1, 1, CBAM, ["),
    "yolo-attn runs runs": ("", "detect/train"),
    "yolo-attn verify best.pt": ("--formats torchscript --imgsz 64 --source images", "same"),
}
SLOW = {
    "yolo train model=yolo11s-cbam.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.cbam.CBAM"),
    "yolo train model=yolov8n-cbam-stages.yaml pretrained=yolov8n.pt freeze=backbone data=coco8.yaml":
        (TINY, "freeze=backbone counts rows of the base"),
    "yolo train model=yolov8n-caa-stages.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.caa.CAA"),
    "yolo train model=yolo12n-se-neck.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.se.SE"),
    "yolo train model=yolov8n-se-neck-p3.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.se.SE"),
    "yolo train model=yolov8n-cbam-blocks.yaml data=coco8.yaml": (TINY, "{'attention': 'CBAM'}"),
    "yolo train model=yolov8n-coordatt-neck-blocks.yaml pretrained=yolov8n.pt data=coco8.yaml":
        (TINY, "CoordAtt inside 12 C2f, 15 C2f, 18 C2f, 21 C2f (starts as the identity)"),
    "yolo train model=yolo26n-seg-biformer-neck.yaml data=coco8-seg.yaml": (TINY, "yolo_attn.layers.biformer.BiFormer"),
    "yolo train model=yolo12n-obb-caa-stages.yaml data=dota8.yaml": (TINY, "yolo_attn.layers.caa.CAA"),
    "yolo train model=yolov8n-cbam.yaml data=your.yaml pretrained=yolov8n.pt": (TINY, "new: 10 CBAM (starts as the"),
    "yolo train model=yolov8n-coordatt.yaml data=my.yaml imgsz=640 epochs=100": (TINY, "numbers (bbox)"),
    "yolo train model=yolov8n-seg-cbam.yaml data=my.yaml": (TINY, "Official COCO numbers (segm)"),
    "yolo train model=yolo11n-pose-caa.yaml data=my.yaml": (TINY, "Official COCO numbers (keypoints)"),
    "yolo val model=runs/detect/train/weights/best.pt data=my.yaml": (SMALL, "Official COCO numbers (bbox)"),
    "yolo val model=runs/detect/train/weights/best.pt data=my.yaml split=test": (SMALL, "predictions.json"),
    "yolo-attn graft yolo11n.yaml --layer CoordAtt --at neck --layer SE --at 4 --args '[]' --args '{reduction: 8}'"
    " -o my-yolo11n.yaml": ("", "GFLOPs"),
    "yolo-attn runs runs --csv runs.csv --markdown runs.md --latex runs.tex": ("", "detect/train"),
    "yolo train cfg=runs/detect/train/args.yaml save_dir=again": (TINY, "Results saved to"),
    "yolo-attn runs DIR": ("", "detect/train"),
    "python scripts/train.py --model yolov8n-coordatt.yaml --train-json a.json --train-images images --val-json b.json"
    " epochs=100": (f"--val-images images {TINY}", '"bbox"'),
    "python scripts/val.py --weights best.pt --val-json b.json": (f"--val-images images {SMALL}", '"bbox"'),
    "python scripts/transfer_table.py": ("--families yolov8n --places backbone --others SE --out out", "'ours': 355"),
    "python scripts/transfer_study.py --data DIR": (
        "--layers SE --places backbone --seeds 0 --imgsz 64 --base-epochs 1 --epochs 1 --out out --work work", ""
    ),
    "python scripts/speed_study.py --data DIR": (
        "--models yolov8n.yaml --rounds 1 --epochs 2 --imgsz 64 --batch 4 --workers 0 --out out", "images/s"
    ),
    "python scripts/benchmark.py --against DIR --whole --start": (BENCHMARK, "| `yolo version` |"),
    "yolo-attn verify best.pt --formats onnx,openvino --imgsz 640,480x640 --dynamic": (
        "--imgsz 64,32x64 --source images", "64x64, 32x64"
    ),
    "yolo-attn verify best.pt --formats onnx --half --source my-images --export opset=17": (
        "--imgsz 64 --source images", "same"
    ),
    "python scripts/fast_forms.py": (
        "--forms caa.box_mean --rounds 2 --threads 1 --no-steps -o out", "| `caa.box_mean` |"
    ),
}  # fmt: skip
ELSEWHERE = {
    "export YOLO_ATTN_LAYERS=layers.py:MyAttention": "tests/host/test_own_layers.py::test_what_the_page_shows_works",
    "yolo-attn check layers.py:MyAttention": "tests/host/test_own_layers.py::test_what_the_page_shows_works",
    "yolo train model=yolov8n-myattention.yaml data=my.yaml":
        "tests/host/test_own_layers.py::test_what_the_page_shows_works",
    "yolo-attn demo": "tests/host/run/test_demo.py::test_it_trains_as_it_says_and_leaves_an_earlier_run_alone",
    "yolo-attn demo model=yolov8n.yaml":
        "tests/host/run/test_demo.py::test_it_trains_as_it_says_and_leaves_an_earlier_run_alone",
    "yolo version": "tests/experiments/test_benchmark_host.py::test_the_start_is_measured_with_and_without_the_hook",
    "yolo-attn convert old.pt -o new.pt":
        "tests/host/model/test_convert_command.py::test_the_stock_command_predicts_validates_exports_and_trains",
    "yolo val model=new.pt data=my.yaml":
        "tests/host/model/test_convert_command.py::test_the_stock_command_predicts_validates_exports_and_trains",
    "yolo-attn convert old.pt -o new.pt --as MyAttention=Polarized":
        "tests/host/model/test_convert_command.py::test_the_command_asks_and_is_answered",
    "yolo-attn convert old.pt -o new.pt --model my.yaml":
        "tests/host/model/test_convert.py::test_a_model_yaml_may_say_what_the_rows_are",
    "yolo-attn strip best.pt":
        "tests/host/model/test_surgery.py::test_strip_gives_back_the_plain_model_and_refuses_where_gates_are_open",
    "yolo train model=yolov8n-cbam.yaml data=my.yaml device=0,1":
        "tests/host/test_command.py::test_the_generated_multi_gpu_worker_knows_the_layers",
    "torchrun --nnodes 2 --node_rank 0 --nproc_per_node 4 --master_addr 10.0.0.1 --master_port 29500 --no-python "
    "yolo train model=yolov8n-cbam.yaml data=my.yaml device=0,1,2,3 batch=256 name=both exist_ok=True":
        "tests/host/run/test_ranks.py::test_two_machines_train_one_model_and_report_once",
    "pip install 'yolo-attn[ray]'": "tests/study/test_ray_driver.py::test_without_ray_it_says_what_to_install",
    "ray start --head": "tests/study/test_ray.py::test_a_cluster_that_is_running_is_used",
    "yolo-attn study data=my.yaml model=yolov8n layers=cbam,coordatt seeds=3 epochs=100 backend=ray workers=8 device=0":
        "tests/study/test_ray.py::test_a_study_on_ray_has_the_numbers_of_one_without",
    "yolo train resume model=runs/detect/train/weights/last.pt":
        "tests/host/run/test_guard.py::test_a_killed_training_resumes",
    "pip uninstall yolo-attn": "tests/test_packaging.py::test_install_and_uninstall_leave_no_trace",
    "python scripts/experiments/gpu.py":
        "tests/experiments/test_gpu.py::test_all_parts_run_through_with_tiny_settings",
    "python scripts/versions.py": "tests/experiments/test_version_matrix.py::test_the_newest_combination_works",
    "python scripts/canary.py": "tests/experiments/test_canary.py::test_the_command_compares_and_records",
    "python scripts/experiments/export_matrix.py --base best.pt --work DIR":
        "tests/experiments/test_export.py::test_the_matrix_is_measured_and_resumed",
    "python scripts/make_cfg.py": "tests/host/model/test_surgery.py::test_drop_ins_and_names_agree",
    "python scripts/make_docs.py": "tests/test_docs.py::test_generated_parts_are_those_of_the_registry_and_the_results",
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/yolo-attn demo":
        "tests/host/run/test_demo.py::test_the_main_command_convinces",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n 2":
        "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
    # These run the tests themselves: CI does.
    "bash .ci/run": "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
    "pip install -e '.[test,lint]'": "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
    "python -m pytest": "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
}  # fmt: skip
PYTHON = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), "python")]


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
    yield tmp_path


@pytest.mark.parametrize("command", FAST)
def test_it_runs(command: str, workshop: Path, host_settings: dict[str, str]) -> None:
    extra, said = FAST[command]
    assert said in _call(workshop, host_settings, *shlex.split(command), *shlex.split(extra))


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_it_runs_too(command: str, workshop: Path, host_settings: dict[str, str]) -> None:
    extra, said = SLOW[command]
    assert said in _call(workshop, host_settings, *shlex.split(command), *shlex.split(extra))


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
    for name in ("my", "your", "coco8", "coco8-seg"):
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
