"""The start-up hook among other add-ons, switched off, and with a damaged file; all in fresh interpreters."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import yolo_attn
from yolo_attn import switches
from yolo_attn.host import startup

PACKAGE = Path(yolo_attn.__file__).parent
BUILD = "from ultralytics import YOLO; YOLO('yolov8n-cbam.yaml'); print('built')\n"

# Another add-on of our own pattern: it asks all other finders and adds a step after the module's execution.
ANOTHER = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != 'ultralytics.nn.tasks':
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                loader, execute = spec.loader, spec.loader.exec_module
                def exec_module(module):
                    del loader.exec_module
                    execute(module)
                    print('the other saw', hasattr(module, 'CBAM'))
                loader.exec_module = exec_module
                return spec
sys.meta_path.{place}
"""


@pytest.mark.parametrize("place", ["insert(0, Finder())", "insert(1, Finder())", "append(Finder())"])
def test_two_add_ons_of_one_pattern_both_work(place: str, run) -> None:
    done = run("python", "-c", ANOTHER.replace("{place}", place) + BUILD)
    assert "built" in done.stdout and "not active" not in done.stderr
    assert "the other saw" in done.stdout or "append" in place  # behind Python's own finder it is never asked


def test_the_package_purged_and_imported_again_works(run) -> None:
    purge = "import sys\nfor m in [m for m in sys.modules if m.startswith('yolo_attn')]: del sys.modules[m]\n"
    again = purge + "import yolo_attn\n" + BUILD
    assert "built" in run("python", "-c", again).stdout
    late = "import ultralytics.nn.tasks as t\nfrom ultralytics import YOLO\nYOLO('yolov8n-se.yaml')\n" + again
    late += (
        "yolo_attn.install(); assert yolo_attn.installed()\n"
        "from yolo_attn.layers.cbam import CBAM; assert t.CBAM is CBAM\n"
        "yolo_attn.uninstall(); assert t.parse_model.__code__.co_filename == t.__file__\n"
        "assert not hasattr(t, 'CBAM'); assert '_Finder' not in str(sys.meta_path)\n"
    )
    assert "built" in run("python", "-c", late).stdout


def test_a_finder_without_find_spec_ahead_is_passed_over(run) -> None:
    old = "import sys\nsys.meta_path.insert({place}, type('Old', (), {'find_module': lambda self, *a: None})())\n"
    for place in ("0", "1"):
        assert "built" in run("python", "-c", old.replace("{place}", place) + BUILD).stdout


def test_a_step_follows_its_own_module_alone() -> None:
    loader = SimpleNamespace(exec_module=lambda module: done.append(module.__name__))  # one for many, as of a zip file
    done: list[str] = []
    startup._follow(SimpleNamespace(loader=loader), "mine", done.append)  # asked for in vain
    loader.exec_module(SimpleNamespace(__name__="other"))
    assert done == ["other"]
    startup._follow(SimpleNamespace(loader=loader), "mine", done.append)
    loader.exec_module(SimpleNamespace(__name__="mine"))
    loader.exec_module(SimpleNamespace(__name__="mine"))
    assert done == ["other", "mine", "mine", "mine"]


def test_warnings_as_errors_do_not_break_the_hosts_import(run) -> None:
    code = (
        "import sys, warnings; sys.modules['yolo_attn.host.patch'] = None; warnings.simplefilter('error', UserWarning)"
    )
    done = run("python", "-c", code + "\nimport ultralytics.nn.tasks; print('alive')")
    assert "alive" in done.stdout and "Run: yolo-attn doctor" in done.stderr


HOOKED = "import sys; print('yolo_attn.host.startup' in sys.modules)"


@pytest.mark.parametrize("value", [*switches.OFF, "False", "NO", "Off", " off "])
def test_every_word_for_off_turns_the_hook_off(value: str, run) -> None:
    assert run("python", "-c", HOOKED, YOLO_ATTN_AUTOLOAD=value).stdout.strip() == "False"


@pytest.mark.parametrize("value", ["", "1", "true", "yes", "on", "2"])
def test_every_other_word_leaves_it_on(value: str, run) -> None:
    assert run("python", "-c", HOOKED, YOLO_ATTN_AUTOLOAD=value).stdout.strip() == "True"


def test_doctor_and_the_other_switches_know_the_same_words(run, monkeypatch) -> None:
    assert "off (YOLO_ATTN_AUTOLOAD=No)" in run("yolo-attn", "doctor", YOLO_ATTN_AUTOLOAD="No").stdout
    from yolo_attn.host.run import half_precision

    for value, off in [("OFF", True), ("0", True), ("", False), ("1", False)]:
        monkeypatch.setenv("YOLO_ATTN_FP16_CHECK", value)
        assert half_precision.is_wanted() is not off
        code = "from yolo_attn import fast; print(fast._is_on.get())"
        assert run("python", "-c", code, YOLO_ATTN_FAST=value).stdout.strip() == str(not off)


