"""What ``pip install`` puts into an environment, and that ``pip uninstall`` takes all of it out again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from yolo_attn._version import __version__

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
    copied(source)
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
    assert int(listed) == len([*(ROOT / "cfg" / "models").glob("*.yaml")])

    run(python, "-m", "pip", "uninstall", "-qy", "yolo-attn", cwd=tmp_path)
    assert files(venv) == before
    assert run(python, "-c", HOOKED, cwd=tmp_path).strip() == "False"


def copied(target: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.egg-info", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, target, ignore=ignored))


def built(source: Path, umask: int, *kinds: str) -> dict[str, bytes]:
    """Build with the setuptools that is installed here and return the files by name."""
    pytest.importorskip("build")
    wanted = [f"--{kind}" for kind in kinds]
    command = [sys.executable, "-m", "build", "--no-isolation", *wanted, "--outdir", "dist", "."]
    env = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, umask=umask, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return {file.name: file.read_bytes() for file in (source / "dist").iterdir()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    source = copied(tmp_path_factory.mktemp("first") / "source")
    return source, built(source, 0o022, "wheel", "sdist")


def test_two_builds_are_the_same_bytes(first: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    again = copied(tmp_path / "elsewhere")
    for number, file in enumerate(sorted(again.rglob("*"))):
        os.utime(file, (10**9 + number, 10**9 + number))
        file.chmod(0o775 if file.is_dir() else 0o664)
    assert sorted(first[1]) == [name for name in sorted(first[1]) if name.endswith((".whl", ".tar.gz"))] != []
    assert built(again, 0o002, "wheel", "sdist") == first[1]


def test_the_sdist_builds_the_same_wheel(first: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    (sdist,) = (name for name in first[1] if name.endswith(".tar.gz"))
    shutil.unpack_archive(first[0] / "dist" / sdist, tmp_path)
    wheel = built(tmp_path / sdist.removesuffix(".tar.gz"), 0o022, "wheel")
    assert wheel and wheel.items() <= first[1].items()


def test_the_index_will_take_them(first: tuple[Path, dict[str, bytes]]) -> None:
    pytest.importorskip("twine")
    said = run(sys.executable, "-m", "twine", "check", "--strict", *(first[0] / "dist").iterdir(), cwd=first[0])
    assert said.count("PASSED") == 2


def test_the_wheel_holds_the_package_its_types_and_the_hook(first: tuple[Path, dict[str, bytes]]) -> None:
    (wheel,) = (first[0] / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"yolo_attn/py.typed", "yolo_attn.pth", "yolo_attn/cfg/models/yolov8-cbam.yaml"} <= names
    assert "yolo_attn/study/report/page.html.jinja" in names
    (sdist,) = (first[0] / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"SECURITY.md", "CITATION.cff", "LICENSE", "yolo_attn/py.typed", "yolo_attn.pth"} <= inside


def test_type_checkers_read_our_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    skipped = "[mypy-torch.*,ultralytics.*]\nfollow_imports = skip\n"  # or it reads all of PyTorch
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nfollow_imports = silent\n{skipped}")
    (tmp_path / "use.py").write_text(
        "import yolo_attn\nfrom yolo_attn import create\nreveal_type(create('SE', 8))\ncreate(8)\n"
        "reveal_type(yolo_attn.list_layers())\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--config-file=mypy.ini", "use.py"]
    said = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "MYPYPATH": ""}
    ).stdout
    assert "list[" in said and "incompatible type" in said and "missing library stubs" not in said, said


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__ and cited["license"] == "AGPL-3.0-only"
