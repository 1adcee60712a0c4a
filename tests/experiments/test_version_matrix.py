"""The command that tries other versions, and what CI asks of it."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments import versions
from experiments.versions import Combination

ROOT = Path(__file__).parents[2]


def jobs() -> dict[str, dict]:
    return yaml.safe_load((ROOT / ".github/workflows/versions.yml").read_text(encoding="utf-8"))["jobs"]


def test_ci_runs_every_combination() -> None:
    asked = [Combination(**row) for row in jobs()["combination"]["strategy"]["matrix"]["include"]]
    assert set(asked) == set(versions.all_combinations()) and len(asked) == len(set(asked))


def test_ci_calls_commands_that_are_there() -> None:
    steps = [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]
    called = [word for step in steps for word in step.split() if word.startswith("scripts/")]
    assert called == ["scripts/versions.py", "scripts/canary.py"] and all((ROOT / name).is_file() for name in called)
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]["steps"]
    assert [step["run"] for step in ci if "run" in step] == ["bash .ci/run"]


def test_the_oldest_torch_and_python_are_those_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].split()
    (torch,) = (need for need in required if need.startswith("torch>="))
    assert versions.OLDEST_TORCH.startswith(torch.removeprefix("torch>="))
    assert setup["options"]["python_requires"] == f">={versions.PYTHONS[0]}"
    assert f"ultralytics>={versions.ULTRALYTICS[0]},<9" in required


def test_requirements_name_what_is_not_the_newest() -> None:
    assert Combination("newest").requirements() == ["ultralytics", "torch"]
    old = Combination("8.3.100", torch=versions.OLDEST_TORCH).requirements()
    assert old[:2] == ["ultralytics==8.3.100", f"torch=={versions.OLDEST_TORCH}"] and "numpy<2" in old


def test_a_row_says_what_failed_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {
        "well": ["python", "-c", ""],
        "ill": ["python", "-c", "raise SystemExit('ill indeed')"],
        "after": ["python", "-V"],
    }
    monkeypatch.setattr(versions, "STEPS", steps)
    monkeypatch.setattr(versions, "_installs", lambda *given: iter(()))
    monkeypatch.setattr(versions, "_versions", lambda *given: {"torch": "9.9"})
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    row = versions.run_row(Combination("8.3.100", here), tmp_path / "no.whl", tmp_path / "row")
    assert row["steps"]["ill"] is None and row["steps"]["after"] >= 0 and "ill indeed" in row["log"]
    assert not versions.is_good(row) and versions.is_good(row | {"steps": dict.fromkeys(["install", *steps], 1.0)})
    head, _, line = versions.table([row]).splitlines()
    assert head.startswith("| ultralytics | python | torch | install | well") and "| FAILED |" in line and "9.9" in line


def test_a_python_that_is_not_here_is_said(tmp_path: Path) -> None:
    row = versions.run_row(Combination("newest", "3.99"), tmp_path / "no.whl", tmp_path / "row")
    assert row["log"] == "there is no Python 3.99 here" and not versions.is_good(row)


def test_sharing_installs_what_the_release_lacks_there_and_shares_last(tmp_path: Path) -> None:
    def installed(site: Path, name: str, version: str, *needs: str) -> None:
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines]) + "\n")

    share, site = tmp_path / "share", tmp_path / "venv/lib/python3.11/site-packages"
    installed(share, "numpy", "2.4.0")
    installed(share, "torch", "2.14.0")
    needs = ("numpy<=2.1.1,>=1.23", "torch>=1.8", "pandas>=1.1", "wheel; extra == 'dev'")
    commands = []
    python = tmp_path / "venv/bin/python"
    for command in versions._installs(Combination("8.3.100"), tmp_path / "our.whl", share, python):
        if not commands:
            installed(site, "ultralytics", "8.3.100", *needs)
        commands.append(command)
    assert commands[2][-2:] == ["numpy<=2.1.1,>=1.23", "pandas>=1.1"]
    assert "ultralytics==8.3.100" in commands[0] and "zz_shared.pth" in commands[1][-1] and len(commands) == 3


@pytest.mark.slow
def test_the_newest_combination_works(tmp_path: Path) -> None:
    import torch

    share = Path(torch.__file__).parents[1]
    command = [sys.executable, "scripts/versions.py", "--ultralytics", "8.4.120", "--share", str(share)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
