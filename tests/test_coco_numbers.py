"""The official numbers are pycocotools' own: boxes, masks, keypoints, every class, every oddity of the data."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_attn.coco.evaluation import MEASURES, PERSON_SIGMAS, Evaluation, evaluate, notes
from yolo_attn.coco.table import read_table
from yolo_attn.errors import DataError

DATA = Path(os.environ.get("YOLO_ATTN_DATA", Path(__file__).parents[2] / "shared" / "data"))
# Both judges run the same arithmetic on the same numbers; only the order of sums may differ.
EXACT = 1e-6
FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


class Judge:
    """pycocotools on a JSON and predictions in COCO's own format."""

    def __init__(self, path: Path, predictions: list[dict], kind: str = "bbox"):
        from pycocotools.coco import COCO

        self.kind = kind
        rows = [{k: p[k] for k in ("image_id", "category_id", "score", FIELDS[kind])} for p in predictions]
        with contextlib.redirect_stdout(io.StringIO()):
            self.truth = COCO(str(path))
            self.found = self.truth.loadRes(rows)

    def run(self, **parameters: Any) -> np.ndarray:
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            judge = COCOeval(self.truth, self.found, self.kind)
            vars(judge.params).update(parameters)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return judge.stats


def check(path: Path, predictions: list[dict], kind: str = "bbox", **parameters: Any) -> Evaluation:
    """Evaluate all images of a JSON and compare every number, and every number of every class, with pycocotools."""
    table = read_table(path)
    ours = evaluate(table, predictions, table.image_ids, kind=kind)
    judge = Judge(path, predictions, kind)
    assert list(ours.numbers) == [measure.name for measure in MEASURES[kind]]
    np.testing.assert_allclose(list(ours.numbers.values()), judge.run(**parameters), atol=EXACT)
    assert [(row["id"], row["name"]) for row in ours.per_class] == list(table.categories)
    place = {name: i for i, name in enumerate(ours.numbers)}
    for row in ours.per_class:
        alone = judge.run(catIds=[row["id"]], **parameters)
        for name in set(row) - {"id", "name", "images", "instances"}:
            assert row[name] == pytest.approx(alone[place[name]], abs=EXACT), (row["name"], name)
    return ours


def polygon(box: Sequence[float], rng: np.random.Generator, points: int = 12) -> list[float]:
    """Return an uneven outline within a box, as flat x, y."""
    x, y, w, h = box
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = rng.uniform(0.6, 1, points) / 2
    outline = np.stack([x + w / 2 + radius * w * np.cos(angle), y + h / 2 + radius * h * np.sin(angle)], axis=1)
    return outline.round(2).ravel().tolist()


