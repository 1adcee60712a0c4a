"""Labels from the cache folder: the same as without it, and never those of something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn.coco import coco_json
from yolo_attn.coco import images as coco_images
from yolo_attn.coco import index as coco
from yolo_attn.coco import label_cache as coco_cache
from yolo_attn.coco.index import CocoIndex, load_index
from yolo_attn.coco.label_cache import fingerprint, read_header
from yolo_attn.errors import DataError

POLYGON = [2, 2, 12, 2, 12, 12, 2, 12]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/yolo-attn" / coco_cache.FOLDER


@pytest.fixture
def data(write_coco: Callable[..., Path], write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes a JSON of three images, one of them missing, with everything in it."""

    def write(**more: Any) -> Path:
        for name in ("im/a.png", "im/день/b.png"):
            write_image(name)
        rows = [
            (1, 1, (2, 2, 10, 10), {"segmentation": [POLYGON], "keypoints": [5, 5, 2]}),
            (
                "x",
                3,
                (1, 1, 50, 5),
                {"segmentation": {"size": [20, 40], "counts": [45, 10, 745]}, "keypoints": [6, 6, 1]},
            ),
            (2**70, 1, (1, 1, 5, 5), {"keypoints": [1, 1, 2]}),
            (3.0, 1, (0, 0, 1, 1), {"keypoints": [1, 1, 2]}),
        ]
        images = [(1, "a.png"), ("x", "день/b.png"), (2**70, "gone \ud800.png"), (3.0, "a.png")]
        return write_coco(images, rows, **more)

    return write


def _load(path: Path, **more: Any) -> CocoIndex:
    return load_index(path, [path.parent.parent / "im"], **more)


