"""The README says what is true: its table is generated, its commands and files exist."""

from __future__ import annotations

import re
from pathlib import Path

from yolo_attn import registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_layer_table_is_the_generated_one() -> None:
    table = README.split("<!-- layers: yolo-attn layers --markdown -->\n")[1].split("<!-- /layers -->")[0]
    assert table.strip() == registry.markdown()


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_model_named_is_a_drop_in() -> None:
    names = {re.sub(r"^(yolov8)[nsmlx]", r"\1", n) for n in re.findall(r"\byolov8[nsmlx]?-[\w-]+\.yaml", README)}
    assert names and names <= {path.name for path in (ROOT / "cfg" / "models").glob("*.yaml")}