def disturbed(document: dict, noise: float, kind: str, seed: int = 0) -> list[dict]:
    """Return up to three predictions for each annotation, some of another class, with coarse scores that tie."""
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    size = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    categories = [category["id"] for category in document["categories"]]
    made = []
    for note in document["annotations"]:
        for _ in range(rng.integers(0, 4)):
            row = {"image_id": note["image_id"], "category_id": note["category_id"]}
            if rng.uniform() < 0.15:
                row["category_id"] = categories[rng.integers(len(categories))]
            x, y, w, h = note["bbox"]
            box = [x + rng.normal(0, noise) * w, y + rng.normal(0, noise) * h, w, h] * np.exp(rng.normal(0, noise, 4))
            row["bbox"] = box.round(3).tolist()
            if kind == "segm":
                h, w = size[note["image_id"]]
                shapes = note["segmentation"]
                if isinstance(shapes, dict):
                    shapes = [polygon(box, rng)]
                shapes = [
                    (np.array(s).reshape(-1, 2) + rng.normal(0, noise * 0.2, 2) * box[2:]).ravel() for s in shapes
                ]
                encoded = mask.merge(mask.frPyObjects([s.tolist() for s in shapes], h, w))
                row["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
            if kind == "keypoints":
                points = np.array(note["keypoints"], dtype=float).reshape(-1, 3)
                points[:, :2] += rng.normal(0, noise, (len(points), 2)) * np.sqrt(w * h)
                points[:, 2] = rng.uniform(size=len(points))
                row["keypoints"] = points.round(3).ravel().tolist()
            made.append({**row, "score": round(float(rng.uniform(0.05, 1)), 2)})
    return made


@pytest.mark.parametrize("noise", [0.01, 0.06, 0.15])
@pytest.mark.parametrize(
    "file, kind",
    [
        ("coco128/annotations/instances_train2017.json", "bbox"),
        ("coco128/annotations/instances_train2017.json", "segm"),
        ("bccd/annotations/instances_val.json", "bbox"),
    ],
)
def test_real_data_at_every_quality(file: str, kind: str, noise: float) -> None:
    path = DATA / file
    if not path.is_file():
        pytest.skip(f"no {file} in {DATA}")
    document = json.loads(path.read_text())
    ours = check(path, disturbed(document, noise, kind), kind)
    assert 0.005 < ours.numbers["AP"] < 0.98
    assert ours.images == len(document["images"])
    assert ours.crowds == sum(note["iscrowd"] for note in document["annotations"])
    assert ours.instances == len(document["annotations"]) - ours.crowds
    assert sum(row["instances"] for row in ours.per_class) == ours.instances
    first = ours.per_class[0]
    of_first = [n for n in document["annotations"] if n["category_id"] == first["id"] and not n["iscrowd"]]
    assert (first["images"], first["instances"]) == (len({n["image_id"] for n in of_first}), len(of_first))


@pytest.fixture
def write_people(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a keypoint JSON: crowds, objects without labelled points, objects of all sizes."""

    def write(k: int, categories: int = 2, seed: int = 0, **changed: Any) -> Path:
        rng = np.random.default_rng(seed)
        notes = []
        for i in range(90):
            box = np.round([*rng.uniform(0, 300, 2), *np.exp(rng.uniform(2.5, 5.5, 2))], 2)
            points = np.column_stack([box[:2] + rng.uniform(0, 1, (k, 2)) * box[2:], rng.integers(0, 3, k)])
            if i % 9 == 0:
                points[:] = 0
            notes.append(
                {
                    "id": i + 1,
                    "image_id": int(rng.integers(1, 13)),
                    "category_id": int(rng.integers(1, categories + 1)),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.uniform(0.4, 0.9)),
                    "iscrowd": int(i % 13 == 0),
                    "keypoints": points.round(1).ravel().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
        names = [f"p{j}" for j in range(k)]
        document = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 600, "height": 600} for i in range(1, 16)],
            "annotations": notes,
            "categories": [{"id": c, "name": f"c{c}", "keypoints": names} for c in range(1, categories + 1)],
            **changed,
        }
        path = tmp_path / f"people{k}.json"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.08])
def test_keypoints_of_people(noise: float, write_people) -> None:
    path = write_people(17)
    ours = check(path, disturbed(json.loads(path.read_text()), noise, "keypoints"), "keypoints")
    assert 0.005 < ours.numbers["AP"] < 0.98
    # 90 objects: numbers 0, 13, 26, ... are crowds, of the others those with a number in 0, 9, 18, ... have no points.
    assert (ours.crowds, ours.ignored, ours.instances) == (7, 9, 74)
    assert ours.notes == ()
    counted = [n for n in json.loads(path.read_text())["annotations"] if n["num_keypoints"] and not n["iscrowd"]]
    for row in ours.per_class:
        images = [n["image_id"] for n in counted if n["category_id"] == row["id"]]
        assert (row["images"], row["instances"]) == (len(set(images)), len(images))


def test_keypoints_of_another_number(write_people) -> None:
    path = write_people(5)
    predictions = disturbed(json.loads(path.read_text()), 0.1, "keypoints")
    ours = check(path, predictions, "keypoints", kpt_oks_sigmas=np.full(5, 1 / 5))
    assert 0.005 < ours.numbers["AP"] < 0.98
    assert ours.notes == ("COCO has no sigmas for 5 keypoints; 1/5 is used for each, as Ultralytics does",)
    table = read_table(path)
    sigmas = [0.02, 0.05, 0.1, 0.2, 0.03]
    own = evaluate(table, predictions, table.image_ids, kind="keypoints", sigmas=sigmas)
    expected = Judge(path, predictions, "keypoints").run(kpt_oks_sigmas=np.array(sigmas))
    np.testing.assert_allclose(list(own.numbers.values()), expected, atol=EXACT)
    assert own.numbers["AP"] < ours.numbers["AP"] and own.notes == ()
    for wrong in ([0.1] * 4, [0.1, 0.1, 0.1, 0.1, 0]):
        with pytest.raises(DataError, match=r"sigmas=.*must be 5 positive numbers, one for each keypoint of .*people5"):
            evaluate(table, predictions, table.image_ids, kind="keypoints", sigmas=wrong)


def test_sigmas_of_people_are_cocos() -> None:
    from pycocotools.cocoeval import Params

    assert pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist()) == PERSON_SIGMAS


def scattered(rng: np.random.Generator, count: int, images: Sequence[Any], most: float = 220) -> list[tuple]:
    boxes = np.round(rng.uniform((0, 0, 4, 4), (most, most, most, most), (count, 4)), 2)
    return [(images[i % len(images)], (1, 3)[i % 2], box.tolist()) for i, box in enumerate(boxes)]


def guesses(annotations: list[tuple], rng: np.random.Generator, score: float | None = None) -> list[dict]:
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": (np.array(box) + rng.normal(0, 6, 4)).clip(0).round(3).tolist(),
            "score": round(float(rng.uniform()), 1) if score is None else score,
        }
        for image, category, box, *_ in annotations
        for _ in range(3)
    ]


@pytest.mark.parametrize(
    "ids", [(1, 2, 3), (2**53, 2**53 + 1, 0), (2**62, 2**62 + 1, 0), ("10", "9", "x"), ("ü", "A/b", "a")]
)
def test_image_ids_of_any_kind(ids: tuple, write_coco) -> None:
    rng = np.random.default_rng(3)
    boxes = [
        (*row, {"area": row[2][2] * row[2][3] * 0.7, "iscrowd": int(i % 11 == 0)})
        for i, row in enumerate(scattered(rng, 60, ids))
    ]
    path = write_coco([(id_, f"{i}.png") for i, id_ in enumerate(ids)], boxes, info={})
    assert 0.05 < check(path, guesses(boxes, rng)).numbers["AP"] < 0.95


def test_category_ids_of_any_kind_mean_the_same(write_coco) -> None:
    rng = np.random.default_rng(3)
    boxes = scattered(rng, 40, [1, 2])
    found = guesses(boxes, rng)
    images = [(1, "a.png"), (2, "b.png")]
    plain = check(write_coco(images, boxes, info={}), found)
    for one, two in ((0, 1), (7, 2**70), ("cat", "dog"), (4, "x")):
        renamed = [({1: one, 3: two}[c], box, image) for image, c, box in boxes]
        path = write_coco(images, [(image, c, box) for c, box, image in renamed], {one: "a", two: "b"})
        moved = [{**p, "category_id": {1: one, 3: two}[p["category_id"]]} for p in found]
        table = read_table(path)
        ours = evaluate(table, moved, table.image_ids)
        assert ours.numbers == plain.numbers
        assert [row["id"] for row in ours.per_class] == [one, two]


def test_equal_scores_are_ordered_by_image_and_file(write_coco) -> None:
    rng = np.random.default_rng(5)
    boxes = scattered(rng, 60, [9, 3, 5])
    path = write_coco([(i, f"{i}.png") for i in (9, 3, 5)], boxes, info={})
    found = guesses(boxes, rng, score=0.5)
    rng.shuffle(found)
    numbers = check(path, found).numbers
    assert check(path, found[::-1]).numbers != numbers


def test_images_without_predictions_or_truth_and_categories_without_truth(write_coco) -> None:
    rng = np.random.default_rng(1)
    boxes = scattered(rng, 20, [1, 2])
    path = write_coco([(i, f"{i}.png") for i in range(1, 5)], boxes, {1: "a", 2: "none", 3: "b"}, info={})
    found = [p for p in guesses(boxes, rng) if p["image_id"] == 1]
    found += [{**found[0], "image_id": 4}, {**found[0], "category_id": 2}]
    ours = check(path, found)
    assert ours.per_class[1] == {"id": 2, "name": "none", "images": 0, "instances": 0} | dict.fromkeys(
        ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"), -1
    )


def test_only_crowd_regions_leave_nothing_to_measure(write_coco) -> None:
    boxes = [(1, 1, (0, 0, 30, 15), {"iscrowd": 1})]
    path = write_coco([(1, "a.png")], boxes, info={})
    ours = check(path, guesses(boxes, np.random.default_rng(0)))
    assert set(ours.numbers.values()) == {-1.0}
    assert (ours.crowds, ours.instances) == (1, 0)


def test_an_empty_list_of_annotations_leaves_nothing_to_measure(write_coco) -> None:
    table = read_table(write_coco([(1, "a.png")]))
    guess = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    for found in ([], [guess]):
        assert set(evaluate(table, found, [1]).numbers.values()) == {-1.0}


@pytest.mark.parametrize("kind", FIELDS)
def test_no_predictions_are_zeros(kind: str, write_people) -> None:
    path = write_people(17)
    document = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for note in document["annotations"]:
        note["segmentation"] = [polygon(note["bbox"], rng)]
    path.write_text(json.dumps(document))
    table = read_table(path)
    ours = evaluate(table, [], table.image_ids, kind=kind)
    assert set(ours.numbers.values()) == {0.0}
    assert len(ours.per_class) == 2 and all(row["AP"] == 0 for row in ours.per_class)


def test_predictions_beyond_100_in_an_image_are_cut_and_counted(write_coco) -> None:
    rng = np.random.default_rng(2)
    boxes = scattered(rng, 150, [1])
    path = write_coco([(1, "a.png"), (2, "b.png")], boxes, info={})
    found = guesses(boxes, rng)
    ours = check(path, found)
    assert ours.cut == 2 * (75 * 3 - 100)
    kept = sorted(found, key=lambda p: -p["score"])
    few = [p for c in (1, 3) for p in [q for q in kept if q["category_id"] == c][:100]]
    assert check(path, few).cut == 0


@pytest.mark.parametrize("size", [(64, 48), (6000, 4000)])
def test_small_medium_large_are_in_original_pixels(size: tuple[int, int], write_coco) -> None:
    areas = (31.9**2, 32.0**2, 32.1**2, 95.9**2, 96.0**2, 96.1**2)
    boxes = [(1, 1, (i * 40, i * 2, 20 + i, 20), {"area": area}) for i, area in enumerate(areas)]
    path = write_coco([(1, "a.png", size)], boxes, info={})
    exact = [{"image_id": 1, "category_id": 1, "bbox": list(b[2]), "score": 0.9 - 0.1 * i} for i, b in enumerate(boxes)]
    ours = check(path, exact[::2])
    assert ours.numbers["AR100"] == pytest.approx(0.5)
    # An area on a limit belongs to both sides.
    assert [ours.numbers[n] for n in ("ARs", "ARm", "ARl")] == pytest.approx([1 / 2, 2 / 4, 1 / 2])


def test_annotation_id_0_counts_though_pycocotools_loses_it(write_coco) -> None:
    path = write_coco([(1, "a.png")], [(1, 1, (0, 0, 10, 10), {"id": 0})], info={})
    guess = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9}]
    ours = evaluate(read_table(path), guess, [1])
    assert ours.numbers["AP"] == pytest.approx(1)
    assert Judge(path, guess).run()[0] == pytest.approx(0)
    assert "id 0" in ours.notes[0] and list(ours.notes) == notes(read_table(path))


def test_repeated_annotation_ids_all_count(write_coco) -> None:
    boxes = [(1, 1, (0, 0, 10, 10), {"id": 5}), (1, 1, (20, 0, 10, 10), {"id": 5})]
    guess = [{"image_id": 1, "category_id": 1, "bbox": list(b[2]), "score": 0.9} for b in boxes]
    ours = evaluate(read_table(write_coco([(1, "a.png")], boxes)), guess, [1])
    assert ours.numbers["AR100"] == 1 and ours.instances == 2
    assert "1 annotation ids are repeated" in ours.notes[0]


@pytest.mark.parametrize("kind", FIELDS)
def test_missing_areas_are_made_up_for_and_noted(kind: str, write_people) -> None:
    from pycocotools import mask

    path = write_people(17)
    document = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for note in document["annotations"]:
        note["segmentation"] = [polygon(note["bbox"], rng), polygon(note["bbox"], rng)]
    predictions = disturbed(document, 0.05, kind)
    for note in document["annotations"][::2]:
        note["area"] = None
    path.write_text(json.dumps(document))
    ours = evaluate(read_table(path), predictions, range(1, 16), kind=kind)
    for note in document["annotations"][::2]:
        shape = mask.merge(mask.frPyObjects(note["segmentation"], 600, 600))
        note["area"] = float(mask.area(shape)) if kind == "segm" else note["bbox"][2] * note["bbox"][3]
    path.with_name("filled.json").write_text(json.dumps(document))
    expected = Judge(path.with_name("filled.json"), predictions, kind).run()
    np.testing.assert_allclose(list(ours.numbers.values()), expected, atol=EXACT)
    used = "the area of the mask" if kind == "segm" else "width x height of the box"
    assert ours.notes == (f"45 annotations have no 'area'; {used} is used",)


def test_an_image_listed_twice_counts_once(write_coco) -> None:
    rng = np.random.default_rng(4)
    boxes = scattered(rng, 30, [1, 2])
    found = guesses(boxes, rng)
    once = check(write_coco([(1, "a.png"), (2, "b.png")], boxes, info={}), found)
    table = read_table(write_coco([(1, "a.png"), (2, "b.png"), (1, "a.png")], boxes, name="twice.json"))
    assert evaluate(table, found, [2, 1, 1, 2]) == once


def test_images_and_categories_that_are_asked_for(write_coco) -> None:
    rng = np.random.default_rng(4)
    boxes = scattered(rng, 60, [1, 2, 3])
    path = write_coco([(i, f"{i}.png") for i in (1, 2, 3)], boxes, info={})
    found = guesses(boxes, rng)
    ours = evaluate(read_table(path), found, [3, 1], [3])
    np.testing.assert_allclose(list(ours.numbers.values()), Judge(path, found).run(imgIds=[1, 3], catIds=[3]))
    assert [row["id"] for row in ours.per_class] == [3]
    assert ours.per_class[0]["AP"] == ours.numbers["AP"] > 0
    assert (ours.images, ours.instances, ours.cut) == (2, 20, 0)


@pytest.mark.parametrize("kind", FIELDS)
def test_categories_can_be_left_out_of_account(kind: str, write_people) -> None:
    path = write_people(17)
    document = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for note in document["annotations"]:
        note["segmentation"] = [polygon(note["bbox"], rng)]
    path.write_text(json.dumps(document))
    predictions = disturbed(document, 0.05, kind)
    ours = evaluate(read_table(path), predictions, range(1, 16), use_categories=False, kind=kind)
    document["annotations"].sort(key=lambda note: note["category_id"])
    for note in document["annotations"]:
        note["category_id"] = 1
    path.with_name("one.json").write_text(json.dumps(document))
    in_one = [{**p, "category_id": 1} for p in sorted(predictions, key=lambda p: p["category_id"])]
    expected = Judge(path.with_name("one.json"), in_one, kind).run(catIds=[1])
    np.testing.assert_allclose(list(ours.numbers.values()), expected, atol=EXACT)
    if kind != "keypoints":  # pycocotools itself compares no keypoints without categories
        np.testing.assert_allclose(expected, Judge(path, predictions, kind).run(useCats=0), atol=EXACT)
    assert ours.per_class == []
    foreign = [{**p, "category_id": 77} for p in in_one]
    moved = evaluate(read_table(path), foreign, range(1, 16), use_categories=False, kind=kind)
    assert moved.numbers == pytest.approx(ours.numbers)


def test_without_categories_equal_overlaps_are_ordered_by_category(write_coco) -> None:
    # The wide guess covers half of either box; the one it takes decides whether the second guess finds its own.
    boxes = [(1, 3, (0, 0, 10, 10)), (1, 1, (10, 0, 10, 10))]
    path = write_coco([(1, "a.png")], boxes, info={})
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 10], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.8},
    ]
    ours = evaluate(read_table(path), found, [1], use_categories=False)
    np.testing.assert_allclose(list(ours.numbers.values()), Judge(path, found).run(useCats=0), atol=EXACT)


def test_a_category_of_another_split_changes_no_number(write_coco) -> None:
    rng = np.random.default_rng(4)
    boxes = scattered(rng, 30, [1])
    table = read_table(write_coco([(1, "a.png")], boxes))
    found = guesses(boxes, rng)
    more = [*found, *[{**found[0], "category_id": 9}] * 101]
    assert evaluate(table, more, [1], [1, 3, 9]) == evaluate(table, found, [1], [1, 3])
    with pytest.raises(DataError, match=r"101 predictions name categories that are not in 'categories' of .*: ids 9"):
        evaluate(table, more, [1])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": "x"}, r"1 predictions name images that are not in 'images' of .*train.json: ids 'x'"),
        ({"category_id": 2}, r"1 predictions name categories that are not in 'categories' of .*train.json: ids 2"),
        ({"score": None}, r"1 of 2 predictions have no 'score', like \{'image_id': 1"),
        ({"bbox": None}, r"1 of 2 predictions have no 'bbox'"),
        ({"score": float("nan")}, r"1 predictions have a score that is no number, like"),
    ],
)
def test_predictions_are_never_lost_in_silence(change: dict, message: str, write_coco) -> None:
    table = read_table(write_coco([(1, "a.png")], [(1, 1, (0, 0, 9, 9))]))
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    with pytest.raises(DataError, match=message):
        evaluate(table, [good, {**good, **change}], [1])


def test_what_cannot_be_evaluated_says_why(write_coco, write_people) -> None:
    table = read_table(write_coco([(1, "a.png")], [(1, 1, (0, 0, 9, 9))]))
    with pytest.raises(DataError, match=r"this JSON has no annotations: predictions.json is for submission"):
        evaluate(replace(table, is_annotated=False), [], [1])
    with pytest.raises(DataError, match="no annotation has 'segmentation'"):
        evaluate(table, [], [1], kind="segm")
    with pytest.raises(DataError, match="no annotation has 'keypoints'"):
        evaluate(table, [], [1], kind="keypoints")
    with pytest.raises(DataError, match=r"2 images to evaluate are not in 'images' of .*: ids 4, 5"):
        evaluate(table, [], [1, 4, 5])
    with pytest.raises(ValueError, match="kind='boxes': must be one of bbox, segm, keypoints"):
        evaluate(table, [], [1], kind="boxes")
    short = {"image_id": 1, "category_id": 1, "keypoints": [1.0, 2.0, 1.0], "score": 0.5}
    with pytest.raises(
        DataError, match=r"1 predictions have keypoints of 3 numbers, .*people17.json has 17 points: 51"
    ):
        evaluate(read_table(write_people(17)), [short], [1], kind="keypoints")


# Masks.


def squares(write_coco, sizes: Sequence[tuple[int, int]], segmentations: Sequence[Any], **more: Any) -> Path:
    images = [(i + 1, f"{i}.png", size) for i, size in enumerate(sizes)]
    notes = [(i + 1, 1, (2, 3, 8, 6), {"segmentation": s}) for i, s in enumerate(segmentations)]
    return write_coco(images, notes, info={}, **more)


def encoded(box: Sequence[float], height: int, width: int) -> dict[str, Any]:
    from pycocotools import mask

    made = mask.frPyObjects(np.array([box], dtype=float), height, width)[0]
    return {"size": made["size"], "counts": made["counts"].decode()}


def test_masks_of_every_spelling_are_the_same(write_coco) -> None:
    from pycocotools import mask

    rle = encoded((2, 3, 8, 6), 20, 40)
    columns = mask.decode(rle).ravel(order="F")
    edges = np.flatnonzero(np.diff(columns)) + 1
    runs = np.diff([0, *edges.tolist(), len(columns)]).tolist()
    outline = [[2, 3, 10, 3, 10, 9, 2, 9]]
    path = squares(write_coco, [(40, 20)] * 3, [rle, {"size": [20, 40], "counts": runs}, outline])
    found = [{"image_id": i, "category_id": 1, "segmentation": rle, "score": 0.9} for i in (1, 2, 3)]
    ours = check(path, found, "segm")
    assert ours.numbers["AP"] == pytest.approx(1) and ours.notes == ()


def test_masks_are_compared_in_the_true_size_of_the_image(write_coco) -> None:
    # The JSON states sizes that are wrong or none; the decoded image is 40 x 20.
    for size in ((20, 40), (0, 0)):
        table = read_table(squares(write_coco, [size], [[[2, 3, 10, 3, 10, 9, 2, 9]]]))
        found = [{"image_id": 1, "category_id": 1, "segmentation": encoded((2, 3, 8, 6), 20, 40), "score": 0.9}]
        assert evaluate(table, found, [1], kind="segm", sizes={1: (20, 40)}).numbers["AP"] == pytest.approx(1)
    with pytest.raises(DataError, match=r"1 images have no 'width' and 'height', which masks need, like 1"):
        evaluate(table, found, [1], kind="segm")
    with pytest.raises(DataError, match=r"1 predicted masks are not of their image's size; the first, of image 1, has"):
        evaluate(table, found, [1], kind="segm", sizes={1: (40, 20)})


def test_the_box_stands_for_a_mask_that_is_missing_or_of_another_size(write_coco) -> None:
    whole = encoded((2, 3, 8, 6), 20, 40)
    path = squares(write_coco, [(40, 20)] * 3, [None, encoded((2, 3, 8, 6), 30, 40), whole])
    found = [{"image_id": i, "category_id": 1, "segmentation": whole, "score": 0.9} for i in (1, 2, 3)]
    ours = evaluate(read_table(path), found, [1, 2, 3], kind="segm")
    assert ours.numbers["AP"] == pytest.approx(1)
    assert ours.notes == ("2 annotations have no mask of their image's size; the box is used",)


def test_a_predicted_mask_has_its_own_area_even_beside_a_box(write_coco) -> None:
    # A large true mask, and a false one that is small though its box is large: COCO's results have no such box.
    path = squares(write_coco, [(400, 400)], [encoded((0, 0, 300, 300), 400, 400)])
    document = json.loads(path.read_text())
    document["annotations"][0] |= {"area": 90000, "bbox": [0, 0, 300, 300]}
    path.write_text(json.dumps(document))
    true = {"segmentation": encoded((0, 0, 300, 300), 400, 400), "bbox": [0, 0, 300, 300], "score": 0.5}
    false = {"segmentation": encoded((380, 380, 9, 9), 400, 400), "bbox": [0, 0, 300, 300], "score": 0.9}
    found = [{"image_id": 1, "category_id": 1, **p} for p in (true, false)]
    ours = check(path, found, "segm")
    assert ours.numbers["APl"] == pytest.approx(1) and ours.numbers["AP"] == pytest.approx(0.5)
