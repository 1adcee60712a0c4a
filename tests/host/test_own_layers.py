"""Own layers in the ``yolo`` command, in workers and in checkpoints: real processes, in folders of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plugs import write_file, write_package
from shown_commands import ROOT, blocks

tasks = pytest.importorskip("ultralytics.nn.tasks")
TRAIN = ("data=shapes.yaml", "epochs=1", "imgsz=64", "batch=16", "fraction=0.2", "workers=0", "plots=False")
SAID = "set YOLO_ATTN_LAYERS=<folder>/layers.py:MyAttention"
TYPE = "print(type(YOLO({!r}).model.model[10]))"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, host_settings: dict[str, str]) -> Path:
    """A folder with ``layers.py`` and a checkpoint that the ``yolo`` command trained, told by a relative path."""
    folder = tmp_path_factory.mktemp("own")
    write_file(folder / "mine/layers.py")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "YOLO_"))}
    done = subprocess.run(
        [Path(sys.executable).with_name("yolo"), "train", "model=yolov8n-myattention.yaml", *TRAIN,
         f"project={folder}", "name=run"],
        cwd=folder, env=clean | host_settings | {"YOLO_ATTN_LAYERS": "mine/layers.py:MyAttention"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "yolo_attn.own.layers.MyAttention" in done.stdout + done.stderr
    return folder


def setting(folder: Path) -> str:
    return f"{folder / 'mine/layers.py'}:MyAttention"


def test_a_checkpoint_is_opened_from_any_folder_that_knows_the_file(trained: Path, run) -> None:
    best = str(trained / "run/weights/best.pt")
    done = run("yolo", "val", f"model={best}", "data=shapes.yaml", "imgsz=64", "workers=0", "plots=False",
               YOLO_ATTN_LAYERS=setting(trained))  # fmt: skip
    assert "Results saved" in done.stdout + done.stderr
    code = (
        f"import torch; layer = torch.load({best!r}, weights_only=False)['model'].model[10]\n"
        "from yolo_attn import registry; print(registry.is_layer(type(layer)), layer.type)"
    )
    for autoload in ("0", "1"):
        known = run("python", "-c", code, YOLO_ATTN_LAYERS=setting(trained), YOLO_ATTN_AUTOLOAD=autoload)
        assert "True yolo_attn.own.layers.MyAttention" in known.stdout


def test_without_the_setting_the_checkpoint_says_what_to_set(trained: Path, run) -> None:
    best = trained / "run/weights/best.pt"
    said = run("yolo", "val", f"model={best}", "data=shapes.yaml", "imgsz=64", "workers=0", ok=False).stderr
    assert said.strip().splitlines()[-1].startswith("error: yolo_attn.own.layers.MyAttention is not here")
    assert SAID in said.strip().splitlines()[-1] and "pip install" not in said
    code = f"import torch; torch.load({str(best)!r}, weights_only=False)"
    assert "layers.py, which this process does not know" in run("python", "-c", code, ok=False).stderr
    for verb in ("strip", "convert"):
        lost = run("yolo-attn", verb, str(best), "-o", str(trained / "new.pt"), ok=False).stderr
        assert SAID.removesuffix("MyAttention") in lost and "pasted" not in lost and "Traceback" not in lost
    write_file(trained / "empty/layers.py", "Another")
    other = f"{trained / 'empty/layers.py'}:Another"
    said = run("yolo", "val", f"model={best}", "data=shapes.yaml", ok=False, YOLO_ATTN_LAYERS=other).stderr
    assert "MyAttention is no longer in" in said


def test_restricted_loading_allows_the_layers_of_the_setting_alone(trained: Path, run) -> None:
    if not getattr(getattr(tasks, "_SafeLoad", None), "SUPPORTED", False):
        pytest.skip("this Ultralytics cannot restrict loading")
    code = f"from ultralytics import YOLO; {TYPE.format(str(trained / 'run/weights/best.pt'))}"
    done = run("python", "-c", code, ULTRALYTICS_SAFE_LOAD="1", YOLO_ATTN_LAYERS=setting(trained))
    assert "yolo_attn.own.layers.MyAttention" in done.stdout
    refused = run("python", "-c", code, ok=False, ULTRALYTICS_SAFE_LOAD="1").stderr.splitlines()[-1]
    assert "best.pt is not opened" in refused and SAID in refused


def test_workers_and_children_elsewhere_know_the_layer(run, tmp_path: Path) -> None:
    # The host starts one process per GPU from a file it writes; it is run here as a single CPU process, in another
    # folder than the one that the relative path was given in.
    write_file(tmp_path / "layers.py")
    arguments = ", ".join(TRAIN).replace("shapes.yaml", "'shapes.yaml'")
    code = f"""
