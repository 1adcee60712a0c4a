"""A copy of the project without ``fast/`` passes the golden tests, the contract and a training."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASKED = (
    "tests/test_contract.py",
    "tests/test_golden.py",
    "tests/host/run/test_training.py::test_schedule_accumulation_freezing_and_averaging_are_the_hosts",
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "fast", "frozen")
    for name in ("yolo_attn", "cfg", "scripts", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(copy: Path, *command: str) -> str:
    golden = os.environ.get("YOLO_ATTN_GOLDEN", str(ROOT.parent / "shared" / "golden"))
    env = {**os.environ, "PYTHONPATH": str(copy), "YOLO_ATTN_GOLDEN": golden}
    env = {key: value for key, value in env.items() if not key.startswith("PYTEST")}
    done = subprocess.run([sys.executable, *command], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_nothing_but_speed_is_lost_without_the_folder(copy: Path) -> None:
    found = "import yolo_attn.layers._fast as f; print(f.__file__, f.find)"
    assert run(copy, "-c", found).split() == [str(copy / "yolo_attn/layers/_fast.py"), "None"]
    out = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ASKED)
    assert " passed" in out and "failed" not in out


def test_a_fault_inside_the_folder_is_not_taken_for_its_absence(copy: Path) -> None:
    (copy / "yolo_attn/fast").mkdir()
    (copy / "yolo_attn/fast/__init__.py").write_text("import no_such_module\n")
    with pytest.raises(AssertionError, match="no_such_module"):
        run(copy, "-c", "import yolo_attn.layers._fast")
