"""One folder is worked on by one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from yolo_attn.errors import StudyError
from yolo_attn.study import store


def test_of_two_processes_that_begin_together_one_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import sys; from pathlib import Path; from yolo_attn.study import store\n"
        "with store.locked(Path(sys.argv[1])):\n    print('here', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "here\n"
        lock = tmp_path / store.LOCK
        held = json.loads(lock.read_text())
        for content in ("", json.dumps({**held, "started": 1.0})):  # not written yet; the clock was set far back
            lock.write_text(content)
            with pytest.raises(StudyError, match="worked on by another process"), store.locked(tmp_path):
                pass
            assert lock.read_text() == content
        lock.write_text(json.dumps(held))
        with pytest.raises(StudyError, match=f"worked on by process {other.pid} "), store.locked(tmp_path):
            pass
        other.communicate("")
    with store.locked(tmp_path):
        pass
