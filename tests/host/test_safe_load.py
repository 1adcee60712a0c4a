"""Restricted loading: what opens a checkpoint obeys ``ULTRALYTICS_SAFE_LOAD``, and says why it refuses."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import torch

from yolo_attn.errors import CheckpointError

ROOT = Path(__file__).parents[2]
tasks = pytest.importorskip("ultralytics.nn.tasks")
can_restrict = pytest.mark.skipif(
    not hasattr(tasks, "_SafeLoad") or not tasks._SafeLoad.SUPPORTED, reason="needs Ultralytics 8.4.120 and torch 2.6"
)


class Evil:
    """A pickle that leaves a folder behind when it is opened."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A checkpoint with a model of ours and a harmless piece of code; the folder ``proof`` tells that it has run."""
    torch.save({"model": None, "epoch": -1, "train_args": {}, "extra": Evil(tmp_path / "proof")}, tmp_path / "evil.pt")
    return tmp_path / "evil.pt"


@pytest.fixture
def good(run, tmp_path: Path) -> Path:
    run("python", "-c", "from ultralytics import YOLO; YOLO('yolov8n-cbam.yaml').save('good.pt')")
    return tmp_path / "good.pt"


def opens(function: ast.AST) -> bool:
    """Tell whether a call is one that unpickles a file."""
    called = ast.unparse(function)
    return called in ("torch.load", "pickle.load", "pickle.loads", "torch.jit.load", "joblib.load", "np.load")


def test_one_function_opens_checkpoints() -> None:
    calls = {
        str(file.relative_to(ROOT))
        for folder in ("yolo_attn", "scripts")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens(node.func)
    }
    # The contract reads back, from memory, the layer that it has just saved.
    assert calls == {"yolo_attn/host/opening.py", "yolo_attn/contract/checks.py"}


@can_restrict
@pytest.mark.parametrize("command", ["strip", "verify", "val", "train"])
def test_a_checkpoint_with_code_is_refused_by(command: str, evil: Path, run, tmp_path: Path) -> None:
    script = (f"{ROOT}/scripts/{command}.py", "--model", "evil.pt", "data=shapes.yaml")
    is_verb = command in ("strip", "verify")
    words = ("-m", "yolo_attn", command, "evil.pt") if is_verb else script
    done = run("python", *words, ok=False, ULTRALYTICS_SAFE_LOAD="1")
    assert not (tmp_path / "proof").exists() and not (tmp_path / "evil-plain.pt").exists()
    if is_verb:
        assert done.stderr.startswith("yolo-attn: evil.pt is not opened: ULTRALYTICS_SAFE_LOAD is set")
        assert "posix.mkdir" in done.stderr and ".." not in done.stderr and len(done.stderr.splitlines()) == 1
    open_it = "from yolo_attn.host.opening import open_checkpoint as o; o('evil.pt')"
    run("python", "-c", open_it)  # without the switch it does run, so the test means something
    assert (tmp_path / "proof").exists()


@can_restrict
@pytest.mark.parametrize("autoload", ["1", "0"])
def test_our_layers_are_stripped_under_it(autoload: str, good: Path, run) -> None:
    env = {"ULTRALYTICS_SAFE_LOAD": "true", "YOLO_ATTN_AUTOLOAD": autoload}
    said = run("python", "-m", "yolo_attn", "strip", "good.pt", "--force", **env).stdout
    assert "wrote good-plain.pt" in said


@can_restrict
@pytest.mark.parametrize("value", ["0", "off"])
def test_with_the_hook_off_the_refusal_names_us_and_the_mend(value: str, good: Path, evil: Path, run) -> None:
    env = {"ULTRALYTICS_SAFE_LOAD": "1", "YOLO_ATTN_AUTOLOAD": value}
    for command in (
        ("yolo", "predict", "model=good.pt"),
        ("python", "-c", "from ultralytics import YOLO; YOLO('good.pt')"),
    ):
        last = run(*command, ok=False, **env).stderr.splitlines()[-1]
        assert "good.pt has layers of yolo-attn, which YOLO_ATTN_AUTOLOAD turns off" in last
        assert "Unset YOLO_ATTN_AUTOLOAD, or `import yolo_attn`" in last
    late = "from ultralytics import YOLO; import ultralytics.nn.tasks, yolo_attn; YOLO('good.pt'); print('opened')"
    assert "opened" in run("python", "-c", late, **env).stdout
    stranger = run("python", "-c", "from ultralytics import YOLO; YOLO('evil.pt')", ok=False, **env)
    assert "yolo-attn" not in stranger.stderr.splitlines()[-1]
    assert run("python", "-c", "import sys; print('yolo_attn' in sys.modules)", **env).stdout.strip() == "False"


def test_a_host_that_cannot_restrict_opens_nothing(evil: Path, tmp_path: Path, monkeypatch) -> None:
    from yolo_attn.host.opening import open_checkpoint

    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    monkeypatch.setattr(tasks, "torch_safe_load", lambda weight: pytest.fail("opened"))
    with pytest.raises(CheckpointError, match=r"cannot restrict loading\. Update them"):
        open_checkpoint(evil)
    assert not (tmp_path / "proof").exists()


@can_restrict
@pytest.mark.parametrize("is_restricted", ["0", "1"])
@pytest.mark.parametrize("content", ["hello", "", "no checkpoint", "PK"])
def test_broken_files_are_named_in_one_line(content: str, is_restricted: str, tmp_path: Path, monkeypatch) -> None:
    from yolo_attn.host.opening import open_checkpoint

    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", is_restricted)
    (tmp_path / "text.pt").write_text(content)
    with pytest.raises(CheckpointError, match=r"text\.pt is no checkpoint that torch can read") as caught:
        open_checkpoint(tmp_path / "text.pt")
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_no_checkpoints_are_said_to_be_none(tmp_path: Path, monkeypatch) -> None:
    from yolo_attn.host.opening import open_checkpoint

    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pt is no checkpoint that torch can read"):
        open_checkpoint(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError, match=r"gone\.pt does not exist"):
        open_checkpoint(tmp_path / "gone.pt")
    (tmp_path / "gone.py").write_text("class Gone: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    import gone

    torch.save(gone.Gone(), tmp_path / "class.pt")
    monkeypatch.delattr(gone, "Gone")
    with pytest.raises(CheckpointError, match=r"class\.pt holds a class that cannot be imported here.*Gone"):
        open_checkpoint(tmp_path / "class.pt")
