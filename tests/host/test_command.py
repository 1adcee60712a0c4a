"""The real ``yolo`` command and fresh interpreters, from a folder that is not the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import yolo_attn
from yolo_attn.host.model import yamls

TRAIN = ("data=shapes.yaml", "epochs=1", "imgsz=64", "batch=16", "fraction=0.2", "workers=0", "plots=False")
PACKAGE = Path(yolo_attn.__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, host_settings: dict[str, str]) -> Path:
    """A checkpoint of yolov8n-cbam that the ``yolo`` command trained in a folder of its own."""
    folder = tmp_path_factory.mktemp("train")
    yolo = Path(sys.executable).with_name("yolo")
    done = subprocess.run(
        [yolo, "train", "model=yolov8n-cbam.yaml", *TRAIN, f"project={folder}", "name=run"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | host_settings,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "yolo_attn.layers.cbam.CBAM" in done.stdout + done.stderr
    return folder / "run" / "weights" / "best.pt"


def test_a_trained_checkpoint_validates_and_predicts_in_new_processes(trained: Path, run, tmp_path: Path) -> None:
    run("yolo", "val", f"model={trained}", "data=shapes.yaml", "imgsz=64", "workers=0", "plots=False")
    image = _an_image(tmp_path)
    done = run("yolo", "predict", f"model={trained}", f"source={image}", "imgsz=64", "save=False")
    assert "1/1" in done.stdout


def _an_image(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    path = folder / "image.jpg"
    Image.fromarray(np.full((48, 64, 3), 127, np.uint8)).save(path)
    return path


def test_a_trained_checkpoint_trains_on_in_python_that_never_imports_yolo_attn(trained: Path, run) -> None:
    arguments = ", ".join(TRAIN).replace("shapes.yaml", "'shapes.yaml'")
    code = f"from ultralytics import YOLO; YOLO({str(trained)!r}).train({arguments}, project='out', name='again')"
    done = run("python", "-c", code)
    assert "yolo_attn.layers.cbam.CBAM" in done.stdout + done.stderr


def test_a_fresh_interpreter_unpickles_a_checkpoint(trained: Path, run) -> None:
    code = (
        "import sys, torch\n"
        f"model = torch.load({str(trained)!r}, weights_only=False)['model']\n"
        "print([type(m).__module__ for m in model.model if type(m).__name__ == 'CBAM'])"
    )
    assert "['yolo_attn.layers.cbam']" in run("python", "-c", code).stdout


def test_a_checkpoint_loads_under_restricted_loading(trained: Path, run) -> None:
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    if not hasattr(tasks, "SAFE_LOAD"):
        pytest.skip("this Ultralytics has no restricted loading")
    code = f"from ultralytics import YOLO; print(type(YOLO({str(trained)!r}).model.model[10]).__name__)"
    assert "CBAM" in run("python", "-c", code, ULTRALYTICS_SAFE_LOAD="1").stdout


def test_the_generated_multi_gpu_worker_knows_the_layers(run, tmp_path: Path) -> None:
    # The host starts one process per GPU from a file it writes; the file is run here as a single CPU process.
    arguments = ", ".join(TRAIN).replace("shapes.yaml", "'shapes.yaml'")
    code = f"""
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.dist import generate_ddp_file
arguments = dict({arguments}, model="yolov8n-se.yaml", device="cpu", project="out", name="ddp")
trainer = DetectionTrainer(overrides=arguments)
print("FILE", generate_ddp_file(trainer))
"""
    made = run("python", "-c", code)
    worker = made.stdout.split("FILE", 1)[1].strip()
    done = run("python", worker)
    Path(worker).unlink()
    assert "yolo_attn.layers.se.SE" in done.stdout + done.stderr


def test_names_resolve_from_any_folder_and_the_users_file_wins(run, tmp_path: Path) -> None:
    code = (
        "from ultralytics import YOLO\n"
        "m = YOLO('yolov8s-coordatt-neck.yaml').model\n"
        "print(m.yaml['scale'], m.yaml['yaml_file'], sum(type(x).__name__ == 'CoordAtt' for x in m.model))"
    )
    assert "s yolov8s-coordatt-neck.yaml 3" in run("python", "-c", code).stdout
    for name in ("yolov8-coordatt-neck.yaml", "yolov8s-coordatt-neck.yaml"):
        text = yamls.find_model("yolov8-coordatt-neck.yaml").read_text().replace("CoordAtt", "SE")
        (tmp_path / name).write_text(text)
        assert "s yolov8s-coordatt-neck.yaml 0" in run("python", "-c", code).stdout
        (tmp_path / name).unlink()


def test_a_wrong_model_name_gets_the_nearest(run) -> None:
    done = run("python", "-c", "from ultralytics import YOLO; YOLO('yolov8n-cbamm.yaml')", ok=False)
    assert "'yolov8n-cbamm.yaml' does not exist" in done.stderr or "yolov8-cbamm.yaml" in done.stderr
    assert "'cbamm' is no layer; did you mean 'cbam'?" in done.stderr


def test_a_bad_row_ends_the_command_with_one_clear_error(run, tmp_path: Path) -> None:
    text = yamls.find_model("yolov8-cbam.yaml").read_text().replace("CBAM, []", "CBAM, {ratio: 8}")
    (tmp_path / "mine.yaml").write_text(text)
    done = run("yolo", "train", "model=mine.yaml", *TRAIN, ok=False)
    assert "mine.yaml, row 10: CBAM(reduction=16" in done.stderr
    assert "has no argument 'ratio'; did you mean 'reduction'?" in done.stderr


def test_the_hook_can_be_turned_off_and_an_import_suffices_then(run) -> None:
    code = "from ultralytics import YOLO; YOLO('yolov8n-cbam.yaml')"
    assert "FileNotFoundError" in run("python", "-c", code, ok=False, YOLO_ATTN_AUTOLOAD="0").stderr
    run("python", "-c", "import yolo_attn; " + code, YOLO_ATTN_AUTOLOAD="0")
    late = "from ultralytics import YOLO; import ultralytics.nn.tasks, yolo_attn; YOLO('yolov8n-cbam.yaml')"
    run("python", "-c", late, YOLO_ATTN_AUTOLOAD="0")


def test_the_hook_imports_neither_torch_nor_ultralytics(run) -> None:
    before = set(run("python", "-c", "import sys; print(*sys.modules)", YOLO_ATTN_AUTOLOAD="0").stdout.split())
    after = set(run("python", "-c", "import sys; print(*sys.modules)").stdout.split())
    assert after - before == {"yolo_attn", "yolo_attn.host", "yolo_attn.host.startup"}


def test_an_error_in_the_hook_never_stops_an_interpreter(run, tmp_path: Path) -> None:
    hook = PACKAGE.parent / "yolo_attn.pth"
    if not hook.is_file():
        hook = next(Path(p) / "yolo_attn.pth" for p in sys.path if (Path(p) / "yolo_attn.pth").is_file())
    site = tmp_path / "site"
    (site / "yolo_attn").mkdir(parents=True)
    (site / "yolo_attn" / "__init__.py").write_text("raise RuntimeError('broken')")
    (site / "yolo_attn.pth").write_text(hook.read_text())
    code = f"import sys, site; sys.path.insert(0, {str(site)!r}); site.addsitedir({str(site)!r}); print('alive')"
    done = run("python", "-S", "-c", code)
    assert done.stdout.strip() == "alive" and not done.stderr
    proof = run("python", "-S", "-c", code.replace("print('alive')", "import yolo_attn"), ok=False)
    assert "RuntimeError: broken" in proof.stderr  # the hook did meet the broken package


def test_an_error_of_ours_leaves_the_hosts_import_alone(run) -> None:
    code = (
        "import sys; sys.modules['yolo_attn.host.patch'] = None\n"  # makes our import fail
        "from ultralytics import YOLO; YOLO('yolov8n.yaml'); print('alive')"
    )
    done = run("python", "-c", code)
    assert "alive" in done.stdout and "Run: yolo-attn doctor" in done.stderr


def test_plain_ultralytics_behaves_as_without_us(run) -> None:
    code = (
        "import hashlib, torch\n"
        "from ultralytics import YOLO\n"
        "torch.manual_seed(0)\n"
        "m = YOLO('yolov8n.yaml')\n"
        "h = hashlib.sha256()\n"
        "[h.update(k.encode() + v.numpy().tobytes()) for k, v in m.model.state_dict().items()]\n"
        "print(h.hexdigest(), m.model.yaml, str(m.model))\n"
        "try: YOLO('yolov8n-nothing.yaml')\n"
        "except FileNotFoundError as e: print(e)\n"
    )
    with_us, without = run("python", "-c", code), run("python", "-c", code, YOLO_ATTN_AUTOLOAD="0")
    assert with_us.stdout == without.stdout
    assert with_us.stderr == without.stderr


def test_installing_first_is_quiet(run) -> None:
    code = "import yolo_attn; yolo_attn.install(); print(yolo_attn.installed())"
    done = run("python", "-W", "always::UserWarning:yolo_attn", "-c", code)
    assert done.stdout.split()[-1] == "True" and "not active" not in done.stderr


def test_doctor_says_what_is_patched_and_what_is_wrong(run) -> None:
    import ultralytics

    done = run("yolo-attn", "doctor")
    for said in (
        ultralytics.__version__,
        str(Path(ultralytics.__file__).parent),
        "CBAM",
        "torch",
        "device",
        "All is well.",
    ):
        assert said in done.stdout
    assert "off (YOLO_ATTN_AUTOLOAD=0)" in run("yolo-attn", "doctor", YOLO_ATTN_AUTOLOAD="0").stdout
    pasted = (
        "import ultralytics.nn.tasks as t, sys\n"
        "t.CBAM = type('CBAM', (), {})\n"
        "from yolo_attn.cli import main; sys.exit(main(['doctor']))"
    )
    sick = run("python", "-c", pasted, ok=False, YOLO_ATTN_AUTOLOAD="0")
    assert "WRONG" in sick.stdout and "already has another 'CBAM'" in sick.stdout


def test_yolo_attn_layers_prints_every_layer(run) -> None:
    listed = run("python", "-m", "yolo_attn", "layers").stdout
    assert all(f"[-1, 1, {name}, [" in listed for name in yolo_attn.list_layers())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolov8n checkpoint for the demo set's classes, with random weights and statistics."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    from experiments.transfer_table import randomise

    model = randomise(DetectionModel("yolov8n.yaml", nc=3, verbose=False)).half()
    model.names = {0: "circle", 1: "square", 2: "triangle"}
    path = tmp_path_factory.mktemp("base") / "base.pt"
    torch.save({"model": model, "epoch": -1, "train_args": {}}, path)
    return path


# Nothing learns at this rate, so that the checkpoint after training shows what training began with.
STILL = "optimizer='SGD', lr0=0.0, lrf=0.0, warmup_epochs=0, momentum=0.9, weight_decay=0.0"
CHECK = """
import torch
from yolo_attn.host.model import align, ours
trained = torch.load(WEIGHTS, weights_only=False)["model"].float()
base = torch.load(BASE, weights_only=False)["model"].float()
pairs = align.align(list(base.model), list(trained.model))
head = len(base.model) - 1  # how much of it fits another class count differs between hosts
same = [torch.equal(v, ours.plain_state(trained.model[j])[k]) for i, j in pairs.items() if i != head
        for k, v in ours.plain_state(base.model[i]).items() if k.endswith("weight")]