import os, subprocess, sys
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.dist import generate_ddp_file
from ultralytics import YOLO
YOLO("yolov8n-myattention.yaml")
here = os.getcwd()
arguments = dict({arguments}, model="yolov8n-myattention.yaml", device="cpu", project=here + "/out", name="ddp")
worker = generate_ddp_file(DetectionTrainer(overrides=arguments))
os.makedirs("elsewhere")
done = subprocess.run([sys.executable, worker], cwd="elsewhere", capture_output=True, text=True)
print(done.stdout, done.stderr, "ENDED", done.returncode)
os.unlink(worker)
"""
    done = run("python", "-c", code, YOLO_ATTN_LAYERS="layers.py:MyAttention")
    assert "yolo_attn.own.layers.MyAttention" in done.stdout and "ENDED 0" in done.stdout
    assert (tmp_path / "out/ddp/weights/best.pt").is_file()


def test_a_module_works_as_a_file_does(run, tmp_path: Path) -> None:
    write_file(tmp_path / "lib/mine/layers.py")
    (tmp_path / "lib/mine/__init__.py").touch()
    code = f"from ultralytics import YOLO; {TYPE.format('yolov8n-myattention-neck-p5.yaml').replace('10', '22')}"
    env = {"YOLO_ATTN_LAYERS": "mine.layers:MyAttention"}
    assert "mine.layers.MyAttention" in run("python", "-c", code, PYTHONPATH=str(tmp_path / "lib"), **env).stdout
    said = run("yolo", "val", "model=yolov8n-myattention.yaml", ok=False, **env).stderr.strip().splitlines()[-1]
    assert (
        said.startswith("error: MyAttention of mine.layers (YOLO_ATTN_LAYERS) cannot be used") and "PYTHONPATH" in said
    )


ROWS = """
from ultralytics import YOLO
from ultralytics.nn import tasks
YOLO("yolov8n.yaml"); YOLO("yolov8n-cbam.yaml"); print("BUILT", hasattr(tasks, "Mine"))
model = YOLO("yolov8n-{}.yaml").model; print("TYPE", type(model.model[10]).__module__, tasks.{})
"""


def test_a_package_offers_layers_and_its_faults_stop_no_other_model(run, tmp_path: Path) -> None:
    points = {
        "Mine": "pack_a.api:Mine",
        "Broken": "pack_a.nowhere:X",
        "Conv": "pack_a.api:Mine",
        "CBAM": "pack_a.api:Mine",
    }
    env = {"PYTHONPATH": str(write_package(tmp_path / "site", "pack_a", points, "Mine"))}
    done = run("python", "-c", ROWS.format("mine", "Mine"), **env)
    before, _, after = done.stdout.partition("BUILT False")
    assert "IMPORTED" not in before and "TYPE pack_a.impl" in after
    said = done.stdout + done.stderr
    assert said.count("Conv of pack_a 1.2 cannot be used: Ultralytics (class Conv from") == 1
    assert said.count("CBAM is yolo-attn's CBAM. CBAM of pack_a 1.2 cannot be used") == 1
    refused = run("python", "-c", ROWS.format("broken", "Broken"), ok=False, **env).stderr.splitlines()[-1]
    assert "Broken of pack_a 1.2 cannot be used, for pack_a.nowhere cannot be imported" in refused
    sick = run("yolo-attn", "doctor", ok=False, **env).stdout
    assert "own layers   Mine (pack_a 1.2)\n" in sick
    assert all(f"WRONG        {name} of pack_a 1.2 cannot be used" in sick for name in ("Broken", "Conv", "CBAM"))
    listed = run("yolo-attn", "layers", **env).stdout
    assert "- [-1, 1, Mine, []]\n  # defaults: {kernel_size: 3}\n  # from pack_a 1.2" in listed
    assert "# Broken of pack_a 1.2 cannot be used" in listed and "# CBAM of pack_a 1.2 cannot be used" in listed


def test_a_layer_whose_name_is_taken_or_that_has_none_says_so_where_it_is_asked_for(run, tmp_path: Path) -> None:
    write_file(tmp_path / "layers.py", "Neck")
    for text, model, said in (
        ("nowhere.py:Mine", "yolov8n-mine.yaml", "Mine of {}/nowhere.py cannot be used: there is no such file"),
        ("layers.py", "yolov8n-mine.yaml", "YOLO_ATTN_LAYERS: 'layers.py' names no class"),
    ):
        last = run("yolo", "val", f"model={model}", ok=False, YOLO_ATTN_LAYERS=text).stderr.strip().splitlines()[-1]
        assert last.startswith(f"error: '{model}' does not exist") and said.format(tmp_path) in last


def test_a_program_that_put_its_class_into_the_host_keeps_it(run, tmp_path: Path) -> None:
    write_file(tmp_path / "layers.py")
    code = (
        "import ultralytics.nn.tasks as t, torch\nfrom ultralytics import YOLO\n"
        "class MyAttention(torch.nn.Identity):\n    pass\n"
        "t.MyAttention = MyAttention\n"
        "from yolo_attn import registry; print(registry.problems()); YOLO('yolov8n-cbam.yaml'); print('built')\n"
        "assert t.MyAttention is MyAttention"
    )
    done = run("python", "-c", code, YOLO_ATTN_LAYERS="layers.py:MyAttention")
    assert "built" in done.stdout and "class MyAttention from __main__" in done.stdout


def test_the_layer_is_ours_in_every_way(run, tmp_path: Path) -> None:
    write_file(tmp_path / "layers.py")
    code = (
        "from ultralytics import YOLO; from yolo_attn.host.model import ours\n"
        "from ultralytics.nn.tasks import DetectionModel\n"
        "model = DetectionModel('yolov8n-myattention-stages.yaml')\n"
        "model.load(DetectionModel('yolov8n.yaml', verbose=False)); import yolo_attn, ultralytics.nn.tasks as t\n"
        "print([(d['name'], d['place'], d['gated']) for d in ours.describe_layers(model)])\n"
        "yolo_attn.uninstall(); print(hasattr(t, 'MyAttention'))\n"
    )
    done = run("python", "-c", code, YOLO_ATTN_LAYERS="layers.py:MyAttention")
    assert "[('MyAttention', 'backbone-p2', True), ('MyAttention', 'backbone-p3', True)" in done.stdout
    assert "Transferred 355/355" in done.stdout + done.stderr and done.stdout.strip().endswith("False")


def test_what_the_page_shows_works(run, tmp_path: Path) -> None:
    page = (ROOT / "docs/own-layer.md").read_text(encoding="utf-8")
    (layer,) = [block for block in blocks(page, "python") if "class MyAttention" in block]
    (shown,) = [block for block in blocks(page, "bash") if "myattention" in block]
    (tmp_path / "layers.py").write_text(layer)
    check, export, train = shown.splitlines()
    assert "MyAttention: fit for rows" in run(*check.split()).stdout
    name, _, value = export.removeprefix("export ").partition("=")
    done = run(*train.replace("data=my.yaml", " ".join(TRAIN)).split(), **{name: value})
    assert "yolo_attn.own.layers.MyAttention" in done.stdout + done.stderr
