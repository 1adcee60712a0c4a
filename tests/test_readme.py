"""The README says what is true: its table is generated, its commands and files exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from yolo_attn.graft import split_name

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_parts_are_those_of_the_registry_and_the_results() -> None:
    path = ROOT / "scripts" / "make_readme.py"
    spec = importlib.util.spec_from_file_location("make_readme", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.render(README) == README, "run: python scripts/make_readme.py"
    assert all(part in README for part in script.sections().values())


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_grafted_model_named_has_a_base_a_layer_and_a_place() -> None:
    names = set(re.findall(r"\b((?:yolo|rtdetr)[\w-]+)\.yaml", README)) - {"yolo11n", "my-yolo11n", "yolov8-cbam"}
    readings = {name: split_name(name) for name in names}
    assert len(names) > 28
    assert all(
        len(found) == 1 and "-" not in re.sub("-(seg|obb|pose)$", "", found[0][0]) for found in readings.values()
    )
