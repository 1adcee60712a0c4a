"""Checkpoints of an edited Ultralytics, made in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def old_files(tmp_path_factory: pytest.TempPathFactory, host_settings: dict[str, str]) -> Path:
    """A folder of checkpoints that ``edited_host.py`` saved; its classes are not in this process."""
    folder = tmp_path_factory.mktemp("old")
    script = Path(__file__).with_name("edited_host.py")
    env = {**os.environ, **host_settings, "YOLO_ATTN_AUTOLOAD": "0"}
    done = subprocess.run([sys.executable, str(script), str(folder)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
