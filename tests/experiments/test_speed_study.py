"""The comparison with stock training: the same labels on both sides, ratios within a round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments import evidence, speed_study
from yolo_attn.coco import shapes
from yolo_attn.coco.data_yaml import describe
from yolo_attn.coco.index import load_index


def test_converted_labels_are_those_of_the_json(tmp_path: Path) -> None:
    shapes.write_shapes(tmp_path / "data", {"train": 6, "val": 3})
    file = tmp_path / "data.yaml"
    images = {split: f"data/images/{split}" for split in ("train", "val")}
    splits = {split: f"data/annotations/{split}.json" for split in ("train", "val")}
    file.write_text(yaml.safe_dump({**splits, "images": images}))
    made = yaml.safe_load(speed_study.write_yolo_labels(file, tmp_path / "yolo").read_text())
    found = describe(file)
    assert made["names"] == found["names"]
    index = load_index(found["train"], [tmp_path / "data/images/train"])
    assert index.counts["boxes"] > 6
    for i, image in enumerate(index.files):
        lines = (tmp_path / "yolo/labels/train" / f"{Path(image).stem}.txt").read_text().split()
        rows = np.array(lines, dtype=np.float32).reshape(-1, 5)
        cls, boxes = index.labels(i)
        np.testing.assert_array_equal(rows, np.concatenate([cls, boxes], 1))
        assert (tmp_path / "yolo" / made["train"] / Path(image).name).is_file()


def test_ratios_are_taken_within_a_round() -> None:
    def run(model: str, stock: bool, turn: int, speed: float) -> dict:
        same = {"memory": 1.0, "mAP50-95": 0.1, "mAP50": 0.2}
        return {"model": model, "stock": stock, "round": turn, "images/s": speed, "images/cpu s": 2 * speed, **same}

    runs = [run("a.yaml", True, 0, 10), run("a.yaml", False, 0, 9), run("b.yaml", False, 0, 5)]
    runs += [run("b.yaml", False, 1, 12), run("a.yaml", False, 1, 22), run("a.yaml", True, 1, 20)]
    stock, ours, other = speed_study.summarise(runs)
    assert (stock["ratio"], stock["rounds"]) == (1, 2)
    assert ours["ratio"] == pytest.approx(1.0) and ours["ratio range"] == pytest.approx([0.9, 1.1])
    assert other["cpu ratio"] == pytest.approx(0.55)
    table = evidence.speed_table({"rows": [stock, ours]}).splitlines()
    assert table[2].endswith("| 15.00 | 1.00 | 1 | 2 |") and table[3].endswith("| 1.000 (0.900-1.100) | 2 |")
