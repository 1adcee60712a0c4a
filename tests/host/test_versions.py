"""The host tests again on the oldest, two middle and the newest supported Ultralytics, each installed on the side."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from yolo_attn.host.joints import OLDEST

VERSIONS = (".".join(map(str, OLDEST)), "8.3.250", "8.4.60", "8.4.190")
HERE = Path(__file__).parent


def _install(folder: Path, *requirements: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(folder), *requirements]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_host_tests_pass_on(version: str, tmp_path: Path) -> None:
    _install(tmp_path, "--no-deps", f"ultralytics=={version}")
    (host,) = importlib.metadata.distributions(name="ultralytics", path=[str(tmp_path)])
    assert host.version == version
    # What that version needs beside torch, which is large and the same for all of them.
    needs = [r.split(";")[0] for r in host.requires or [] if "extra" not in r and not re.match(r"torch|.*thop", r)]
    _install(tmp_path, *needs)
    _install(tmp_path, "--no-deps", "ultralytics-thop")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20000:]
    assert " passed" in done.stdout
