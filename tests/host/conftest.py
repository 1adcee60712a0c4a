"""Fresh processes in a folder that is not the checkout, as users start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import yolo_attn

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def host_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment that keeps the host's settings and our caches away from the user's and from the network."""
    home = tmp_path_factory.mktemp("home")
    return {
        "YOLO_CONFIG_DIR": str(home),
        "YOLO_ATTN_CACHE": str(home / "cache"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "OMP_NUM_THREADS": "1" if "PYTEST_XDIST_WORKER" in os.environ else "2",
    }


@pytest.fixture
def run(tmp_path: Path, host_settings: dict[str, str]) -> Run:
    """Return a function that runs ``python ...`` or ``yolo ...`` in ``tmp_path`` and returns the finished process."""

    def run(*command: str, ok: bool = True, **env: str) -> subprocess.CompletedProcess:
        program, *rest = command
        path = {"python": sys.executable}.get(program, str(Path(sys.executable).with_name(program)))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "ULTRALYTICS_", "PYTEST_"))}
        done = subprocess.run(
            [path, *rest],
            cwd=tmp_path,
            env={**clean, **host_settings, **env},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode == 0) == ok, f"{command} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def installed():
    """The joints are in place for the tests of a module, and as before afterwards."""
    was = yolo_attn.installed()
    yolo_attn.install()
    yield
    if not was:
        yolo_attn.uninstall()
