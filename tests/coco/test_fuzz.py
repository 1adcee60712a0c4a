"""Damaged COCO files: each ends in labels that account for every row, or in one DataError that names the file."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn.coco import coco_json
from yolo_attn.coco.index import CocoIndex, load_index
from yolo_attn.coco.json_entries import RefusedError
from yolo_attn.coco.labels import TASKS
from yolo_attn.errors import DataError

PER_BATCH = 60
LOST = ("crowd", "lost_boxes", "degenerate", "duplicate_boxes", "unknown_image", "unknown_category")
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, 10**30, -(10**30), 1e300, -1e300, 1e-320, float("nan"), float("inf"),
    float("-inf"), "", "a", "1", "\ud800", "ключ\u0301", "a/../b.png", "\0", [], {}, [[]], [1, 2], [[1, 2, 3]],
    [None] * 4, [0, 0, 0, 0], [1e9, 1e9, 1e9, 1e9], "x" * 5000, [[[[[[]]]]]], {"size": [20, 40], "counts": "0"},
    {"size": [2**40, 2**40], "counts": [2**80]}, {"size": [20, 40], "counts": [400, -1, 401]}, {"a": 1},
    [[0.0] * 7], [[1, 1] * 3], [[5, 5, 30, 5, 30, 15], "a"], [9, 9, 2] * 400,
]  # fmt: skip


def _document() -> dict[str, Any]:
    polygon = [2.5, 2, 18.25, 2, 18, 12, 3, 11]
    masks = [
        [polygon],
        [polygon, [20, 5, 30, 5, 25, 15]],
        {"size": [20, 40], "counts": [45, 10, 10, 10, 725]},
        {"size": [20, 40], "counts": "]6::00000000000000000N2002N00000000000000S6"},
        [],
        [polygon],
        {"size": [20, 40], "counts": [0, 800]},
        [polygon],
    ]
    return {
        "info": {"year": 2020},
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 8, "file_name": "sub/b.png", "width": 40, "height": 20},
            {"id": 9, "file_name": "missing.png", "width": 40, "height": 20},
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 7 + i % 3,
                "category_id": 1 + 2 * (i % 2),
                "bbox": [2 + i, 2, 16.5, 10],
                "area": 160,
                "iscrowd": int(i == 6),
                "segmentation": mask,
                "keypoints": [5 + i, 6, 2, 7, 8.5, 1, 0, 0, 0],
            }
            for i, mask in enumerate(masks)
        ],
        "categories": [
            {"id": 1, "name": "cat", "keypoints": ["left", "right", "tail"]},
            {"id": 3, "name": "dog", "keypoints": ["left", "right", "tail"]},
        ],
    }


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield container and key of everything in a document."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _nodes(value[key])


def _mutate_structure(rng: random.Random) -> tuple[str, bytes]:
    document = _document()
    said = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        container, key = rng.choice(list(_nodes(document)))
        action = rng.choice(["delete", "rename", "junk", "duplicate", "shuffle", "swap"])
        said.append(f"{action} {key!r} of {str(container)[:60]}")
        if action == "delete":
            del container[key]
        elif action == "rename" and isinstance(container, dict):
            container[rng.choice([str(key).upper(), "", "id", "image_id"])] = container.pop(key)
        elif action == "duplicate" and isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
        elif action == "shuffle" and isinstance(container[key], list):
            rng.shuffle(container[key])
        elif action == "swap":
            other, place = rng.choice(list(_nodes(document)))
            container[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(container[key])
        else:
            container[key] = copy.deepcopy(rng.choice(JUNK))
    return "; ".join(said), json.dumps(document).encode()


def _mutate_values(rng: random.Random) -> tuple[str, bytes]:
    document = _document()
    table = rng.choice(["images", "annotations", "annotations", "annotations", "categories"])
    field = rng.choice(list(document[table][0]))
    said = []
    for row in document[table]:
        if rng.random() < 0.4 or not said:
            container, key = row, field
            inner = list(_nodes(row[field]))
            if inner and rng.random() < 0.5:
                container, key = rng.choice(inner)
            value = copy.deepcopy(rng.choice(JUNK))
            if isinstance(container[key], int | float) and rng.random() < 0.5:
                value = container[key] * rng.choice([-1, 0, 1e3, 1e14, 1.0])
            container[key] = value
            said.append(f"{table} {field} {key!r} = {str(value)[:60]!r}")
    return "; ".join(said), json.dumps(document, ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass")


def _mutate_bytes(rng: random.Random) -> tuple[str, bytes]:
    text = bytearray(json.dumps(_document()).encode())
    said = []
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, length = rng.randrange(len(text)), rng.choice([1, 1, 2, 8, 40])
        action = rng.choice(["cut", "drop", "flip", "digit", "insert", "repeat"])
        said.append(f"{action} {length} at {at}")
        if action == "cut":
            del text[at:]
        elif action == "drop":
            del text[at : at + length]
        elif action == "flip":
            text[at] ^= 1 << rng.randrange(8)
        elif action == "digit":
            places = [i for i in range(len(text)) if chr(text[i]).isdigit()]
            if places:
                text[rng.choice(places)] = ord(rng.choice("0123456789-e."))
        elif action == "insert":
            text[at:at] = rng.choice(
                [b"NaN", b"null", b"[", b"}", b",", b"\xff", b"\xef\xbb\xbf", b"1e999", b'"', b"{}"]
            )
        else:
            text[at:at] = text[at : at + length]
        if not text:
            break
    return "; ".join(said), bytes(text)


LEVELS: dict[str, Callable[[random.Random], tuple[str, bytes]]] = {
    "structure": _mutate_structure, "values": _mutate_values, "bytes": _mutate_bytes,
}  # fmt: skip


def _outcome(path: Path, roots: list[Path], task: str) -> CocoIndex | str:
    try:
        return load_index(path, roots, task=task, cache=False)
    except DataError as error:
        return str(error)


def _check(index: CocoIndex, content: bytes) -> None:
    document = json.loads(content)
    c = index.counts
    assert c["images"] + c["duplicate_images"] + c["missing_images"] + c["unreadable_images"] == len(document["images"])
    assert c["boxes"] + sum(c[key] for key in LOST) + c.get("without_keypoints", 0) == len(
        document.get("annotations", [])
    )
    assert c["images"] == len(index) == len(index.ids) > 0
    assert c["boxes"] == index.starts[-1] == len(index.bboxes)
    assert sum(map(len, index.ids)) == c["images"] + c["duplicate_images"] - _same_rows(document["images"])
    for i in range(len(index)):
        cls, boxes = index.labels(i)
        assert (cls >= 0).all() and (cls < len(index.names)).all()
        assert ((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] > 0).all()
        if index.task == "segment":
            segments = index.segments(i)
            assert len(segments) == len(cls)
            assert all(len(s) >= 3 and ((s >= 0) & (s <= 1)).all() and (np.ptp(s, axis=0) > 0).all() for s in segments)
        if index.task == "pose":
            keypoints = index.keypoints(i)
            assert keypoints.shape == (len(cls), *index.kpt_shape)
            assert ((keypoints[..., :2] >= 0) & (keypoints[..., :2] <= 1)).all()
            assert (keypoints[..., 2] >= 0).all() and (keypoints[..., 2] > 0).any(-1).all()
    assert index.summary().isprintable()


def _same_rows(images: list[dict[str, Any]]) -> int:
    return len(images) - len({image["id"] for image in images})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.png", "sub/b.png", "1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 20)).save(folder / name)
    return folder


@pytest.mark.parametrize("batch", range(3))
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("task", TASKS)
def test_a_damaged_file_is_labels_that_add_up_or_one_error(task, level, batch, folder: Path, monkeypatch) -> None:
    path = folder / "damaged.json"
    rng = random.Random(f"{task} {level} {batch}")
    errors = 0
    for number in range(PER_BATCH):
        said, content = LEVELS[level](rng)
        path.write_bytes(content)
        try:
            outcome = _outcome(path, [folder], task)
            if isinstance(outcome, CocoIndex):
                _check(outcome, content)
            else:
                errors += 1
                assert str(path) in outcome and outcome.isprintable() and len(outcome) < 1500
            with monkeypatch.context() as patch:
                patch.setattr(coco_json, "quick_entries", _refuse)
                coco_json._held.clear()
                same = _outcome(path, [folder], task)
            coco_json._held.clear()
            if isinstance(outcome, CocoIndex):
                assert isinstance(same, CocoIndex), same
                assert same.counts == outcome.counts
                assert same.bboxes.tobytes() == outcome.bboxes.tobytes()
                assert same.points.tobytes() == outcome.points.tobytes()
            else:
                # Of several faults the thorough reader tells the one of structure first.
                assert same == outcome or (isinstance(same, str) and "must hold objects" in same)
        except Exception as error:
            raise AssertionError(f"mutation {number}: {said}\n{content!r}") from error
    assert 0 < errors < PER_BATCH


def _refuse(content: bytes) -> None:
    raise RefusedError


@pytest.mark.parametrize("task", TASKS)
def test_the_file_before_the_damage_is_sound(task, folder: Path) -> None:
    path = folder / "sound.json"
    path.write_text(json.dumps(_document()))
    index = load_index(path, [folder], task=task, cache=False)
    _check(index, path.read_bytes())
    assert index.counts["boxes"] == 5
    assert index.counts["lost_boxes"] == 2