@pytest.fixture
def damaged(tmp_path: Path) -> dict[str, str]:
    """Environment with a copy of the package whose file of CoT is cut in the middle."""
    shutil.copytree(PACKAGE, tmp_path / "copy/yolo_attn", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("cfg",):
        if (PACKAGE.parent / folder).is_dir() and not (PACKAGE / folder).is_dir():
            shutil.copytree(PACKAGE.parent / folder, tmp_path / "copy" / folder)
    file = tmp_path / "copy/yolo_attn/layers/cot.py"
    file.write_text(file.read_text()[: file.stat().st_size // 2] + "\ndef (")
    return {"PYTHONPATH": str(tmp_path / "copy")}


def test_a_broken_layer_file_stops_that_layer_alone(damaged: dict[str, str], run) -> None:
    code = (
        "from ultralytics import YOLO\n"
        "import yolo_attn; assert 'copy' in yolo_attn.__file__, yolo_attn.__file__\n"
        "YOLO('yolov8n.yaml'); YOLO('yolov8n-cbam.yaml'); print('built')\n"
        "try: YOLO('yolov8n-cot.yaml')\n"
        "except Exception as error: print('refused', error)\n"
        "yolo_attn.install(); print('installed', yolo_attn.installed())\n"
    )
    done = run("python", "-c", code, **damaged)
    assert "built" in done.stdout and "installed True" in done.stdout and "not active" not in done.stderr
    refused = next(line for line in done.stdout.splitlines() if "refused" in line)
    assert "CoT cannot be used" in refused and "Error" in refused and "--force-reinstall" in refused
    sick = run("python", "-m", "yolo_attn", "doctor", ok=False, **damaged).stdout
    assert "WRONG        CoT cannot be used" in sick and "CBAM" in sick


def test_a_missing_package_is_what_the_mend_names(run) -> None:
    code = (
        "import sys; sys.modules['einops'] = None\n"
        "from yolo_attn import create\n"
        "try: create('CrissCross', 8)\n"
        "except ImportError as error: print(error)\n"
    )
    said = run("python", "-c", code).stdout
    assert "CrissCross cannot be used" in said and said.strip().endswith("pip install einops")


MINE = (
    "import torch, ultralytics.nn.tasks as t\n"
    "from ultralytics import YOLO\n"
    "class CBAM(torch.nn.Identity):\n"
    "    def __init__(self, *args): super().__init__()\n"
    "    def forward(self, x): return x\n"
    "Mine = CBAM\n"
)


@pytest.mark.parametrize("autoload", ["1", "0"])
def test_a_users_class_of_our_name_is_never_overwritten_and_never_used_in_silence(autoload: str, run) -> None:
    code = MINE + (
        "t.CBAM = Mine\n"
        "import yolo_attn\n"
        "m = YOLO('yolov8n-cbam.yaml').model; assert type(m.model[10]) is Mine, type(m.model[10])\n"
        "class Other(torch.nn.Identity):\n"
        "    def __init__(self, width): super().__init__()\n"
        "yolo_attn.register('Other', Other)\n"
        "assert t.CBAM is Mine\n"
        "yolo_attn.unregister('Other'); yolo_attn.uninstall(); assert t.CBAM is Mine; print('kept')\n"
    )
    done = run("python", "-c", code, YOLO_ATTN_AUTOLOAD=autoload)
    said = done.stdout + done.stderr
    assert "kept" in said
    assert said.count("CBAM is not yolo-attn's but what stands under that name in ultralytics.nn.tasks") == 1
    assert "class CBAM from __main__" in said


def test_a_users_class_set_before_us_refuses_our_other_layers_clearly(run) -> None:
    code = MINE + "t.CBAM = Mine\nimport yolo_attn\nYOLO('yolov8n-se.yaml')"
    said = run("python", "-c", code, ok=False, YOLO_ATTN_AUTOLOAD="0").stderr
    assert "names SE, but ultralytics.nn.tasks already has another 'CBAM' (class CBAM from __main__)" in said
    assert "give it another name" in said


def test_a_parse_model_of_another_add_on_is_named(run, tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(
        "import ultralytics.nn.tasks as t\n"
        "original = t.parse_model\n"
        "def parse_model(d, ch, verbose=True):\n"
        "    return original(d, ch, verbose)\n"
        "t.parse_model = parse_model\n"
    )
    code = "import addon, yolo_attn\nfrom ultralytics import YOLO; YOLO('yolov8n.yaml'); print('plain')\n"
    done = run("python", "-c", code + "YOLO('yolov8n-cbam.yaml')", ok=False, YOLO_ATTN_AUTOLOAD="0")
    assert "plain" in done.stdout
    assert "parse_model is not Ultralytics' own: module 'addon' replaced it" in done.stderr
    assert "addon.py, line 3" in done.stderr and "supported version" not in done.stderr.splitlines()[-1]
    # With us first, both work.
    first = "import yolo_attn, addon\n" + BUILD
    assert "built" in run("python", "-c", first).stdout


def test_a_wrapper_around_ours_leaves_us_in_place(run, tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(
        "import functools, ultralytics.nn.tasks as t\n"
        "original = t.parse_model\n"
        "@functools.wraps(original)\n"
        "def parse_model(*args, **kwargs):\n"
        "    print('wrapped'); return original(*args, **kwargs)\n"
        "t.parse_model = parse_model\n"
    )
    code = "import addon, yolo_attn; yolo_attn.install(); assert yolo_attn.installed()\n" + BUILD
    done = run("python", "-c", code)
    assert "wrapped" in done.stdout and "built" in done.stdout


@pytest.mark.parametrize("first", ["yolo_attn.host.opening", "yolo_attn.host.model.foreign"])
def test_a_module_of_the_package_may_be_imported_before_ultralytics(first: str, run) -> None:
    done = run("python", "-c", f"import {first}\n" + BUILD)
    assert "built" in done.stdout and "not active" not in done.stderr
