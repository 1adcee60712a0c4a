"""What several tests of models need: what is said of rows, and checkpoints of an edited Ultralytics."""

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


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the host's logger says from now on; nothing counts as said before."""
    from ultralytics.utils import LOGGER

    from yolo_attn.host.model import row_arguments

    messages: list[str] = []
    monkeypatch.setattr(LOGGER, "info", messages.append)
    monkeypatch.setattr(row_arguments, "_told", set())
    return messages
