"""Files that are whole: the old one or the new one, and nothing else beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolo_attn.cache import replacing, write_text


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_text(file, "old")
    with replacing(file) as draft:
        draft.write_text("ne")
        assert file.read_text() == "old" and draft.parent == tmp_path and draft.suffix != ".json"
        draft.write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "a.json"
    write_text(file, "old")
    with pytest.raises(RuntimeError, match="halfway"), replacing(file) as draft:
        draft.write_text("ne")
        raise RuntimeError("halfway")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(file, "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with replacing(file) as one, replacing(file) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["one"]
