"""Any data YAML and any COCO JSON: a description or labels that hold together, or one error that names the file.

What is the same data in another spelling gives the same labels. ``HYPOTHESIS_PROFILE=thorough`` tries 2,000 of each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from yolo_attn.coco import coco_json, data_yaml, splits
from yolo_attn.coco.images import locate
from yolo_attn.coco.index import load_index
from yolo_attn.coco.masks import outlines
from yolo_attn.errors import DataError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 99),
    st.sampled_from([2**70, 1e300, float("nan"), float("inf")]),
    st.floats(),
    st.dates(),
    st.text(max_size=12),
    st.sampled_from(
        ["~no-such-user/a.json", "a\0.json", "x" * 300 + ".json", ".json", "/", ".", "..", "~", "\ud800.json"]
    ),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.integers() | st.dates(), inner, max_size=3)
    ),
    max_leaves=6,
)
PATHS = [
    "train.json",
    "val.json",
    "bare.json",
    "broken.json",
    "gone.json",
    "./sub/../val.json",
    "images",
    ["train.json"],
]
FOLDERS = ["images", ".", "images/a", "gone", ["images", "."], {"train": "images"}, {"val": "gone"}, {"train": ["."]}]
SPLIT = st.sampled_from(PATHS) | ANYTHING
DESCRIPTION = st.fixed_dictionaries(
    {},
    optional={
        "train": SPLIT,
        "val": SPLIT,
        "test": SPLIT,
        "validation": SPLIT,
        "path": st.sampled_from([".", "..", "gone"]) | ANYTHING,
        "images": st.sampled_from(FOLDERS) | ANYTHING,
        "names": st.sampled_from([["a", "b"], {0: "a", 1: "b"}, {1: "a", 3: "b"}]) | ANYTHING,
        "nc": st.sampled_from([2, "2", 2.0]) | ANYTHING,
        "kpt_shape": st.sampled_from([[2, 3], [2, 2], (2, 3)]) | ANYTHING,
        "flip_idx": st.sampled_from([[1, 0], [0]]) | ANYTHING,
        "generate": st.just("circles") | ANYTHING,
        "channels": ANYTHING,
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("properties")
    for name in ("a.png", "images/b.png", "images/a/c.png"):
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 20)).save(root / name)
    (root / "sub").mkdir()
    document = _document()
    (root / "train.json").write_text(json.dumps(document))
    (root / "val.json").write_text(json.dumps({**document, "images": document["images"][:1]}))
    (root / "bare.json").write_text(json.dumps({k: v for k, v in document.items() if k != "annotations"}))
    (root / "broken.json").write_text("{")
    return root


def _document() -> dict[str, Any]:
    return {
        "images": [
            {"id": 5, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 7, "file_name": "images/b.png", "width": 40, "height": 20},
        ],
        "annotations": [
            {
                "id": i,
                "image_id": 5 + 2 * (i % 2),
                "category_id": 1 + 2 * (i % 2),
                "bbox": [2 + i, 2, 16.5, 10],
                "area": 160,
                "iscrowd": int(i == 3),
                "segmentation": [[2 + i, 2, 18.5 + i, 2, 18.5 + i, 12, 2 + i, 12]],
                "keypoints": [5 + i, 6, 2, 7, 8.5, 1],
            }
            for i in range(4)
        ],
        "categories": [{"id": c, "name": n, "keypoints": ["left", "right"]} for c, n in ((1, "a"), (3, "b"))],
    }


def _sound(found: dict[str, Any]) -> None:
    assert found["coco"] and set(found["coco"]).isdisjoint(found["absent"])
    assert list(found["names"]) == list(range(found["nc"])) == list(range(len(found["category_ids"])))
    for split in data_yaml.SPLITS:
        assert (found[split] is None) == (split not in found["coco"] and split not in found["absent"])
        if split in found["coco"]:
            assert os.path.samefile(found[split], found["coco"][split]["json"])  # noqa: PTH121
            assert all(Path(root).is_dir() for root in found["coco"][split]["images"])
    others = [(found[s], found["coco"][s]["images"]) for s in found["coco"]]
    assert all(one[1] == other[1] for one in others for other in others if one[0] == other[0])
    assert all(text.isprintable() for text in (*found["notes"], *found["warnings"]))


@given(content=DESCRIPTION, task=st.sampled_from(["detect", "pose"]))
@example(content={"train": "~no-such-user/a.json"}, task="detect")
@example(content={"train": "train.json", "names": {1: "a", "x": "b"}}, task="detect")
def test_any_description_is_resolved_or_one_error(content: dict[Any, Any], task: str, folder: Path) -> None:
    file = folder / "data.yaml"
    try:
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    except (yaml.YAMLError, ValueError):
        assume(False)
    data_yaml.is_coco(data_yaml.read_yaml(file))
    try:
        _sound(data_yaml.describe(file, task=task))
    except DataError as error:
        assert any(name in str(error) for name in (str(file), ".json")), str(error)
        assert str(error).isprintable() and len(str(error)) < 2000


@given(text=st.text(max_size=60) | st.text("tvialrne:[]{}&*!|>-#'\" \n.js", max_size=80))
def test_any_text_is_a_description_or_one_error(text: str, folder: Path) -> None:
    file = folder / "text.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    data_yaml.is_coco(data_yaml.read_yaml(file))
    with pytest.raises(DataError, match=r"text\.yaml"):
        data_yaml.describe(file)


FIELDS = {
    "images": ["id", "file_name", "width", "height"],
    "annotations": ["image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints", "id"],
    "categories": ["id", "name", "keypoints"],
}
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(
            ["1", "5", "5.0", " 7", "07", "a", "0", "true", "[1, 2, 3, 4]", "[[1]]", "b'0'", "1e9", "a.png"]
        ),
    ),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=10,
)
CHANGES = st.lists(
    st.sampled_from([(table, field) for table, fields in FIELDS.items() for field in fields]).flatmap(
        lambda place: st.tuples(st.just(place), st.integers(0, 3), VALUES)
    ),
    min_size=1,
    max_size=4,
)


@given(changes=CHANGES, task=st.sampled_from(["detect", "segment", "pose"]))
def test_any_values_in_a_json_are_labels_that_add_up_or_one_error(changes: Any, task: str, folder: Path) -> None:
    document = _document()
    for (table, field), row, value in changes:
        document[table][row % len(document[table])][field] = value
    path = folder / "changed.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    coco_json._held.clear()
    try:
        index = load_index(path, [folder, folder / "images"], task=task, cache=False)
    except DataError as error:
        assert str(path) in str(error) and str(error).isprintable() and len(str(error)) < 1500
        return
    c = index.counts
    lost = ("crowd", "lost_boxes", "degenerate", "duplicate_boxes", "unknown_image", "unknown_category")
    assert c["boxes"] + sum(c[key] for key in lost) + c.get("without_keypoints", 0) == 4
    assert ((index.bboxes >= 0) & (index.bboxes <= 1)).all() and np.isfinite(index.kpts).all()
    assert index.summary().isprintable() and all(text.isprintable() for text in index.warnings())


def _as_text(value: Any, draw: Any) -> Any:
    """Return a number as text or as it is, the same for those in lists."""
    if isinstance(value, list):
        return [_as_text(item, draw) for item in value]
    styles = [value, str(value), f" {value}", f"{float(value):.6f}", float(value)]
    return draw(st.sampled_from(styles))


@given(data=st.data())
def test_the_same_numbers_in_another_spelling_give_the_same_labels(data: Any, folder: Path) -> None:
    draw = data.draw
    plain, other = _document(), _document()
    for note in other["annotations"]:
        for field in ("bbox", "area", "keypoints", "segmentation", "image_id", "category_id"):
            note[field] = _as_text(note[field], draw)
        note["bbox"] = draw(st.sampled_from([note["bbox"], json.dumps(note["bbox"])]))
        note["iscrowd"] = draw(st.sampled_from([note["iscrowd"], str(note["iscrowd"]), bool(note["iscrowd"])]))
        (polygon,) = note["segmentation"]
        points = [polygon[i : i + 2] for i in range(0, len(polygon), 2)]
        note["segmentation"] = draw(st.sampled_from([[polygon], polygon, points, [points], json.dumps([polygon])]))
        xyv = [note["keypoints"][i : i + 3] for i in (0, 3)]
        note["keypoints"] = draw(st.sampled_from([note["keypoints"], xyv]))
    for image in other["images"]:
        image["id"] = draw(st.sampled_from([int, str, float]))(image["id"])
    kind = draw(st.sampled_from([int, str, float]))  # of mixed kinds, numbers come before texts
    for category in other["categories"]:
        category["id"] = kind(category["id"])
    made = []
    for document in (plain, other):
        (folder / "spelled.json").write_text(json.dumps(document))
        coco_json._held.clear()
        for task in ("detect", "segment", "pose"):
            made.append(load_index(folder / "spelled.json", [folder], task=task, cache=False))
    for one, same in zip(made[:3], made[3:], strict=True):
        assert (one.names, one.files) == (same.names, same.files)
        for column in ("cls", "bboxes", "starts", "points", "kpts"):
            np.testing.assert_array_equal(getattr(one, column), getattr(same, column))


PART = st.text("abAB1 é%-_.", min_size=1, max_size=6).filter(lambda t: t.strip(" .") == t and t not in (".", ".."))
PREFIXES = [
    "",
    "./",
    "images/",
    "images\\1/",
    "/data/upload/3/",
    "C:\\x y\\",
    "/content/images/",
    "../images/",
    "s3://b/k/",
]


@given(
    parts=st.lists(PART, min_size=1, max_size=3), prefix=st.sampled_from(PREFIXES), others=st.lists(PART, max_size=2)
)
def test_a_name_finds_its_own_file_or_none(parts: list[str], prefix: str, others: list[str], tmp_path: Path) -> None:
    root = Path(os.path.realpath(tmp_path)) / str(abs(hash((tuple(parts), prefix, tuple(others))))) / "images"
    wanted = root.joinpath(*parts[:-1], f"{parts[-1]}.jpg")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_bytes(b"x")
    for other in others:
        file = root / f"{other}.jpg"
        assume(not file.is_dir())
        file.write_bytes(b"y")
    name = prefix + "/".join([*parts[:-1], f"{parts[-1]}.jpg"])
    try:
        (found,), _, _ = locate([name], [str(root)])
    except DataError as error:
        assert repr(name)[:60] in str(error)
        return
    assert found == str(wanted) or "%" in name


@given(bits=st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=12))
def test_an_outline_has_the_area_of_its_mask_without_holes(bits: list[int]) -> None:
    bitmap = np.array([[row >> i & 1 for i in range(12)] for row in bits], dtype=np.uint8)
    parts, has_hole = outlines(bitmap)
    regions = cv2.connectedComponents(np.pad(1 - bitmap, 1, constant_values=1), connectivity=4)[1]
    filled = (regions != regions[0, 0])[1:-1, 1:-1]
    area = sum(_area(p.round()) for p in parts)
    assert area == filled.sum() and has_hole == bool((filled != bitmap.astype(bool)).any())


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2))


@given(train=st.sets(st.integers(0, 7), min_size=1), val=st.sets(st.integers(0, 7), min_size=1))
def test_shared_images_are_those_in_both(train: set[int], val: set[int], folder: Path) -> None:
    pool = folder / "pool"
    pool.mkdir(exist_ok=True)
    for i in range(8):
        (pool / f"{i}.jpg").write_bytes(bytes([i]))
    where = {}
    for split, own in (("train", train), ("val", val)):
        document = {**_document(), "images": [{"id": i, "file_name": f"{i}.jpg"} for i in own], "annotations": []}
        path = folder / f"pool_{split}.json"
        path.write_text(json.dumps(document))
        where[split] = {"json": str(path), "images": [str(pool)], "fingerprint": str((split, sorted(own)))}
    coco_json._held.clear()
    shared, total, example_file = splits.shared_images(where["train"], where["val"])
    assert (shared, total) == (len(train & val), len(val))
    assert not shared or int(Path(example_file).stem) in train & val