def _same(one: CocoIndex, other: CocoIndex) -> None:
    for field in fields(CocoIndex):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.shape == b.shape, field.name
            assert a.tobytes() == b.tobytes(), field.name
            assert not a.flags.writeable and not b.flags.writeable
        else:
            assert a == b, field.name
            assert repr(a) == repr(b), field.name  # 1 and 1.0 and True are equal


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each time that labels are made anew."""
    made: list[str] = []
    original = coco.make_labels

    def make_labels(table: Any, task: str, *rest: Any) -> Any:
        made.append(task)
        return original(table, task, *rest)

    monkeypatch.setattr(coco, "make_labels", make_labels)
    return made


@pytest.mark.parametrize("task", ["detect", "segment", "pose"])
def test_the_second_index_is_the_same_and_not_made_anew(task, data, cache, built) -> None:
    path = data()
    first = _load(path, task=task)
    second = _load(path, task=task)
    assert built == [task]
    _same(first, second)
    _same(first, _load(path, task=task, cache=False))
    assert built == [task, task]
    assert first.summary() == second.summary()


def test_a_second_index_needs_no_json_and_no_picture(data, cache, monkeypatch) -> None:
    path = data()
    first = _load(path)
    coco_json._held.clear()
    monkeypatch.setattr(coco_json, "quick_entries", None)
    monkeypatch.setattr(coco_images, "_size", None)
    _same(first, _load(path))


def test_without_cache_nothing_is_read_or_written(data, cache) -> None:
    _load(data(), cache=False)
    assert not cache.exists()


def test_nothing_is_written_beside_the_data(data, cache, tmp_path: Path) -> None:
    path = data()
    before = {file for folder in ("annotations", "im") for file in (tmp_path / folder).rglob("*")}
    _load(path)
    assert {file for folder in ("annotations", "im") for file in (tmp_path / folder).rglob("*")} == before
    assert sorted(file.suffix for file in cache.iterdir()) == [".TAG", ".bin"]


def _change_json(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [3, 3, 5, 5]
    path.write_text(json.dumps(document))
    return {}


def _change_image(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    write_image("im/a.png", (80, 20))
    return {}


def _touch_image(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    os.utime(path.parent.parent / "im/a.png", ns=(1, 1))
    return {}


def _remove_image(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    (path.parent.parent / "im/a.png").unlink()
    return {}


def _add_image(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    document = json.loads(path.read_text())
    document["images"][2]["file_name"] = "now here.png"
    path.write_text(json.dumps(document))
    _load(path)
    write_image("im/now here.png")
    return {}


def _shadow_image(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    roots = [path.parent.parent / "first", path.parent.parent / "im"]
    load_index(path, roots)
    write_image("first/a.png", (60, 20))
    return {"image_roots": roots}


def _move_image(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    roots = [path.parent.parent / "first", path.parent.parent / "im"]
    load_index(path, roots)
    roots[0].mkdir()
    (roots[1] / "a.png").rename(roots[0] / "a.png")
    return {"image_roots": roots}


def _other_roots(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    write_image("other/a.png", (60, 20))
    return {"image_roots": [path.parent.parent / "other"]}


def _other_task(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    return {"task": "segment"}


def _other_categories(path: Path, write_image: Callable[..., Path]) -> dict[str, Any]:
    return {"categories": [(0, "new"), (1, "a"), (3, "b")]}


CHANGES = [
    _change_json, _change_image, _touch_image, _remove_image, _add_image, _shadow_image, _move_image, _other_roots,
    _other_task, _other_categories,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_each_thing_that_matters_makes_labels_anew(change, data, cache, built, write_image) -> None:
    path = data()
    _load(path)
    more = {"image_roots": [path.parent.parent / "im"], **change(path, write_image)}
    built.clear()
    made = load_index(path, **more)
    assert len(built) == 1
    _same(made, load_index(path, **more, cache=False))


def test_another_version_makes_labels_anew(data, cache, built, monkeypatch) -> None:
    path = data()
    for name, value in (("_FORMAT", -1), ("__version__", "0")):
        _load(path)
        monkeypatch.setattr(coco_cache, name, value)
    _load(path)
    assert len(built) == 3


def test_only_changed_images_are_looked_into_again(data, cache, monkeypatch, write_image) -> None:
    path = data()
    _load(path)
    write_image("im/a.png", (80, 20))
    looked = []
    original = coco_images._size
    monkeypatch.setattr(coco_images, "_size", lambda file: looked.append(Path(file).name) or original(file))
    index = _load(path)
    assert set(looked) == {"a.png"}
    assert index.sizes.tolist() == [[20, 80], [20, 40]]


def test_a_moved_json_keeps_its_labels(data, cache, built) -> None:
    path = data()
    _load(path)
    moved = path.rename(path.with_name("moved.json"))
    index = _load(moved)
    assert len(built) == 1
    assert index.path == str(moved)
    assert index.summary().startswith("moved.json")


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "folder", "junk"])
def test_a_damaged_entry_is_written_anew(damage, data, cache, built) -> None:
    path = data()
    first = _load(path)
    (entry,) = cache.glob("*.bin")
    content = entry.read_bytes()
    if damage == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        entry.write_bytes({"cut": content[:-1], "flip": flipped, "empty": b"", "junk": b"\x93NUMPY" * 99}[damage])
    _same(first, _load(path))
    assert len(built) == 2
    if damage != "folder":
        assert entry.read_bytes()[:32] == content[:32]


def test_a_cache_folder_that_cannot_be_written_is_no_error(data, tmp_path: Path, monkeypatch, built) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "file"))
    path = data()
    _same(_load(path), _load(path))
    assert len(built) == 2


def test_a_full_disk_leaves_nothing_behind(data, cache, monkeypatch) -> None:
    def replace(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", replace)
    _load(data())
    assert [file.name for file in cache.iterdir()] in ([], ["CACHEDIR.TAG"])


@pytest.mark.parametrize("limit", ["_MOST_ENTRIES", "_MOST_BYTES"])
def test_old_entries_and_what_killed_processes_left_are_removed(limit, data, cache, monkeypatch) -> None:
    path = data()
    _load(path)
    (entry,) = cache.glob("*.bin")
    monkeypatch.setattr(coco_cache, limit, 2 if limit == "_MOST_ENTRIES" else int(2.7 * entry.stat().st_size))
    stale, fresh = (cache / f".{entry.name}.{pid}.2" for pid in (1, 2))
    stale.write_bytes(entry.read_bytes()[:100])
    for age, file in enumerate((stale, fresh, *cache.glob("*.bin"))):
        file.touch()
        if file != fresh:
            os.utime(file, (1 + age, 1 + age))
    (oldest,) = cache.glob("*.bin")
    for task in ("segment", "pose"):
        _load(path, task=task)
    assert not stale.exists() and not oldest.exists()
    assert fresh.exists()
    assert len(list(cache.glob("*.bin"))) == 2


def test_processes_that_write_at_once_read_sound_entries(data, cache, tmp_path: Path) -> None:
    path = data()
    program = (
        "import sys\n"
        "from yolo_attn.coco import label_cache as coco_cache\n"
        "from yolo_attn.coco.index import load_index\n"
        "for _ in range(30):\n"
        "    for entry in coco_cache.cache_folder().glob('*/*.bin'): entry.unlink(missing_ok=True)\n"
        "    print(load_index(sys.argv[1], [sys.argv[2]]).counts['boxes'])\n"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "im")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].split() for process in running] == [["3"] * 30] * 2
    assert {file.suffix for file in cache.iterdir()} <= {".bin", ".TAG"}


def test_a_header_is_kept_by_content(data, cache, monkeypatch) -> None:
    path = data()
    first = read_header(path)
    moved = path.rename(path.with_name("moved.json"))
    coco_json._held.clear()
    monkeypatch.setattr(coco_json, "quick_entries", None)
    second = read_header(moved)
    assert second.path == str(moved)
    assert {f.name for f in fields(first) if getattr(first, f.name) != getattr(second, f.name)} == {"path"}
    assert second.fingerprint == fingerprint(moved)
    assert second.keypoint_count == 1


def test_a_header_without_annotations_serves_test_images_only(write_coco, cache) -> None:
    path = write_coco([(1, "a.png")], None)
    for _ in range(2):
        assert not read_header(path, require_annotations=False).is_annotated
        with pytest.raises(DataError, match="key 'annotations' is missing"):
            read_header(path)


def test_a_header_says_what_is_wrong_with_the_file_that_was_asked_for(write_coco, cache) -> None:
    path = write_coco([(1, "a.png")])
    read_header(path)
    moved = path.rename(path.with_name("moved.json"))
    assert read_header(moved).pose_problem.startswith(f"{moved}: has no 'keypoints'")
