"""The host tests again on the oldest, two middle and the newest supported Ultralytics, each installed on the side."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VERSIONS = ("8.3.100", "8.3.250", "8.4.60", "8.4.190")
HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_host_tests_pass_on(version: str, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, f"ultralytics=={version}"], check=True, capture_output=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *map(str, sorted(HERE.glob("test_*.py"))),
            "-k",
            "not the_host_tests_pass",
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20000:]
    assert " passed" in done.stdout