gates = sum(type(m).__name__ == "Gated" for m in trained.modules())
print("SAME" if all(same) and len(same) > 50 else "CHANGED", "gates", gates)
"""


@pytest.mark.parametrize(
    ("start", "gates"),
    [
        ("YOLO('yolov8n-cbam-neck.yaml').load(BASE)", 3),
        ("YOLO('yolov8n-cbam-neck.yaml').load(YOLO(BASE).model)", 3),
        ("YOLO('yolov8n-crisscross.yaml').load(BASE)", 0),
    ],
    ids=["a file", "a model", "a layer that is the identity itself"],
)
def test_training_begins_with_what_was_loaded(base: Path, start: str, gates: int, run, tmp_path: Path) -> None:
    arguments = ", ".join(TRAIN).replace("shapes.yaml", "'shapes.yaml'")
    code = (
        f"from ultralytics import YOLO; BASE = {str(base)!r}\nmodel = {start}\n"
        f"model.train({arguments}, {STILL}, project={str(tmp_path)!r}, name='run')\n"
        f"WEIGHTS = {str(tmp_path)!r} + '/run/weights/last.pt'\n{CHECK}"
    )
    assert f"SAME gates {gates}" in run("python", "-c", code).stdout


@pytest.mark.parametrize("program", ["yolo", "script"])
def test_training_begins_with_the_pretrained_weights(base: Path, program: str, run, tmp_path: Path) -> None:
    still = [a.strip().replace("'", "") for a in STILL.split(",")]
    arguments = [*TRAIN, *still, f"pretrained={base}", f"project={tmp_path}", "name=run"]
    script = PACKAGE.parent / "scripts" / "train.py"
    if program == "script" and not script.is_file():
        pytest.skip("the scripts are in the checkout only")
    command = ["yolo", "train"] if program == "yolo" else ["python", str(script)]
    run(*command, "model=yolov8n-cbam-neck.yaml", *arguments)
    code = f"BASE, WEIGHTS = {str(base)!r}, {str(tmp_path)!r} + '/run/weights/last.pt'\n{CHECK}"
    assert "SAME gates 3" in run("python", "-c", code).stdout


def test_the_script_can_keep_the_papers_start(base: Path, run, tmp_path: Path) -> None:
    scripts = PACKAGE.parent / "scripts"
    if not scripts.is_dir():
        pytest.skip("the scripts are in the checkout only")
    command = ("python", str(scripts / "train.py"), "--model", "yolov8n-se.yaml", f"pretrained={base}", *TRAIN)
    done = run(*command, "--no-gate", f"project={tmp_path}", "name=run")
    assert "yolo_attn.layers.se.SE" in done.stdout + done.stderr and "Gated" not in done.stdout + done.stderr
    refused = run("python", str(scripts / "train.py"), "--model", str(base), "--no-gate", *TRAIN, ok=False)
    assert "--no-gate is for a model YAML" in refused.stderr
