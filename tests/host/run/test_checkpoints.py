"""A checkpoint is the old one or the new one, never half of one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from yolo_attn.errors import DataError, HostError
from yolo_attn.host.run import checkpoints
from yolo_attn.host.run.checkpoints import DRAFTS
from yolo_attn.host.run.record import RunRecord


@pytest.fixture
def trainer(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(wdir=tmp_path, last=tmp_path / "last.pt", best=tmp_path / "best.pt")


def test_files_appear_together_and_the_last_one_last(trainer, tmp_path: Path, monkeypatch) -> None:
    trainer.last.write_bytes(b"old")
    order: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append(Path(to).name) or replace(self, to))
    with checkpoints.redirected(trainer):
        trainer.last.write_bytes(b"new")
        trainer.best.write_bytes(b"best")
        (trainer.wdir / "epoch3.pt").write_bytes(b"third")
        assert (tmp_path / "last.pt").read_bytes() == b"old" and not (tmp_path / "best.pt").exists()
    assert (trainer.wdir, trainer.last, trainer.best) == (tmp_path, tmp_path / "last.pt", tmp_path / "best.pt")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "last.pt": b"new", "best.pt": b"best", "epoch3.pt": b"third",
    }  # fmt: skip
    assert order[-1] == "last.pt" and len(order) == 3


def test_a_writer_that_fails_leaves_the_old_files(trainer, tmp_path: Path) -> None:
    trainer.last.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"), checkpoints.redirected(trainer):
        trainer.last.write_bytes(b"ne")
        raise OSError("disk full")
    assert trainer.last == tmp_path / "last.pt" and trainer.last.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_stripping_replaces_at_once_or_waits(tmp_path: Path, monkeypatch) -> None:
    from ultralytics.utils import LOGGER

    said: list[str] = []
    monkeypatch.setattr(LOGGER, "handle", lambda record: LOGGER.filter(record) and said.append(record.getMessage()))
    file = tmp_path / "best.pt"
    torch.save({"model": 1}, file)

    def host(f, s, updates):
        assert isinstance(s, (str, Path)) and torch.load(f) == {"model": 1}  # what every torch.save takes for a path
        torch.save({"model": 2, **updates}, s)
        LOGGER.info(f"Optimizer stripped from {f}, saved as {s}")
        assert torch.load(f) == {"model": 1}
        return {"model": 2}

    result, draft = checkpoints.strip(host, file, {"x": 3}, hold=True)
    assert result == {"model": 2} and torch.load(file) == {"model": 1}
    checkpoints.publish(draft)
    assert torch.load(file) == {"model": 2, "x": 3} and not (tmp_path / DRAFTS).exists()
    torch.save({"model": 1}, file)
    checkpoints.strip(host, file, {}, hold=False)
    assert torch.load(file) == {"model": 2} and not (tmp_path / DRAFTS).exists()
    assert said == [f"Optimizer stripped from {file}, saved as {file}"] * 2


def test_a_link_in_place_of_the_drafts_is_not_followed(trainer, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "last.pt").write_bytes(b"theirs")
    (tmp_path / DRAFTS).symlink_to(theirs)
    with pytest.raises(HostError, match="is a link"), checkpoints.redirected(trainer):
        trainer.last.write_bytes(b"new")
    checkpoints.sweep(tmp_path)
    assert [file.read_bytes() for file in theirs.iterdir()] == [b"theirs"] and (tmp_path / DRAFTS).is_symlink()


def test_a_checkpoint_that_the_host_skips_stays(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(b"no checkpoint")
    result, _ = checkpoints.strip(lambda f, s, updates: {}, file, None, hold=False)
    assert result == {} and file.read_bytes() == b"no checkpoint"


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    draft = checkpoints.draft_of(tmp_path / "last.pt")
    draft.path.write_bytes(b"half")
    (tmp_path / "last.pt").write_bytes(b"whole")
    checkpoints.sweep(tmp_path)
    checkpoints.sweep(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


HEADER = "epoch,time,train/box_loss\n"


@pytest.mark.parametrize(
    ("rows", "kept", "missing"),
    [
        ("1,2.5,3\n2,5,2\n", "1,2.5,3\n2,5,2\n", []),
        ("1,2.5,3\n2,5,2\n3,7,1\n", "1,2.5,3\n2,5,2\n", []),  # killed before its checkpoint
        ("1,2.5,3\n2,5,2\n3,7", "1,2.5,3\n2,5,2\n", []),  # killed while it was written
        ("1,2.5,3\n2,5,2\n2,6,4\n", "1,2.5,3\n2,6,4\n", []),
        ("1,2.5,3\n2,5,2", "1,2.5,3\n", [2]),
        ("1,2.5,3\n2,5\n", "1,2.5,3\n", [2]),
        ("2,5,2\n", "2,5,2\n", [1]),
    ],
)
def test_rows_of_a_resumed_run_have_each_epoch_once(tmp_path: Path, rows: str, kept: str, missing: list[int]) -> None:
    file = tmp_path / "results.csv"
    file.write_text(HEADER + rows, encoding="utf-8")
    assert checkpoints.trim_rows(file, 2) == missing
    assert file.read_text(encoding="utf-8") == HEADER + kept
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_without_rows_every_epoch_is_missing(tmp_path: Path) -> None:
    assert checkpoints.trim_rows(tmp_path / "results.csv", 2) == [1, 2]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("theirs", ["mine", '{"mine": 1}', "[]", "link"])
def test_somebody_elses_run_json_is_never_overwritten(theirs: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    if theirs == "link":
        (tmp_path / "other.json").write_text('{"schema": 1, "state": "finished", "epochs": []}')
        file.symlink_to(tmp_path / "other.json")
    else:
        file.write_text(theirs)
    with pytest.raises(DataError, match="is no record of yolo-attn and stays as it is"):
        RunRecord(SimpleNamespace(save_dir=tmp_path), torch.nn.Identity())
