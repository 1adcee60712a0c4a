"""What ``pip install`` puts into an environment, and that ``pip uninstall`` takes all of it out again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from yolo_attn import registry

ROOT = Path(__file__).parents[1]
HOOKED = "import sys; print('yolo_attn.host.startup' in sys.modules)"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    return {
        str(p.relative_to(folder)) for p in folder.rglob("*") if "pip" not in p.parts and "__pycache__" not in p.parts
    }


@pytest.mark.parametrize("mode", ["regular", "editable"])
def test_install_and_uninstall_leave_no_trace(mode: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "runs", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    python = next(p for p in (venv / "bin" / "python", venv / "Scripts" / "python.exe") if p.exists())
    before = files(venv)

    run(
        python, "-m", "pip", "install", "-q", "--no-deps", *(["-e"] if mode == "editable" else []), source, cwd=tmp_path
    )
    added = {Path(name).name for name in files(venv) - before}
    assert "yolo_attn.pth" in added and run(python, "-c", HOOKED, cwd=tmp_path).strip() == "True"
    models = "from yolo_attn.host.model.yamls import model_names; print(len(model_names()))"
    if mode == "regular":
        assert {"yolov8-cbam-neck.yaml", "shapes.yaml", "cbam.py"} <= added
        shutil.rmtree(source)
    else:
        assert "cbam.py" not in added
    site = Path(yaml.__file__).parents[1]  # the models' room needs PyYAML, and the new environment has nothing
    listed = run(python, "-c", f"import sys; sys.path.append({str(site)!r}); {models}", cwd=tmp_path)
    assert int(listed) == 2 * len(registry.TABLE)

    run(python, "-m", "pip", "uninstall", "-qy", "yolo-attn", cwd=tmp_path)
    assert files(venv) == before
    assert run(python, "-c", HOOKED, cwd=tmp_path).strip() == "False"
