"""Install the wheel beside other versions of Ultralytics, Python and PyTorch, and do what a user does with it.

Each combination gets a virtual environment of its own, which goes again when its row is done.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ULTRALYTICS = ("8.3.100", "8.3.250", "8.4.0", "8.4.60", "8.4.120", "newest")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
USUAL_PYTHON = "3.11"
OLDEST_TORCH = "2.2.2"  # setup.cfg says the same
# PyTorch 2.2 was built for NumPy 1, and NumPy 1 is what this OpenCV still takes.
WITH_OLD_TORCH = ("numpy<2", "opencv-python<4.11")
_CBAM = "yolov8n-cbam-neck.yaml"
_SMALL = [
    "data=shapes.yaml",
    "imgsz=64",
    "batch=16",
    "fraction=0.2",
    "workers=0",
    "plots=False",
    "project=OUT",
]  # newer releases put a relative one elsewhere
_RESUME = """
import ast
from ultralytics import YOLO
def read(text):
    try: return ast.literal_eval(text)
    except (ValueError, SyntaxError): return text
def stop(trainer):
    if trainer.epoch == 0:
        raise InterruptedError
yolo = YOLO("{model}")
yolo.add_callback("on_fit_epoch_end", lambda trainer: None)
yolo.add_callback("on_model_save", stop)
small = dict((key, read(value)) for key, value in (word.split("=") for word in {small!r}))
try:
    yolo.train(**small, epochs=2, name="cut")
except InterruptedError:
    pass
YOLO("OUT/cut/weights/last.pt").train(resume=True)
rows = open("OUT/cut/results.csv").read().split()
assert len([row for row in rows if row[:2] in ("1,", "2,")]) == 2, rows
"""
STEPS: dict[str, list[str]] = {
    "doctor": ["yolo-attn", "doctor"],
    "build": ["python", "-c", f"from ultralytics import YOLO; assert 'CBAM(' in str(YOLO('{_CBAM}').model)"],
    "train": ["yolo", "train", f"model={_CBAM}", *_SMALL, "epochs=1", "name=one"],
    "reload": ["yolo", "val", "model=OUT/one/weights/best.pt", *_SMALL],
    "resume": ["python", "-c", _RESUME.format(model=_CBAM, small=_SMALL)],
    "export": ["yolo", "export", "model=OUT/one/weights/best.pt", "format=torchscript", "imgsz=64"],
    "exported": ["yolo", "val", "model=OUT/one/weights/best.torchscript", *_SMALL],
}


_NEEDED = ("build", "train")  # without these the later steps have nothing to work on


@dataclass(frozen=True)
class Combination:
    """Versions to install together; ``newest`` is what pip takes."""

    ultralytics: str
    python: str = USUAL_PYTHON
    torch: str = "newest"

    def requirements(self) -> list[str]:
        """Return what pip is asked for beside our wheel."""
        asked = [
            name if version == "newest" else f"{name}=={version}"
            for name, version in (("ultralytics", self.ultralytics), ("torch", self.torch))
        ]
        return [*asked, *(WITH_OLD_TORCH if self.torch == OLDEST_TORCH else ())]


def all_combinations() -> list[Combination]:
    """Return each Ultralytics, then each Python and the oldest PyTorch with the newest Ultralytics."""
    found = [Combination(version) for version in ULTRALYTICS]
    found += [Combination("newest", python) for python in PYTHONS]
    found += [Combination("newest", torch=OLDEST_TORCH), Combination(ULTRALYTICS[0], torch=OLDEST_TORCH)]
    return list(dict.fromkeys(found))


def find_python(version: str) -> str | None:
    """Return an interpreter of a version, from the search path or from pyenv."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    pyenv = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    return str(pyenv[-1]) if pyenv else shutil.which(f"python{version}")


def build_wheel(folder: Path) -> Path:
    """Build our wheel into a folder."""
    done = _call([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], folder)
    if done.returncode:
        raise RuntimeError(done.stdout)
    return next(folder.glob("yolo_attn-*.whl"))


