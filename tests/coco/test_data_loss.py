"""Whatever the cache folder is set to, and whatever somebody plants there, nobody else's file is touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yolo_attn import cache
from yolo_attn.coco import label_cache, shapes
from yolo_attn.coco.data_yaml import write_cached
from yolo_attn.coco.index import load_index
from yolo_attn.errors import DataError

OWN = Path("yolo-attn") / label_cache.FOLDER


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set's root with YOLO labels and more, all old, as the cache folder."""
    root = tmp_path / "root"
    for name in (
        "labels/train/a.txt",
        "labels/b.txt",
        "labels/c.bin",
        "labels/.x.bin.1.2",
        "images/a.npy",
        "data/x.yaml",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(root))
    monkeypatch.setattr(label_cache, "_MOST_ENTRIES", 1)
    return root


@pytest.fixture
def cached(write_coco: Callable[..., Path], write_image: Callable[..., Path]) -> Iterator[Callable[[], None]]:
    """Return a function that fills the cache and prunes it: four entries, one of which may stay."""
    write_image("im/a.png")
    paths = [write_coco([(1, "a.png")], [(1, 1, (i, 2, 3, 4))], name=f"annotations/{i}.json") for i in range(4)]

    def fill() -> None:
        for path in paths:
            load_index(path, [path.parents[1] / "im"])

    return fill


def age(folder: Path) -> dict[Path, bytes]:
    """Make every file older than anything that is pruned, and return their contents."""
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and not file.is_symlink()}
    for file in files:
        os.utime(file, (1, 1))
    return files


def unharmed(files: dict[Path, bytes]) -> bool:
    return all(file.is_file() and file.read_bytes() == content for file, content in files.items())


def test_a_data_sets_root_as_cache_folder_keeps_every_file(root: Path, cached) -> None:
    theirs = age(root)
    cached()
    assert unharmed(theirs)
    assert {file.name for file in root.iterdir()} == {"labels", "images", "data", "yolo-attn"}
    assert len(list((root / OWN).glob("*.bin"))) == 1  # what is ours is pruned all the same


def test_strangers_in_our_own_folder_stay(root: Path, cached) -> None:
    cached()
    folder = root / OWN
    names = ("note.txt", f"{'0' * 32}.bin", f".{'1' * 32}.bin.7.7", f"{'2' * 32}.bin.bak", ".hidden", "sub/deep.bin")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"somebody's, and longer than the head of an entry" * 9)
    theirs = {file: content for file, content in age(folder).items() if file.relative_to(folder).as_posix() in names}
    assert len(theirs) == len(names)
    label_cache._prune(folder)
    cached()
    assert unharmed(theirs)


def test_links_to_files_are_neither_followed_nor_removed(root: Path, cached, tmp_path: Path) -> None:
    cached()
    folder = root / OWN
    (entry,) = folder.glob("*.bin")
    (victim := tmp_path / "victim").write_bytes(entry.read_bytes())
    planted = [folder / f"{'3' * 32}.bin", folder / f".{'4' * 32}.bin.1.1"]
    for link in planted:
        link.symlink_to(victim)
        os.utime(link, (1, 1), follow_symlinks=False)
    (folder / f"{'5' * 32}.bin").symlink_to(tmp_path / "nowhere")
    cached()
    assert victim.read_bytes() and all(link.is_symlink() for link in planted)
    label_cache.save("3" * 32, {"a": 1}, {})  # an entry takes the link's place, not its target's
    assert victim.read_bytes() != planted[0].read_bytes() and not planted[0].is_symlink()


@pytest.mark.parametrize("link", ["yolo-attn", str(OWN)])
def test_a_link_in_place_of_our_folder_is_not_followed(link: str, root: Path, cached, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / label_cache.FOLDER).mkdir(parents=True)
    (victim / "a.txt").write_text("theirs")
    (victim / "CACHEDIR.TAG").write_text(cache.MARK)
    theirs = age(victim)
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(victim)
    cached()
    assert unharmed(theirs) and len(list(victim.rglob("*"))) == 3


@pytest.mark.parametrize("marker", ["none", "another", "link"])
def test_a_folder_without_our_marker_is_not_ours(marker: str, root: Path, cached, tmp_path: Path) -> None:
    folder = root / OWN
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("theirs")
    (tmp_path / "tag").write_text(cache.MARK)
    if marker == "another":
        (folder / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of another program\n")
    elif marker == "link":
        (folder / "CACHEDIR.TAG").symlink_to(tmp_path / "tag")
    theirs = age(folder)
    cached()
    assert unharmed(theirs) and not list(folder.glob("*.bin"))


def test_links_where_other_things_are_cached_are_said_to_be_links(root: Path, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").mkdir()
    (root / "yolo-attn").mkdir()
    (root / "yolo-attn/data").symlink_to(victim)
    with pytest.raises(DataError, match="it is a link, and yolo-attn follows none"):
        write_cached("x: 1", "data")
    (root / "yolo-attn/data").unlink()
    (root / "yolo-attn").rmdir()
    (root / "yolo-attn").symlink_to(victim)
    with pytest.raises(DataError, match="set YOLO_ATTN_CACHE"):
        shapes.ensure_shapes()
    assert not any(victim.iterdir())