def run_row(combination: Combination, wheel: Path, folder: Path, share: Path | None = None) -> dict[str, Any]:
    """Install and use one combination; return the versions found, ``steps`` with seconds or None, and ``log``.

    Args:
        combination: What to install.
        wheel: Our wheel.
        folder: Empty folder for the environment and the runs; it stays.
        share: Folder ``site-packages`` of an environment whose packages need not be installed again.
    """
    row: dict[str, Any] = {"asked": combination, "found": {}, "steps": {}, "log": ""}
    python = find_python(combination.python)
    if python is None:
        return row | {"log": f"there is no Python {combination.python} here"}
    work = folder / "work"
    work.mkdir(parents=True)
    seconds, done = _timed([python, "-m", "venv", str(folder / "venv")], work)
    bin_ = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    for command in _installs(combination, wheel, share, bin_ / "python"):
        if done.returncode == 0:
            more, done = _timed(command, work)
            seconds += more
    row["steps"]["install"] = None if done.returncode else round(seconds, 1)
    if done.returncode:
        return row | {"log": _end(done.stdout)}
    row["found"] = _versions(bin_ / "python", work)
    for name, (program, *rest) in STEPS.items():
        seconds, done = _timed([str(bin_ / program), *(word.replace("OUT", str(work / "out")) for word in rest)], work)
        row["steps"][name] = None if done.returncode else round(seconds, 1)
        if done.returncode:
            row["log"] += f"--- {name}\n{_end(done.stdout)}\n"
            if name in _NEEDED:
                break
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: seconds of each step, or ``FAILED``."""
    steps = ["install", *STEPS]
    lines = [["ultralytics", "python", "torch", *steps], ["---"] * (3 + len(steps))]
    for row in rows:
        asked = row["asked"]
        names = [row["found"].get(name, getattr(asked, name)) for name in ("ultralytics", "python", "torch")]
        cells = [row["steps"].get(step, "-") for step in steps]
        lines.append([*names, *("FAILED" if cell is None else str(cell) for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def is_good(row: dict[str, Any]) -> bool:
    """Return whether every step of a row was done."""
    return len(row["steps"]) == 1 + len(STEPS) and None not in row["steps"].values()


def _end(said: str) -> str:
    return "\n".join(said.splitlines()[-12:])


def _installs(combination: Combination, wheel: Path, share: Path | None, python: Path) -> Iterator[list[str]]:
    pip = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir"]
    if share is None:
        yield [*pip, str(wheel), *combination.requirements()]
        return
    site = python.parents[1] / f"lib/python{combination.python}/site-packages"
    yield [*pip, "--no-deps", str(wheel), combination.requirements()[0]]
    lacking = _lacking(site, share)  # of the release that has just been installed
    # What is shared is seen last: what is installed here wins.
    hook = f"import pathlib; pathlib.Path({str(site / 'zz_shared.pth')!r}).write_text({str(share)!r})"
    yield [str(python), "-c", hook]
    if lacking:
        yield [*pip, *lacking, *combination.requirements()[2:]]


def _lacking(site: Path, share: Path) -> list[str]:
    """Return what the Ultralytics in ``site`` needs and ``share`` lacks or has in a version that does not do."""
    from packaging.requirements import Requirement

    (host,) = importlib.metadata.distributions(name="ultralytics", path=[str(site)])
    found = []
    for need in map(Requirement, host.requires or []):
        has = next(iter(importlib.metadata.distributions(name=need.name, path=[str(share)])), None)
        is_asked = need.marker is None or need.marker.evaluate({"extra": ""})
        if is_asked and (has is None or not need.specifier.contains(has.version, prereleases=True)):
            found.append(f"{need.name}{need.specifier}")
    return found


def _versions(python: Path, work: Path) -> dict[str, str]:
    code = (
        "import platform, torch, ultralytics\n"
        "print('FOUND', ultralytics.__version__, platform.python_version(), torch.__version__)"
    )
    said = _call([str(python), "-c", code], work).stdout
    names = re.findall(r"FOUND (\S+) (\S+) (\S+)", said)
    return dict(zip(("ultralytics", "python", "torch"), names[0], strict=True)) if names else {}


def _timed(command: Sequence[str], work: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    start = time.perf_counter()
    done = _call(command, work)
    return time.perf_counter() - start, done


def _call(command: Sequence[str], work: Path) -> subprocess.CompletedProcess[str]:
    ours = ("YOLO_", "ULTRALYTICS_", "PYTHON")
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    env |= {"YOLO_CONFIG_DIR": str(work), "YOLO_ATTN_CACHE": str(work / "cache")}
    env |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    return subprocess.run(
        command, cwd=work, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
