"""Records of results: complete, named by what they are, and the only source of the README's numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments import evidence
from yolo_attn.errors import DataError

RESULTS = Path(__file__).parents[2] / "results"
ROWS = [
    {"model": "a", "layer": "SE", "place": p, "tensors": 9, "stock": s, "ours": 9, "difference": 0.0}
    for p, s in (("x", 1), ("y", 2))
]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_every_record_is_complete_and_has_its_name(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    evidence.check(content)
    version, device, task = path.stem.split("--")
    assert (version, task) == (content["versions"]["yolo-attn"], content["task"])
    assert device == content["machine"]["device"].lower().replace(" ", "-")
    assert not re.search(r'"/(root|home|work|tmp)\b', path.read_text(encoding="utf-8")), "a path of one machine"


def test_a_record_is_written_and_found_again(tmp_path: Path) -> None:
    content = evidence.record("transfer", {"layer": "SE"}, ROWS, "python scripts/x.py")
    path = evidence.save(content, tmp_path)
    assert path.name == f"{content['versions']['yolo-attn']}--{content['machine']['device'].lower()}--transfer.json"
    assert evidence.load(tmp_path, "transfer") == content
    assert evidence.load(tmp_path, "other") is None
    assert evidence.transfer_table(content).splitlines()[-1] == "| a | 9 | 1 | 2 | 9 | 0 |"
    others = [{**ROWS[0], "layer": name, "ours": ours} for name, ours in (("CBAM", 9), ("BAM", 8))]
    partial = {**content, "rows": [ROWS[0], {**ROWS[1], "model": "b"}, *others]}
    *_, last, _, said = evidence.transfer_table(partial).splitlines()
    assert last == "| b | 9 | - | 2 | 9 | 0 |" and said.startswith("The other 2 layers in a: 1 of 2 insertions lose no")
    *_, last, _, said = evidence.transfer_table(partial, chinese=True).splitlines()
    assert last == "| b | 9 | - | 2 | 9 | 0 |" and said.startswith("其余 2 种层在 a 中：2 次插入中有 1 次不丢失张量")


@pytest.mark.parametrize("field", evidence.FIELDS)
def test_a_record_without_a_field_is_refused(field: str, tmp_path: Path) -> None:
    content = evidence.record("t", {}, ROWS, "c")
    del content[field]
    with pytest.raises(DataError, match=f"'{field}'"):
        evidence.save(content, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_study_table_shows_mean_and_half_the_spread() -> None:
    row = {"layer": "SE", "place": "neck", "start": "identity", "seeds": 3}
    row |= {"epoch 0": 0.4, "spread 0": 0.0, "epoch 1": 0.41, "spread 1": 0.02}
    table = evidence.study_table({"rows": [row]})
    assert table.splitlines()[-1] == "| SE | neck | all tensors, identity start | 0.400 ± 0.000 | 0.410 ± 0.010 |"
    head, _, last = evidence.study_table({"rows": [row]}, chinese=True).splitlines()
    assert head == "| 层 | 位置 | 起点 | 训练前 | 1 轮后 |"
    assert last == "| SE | neck | 全部张量，恒等映射 | 0.400 ± 0.000 | 0.410 ± 0.010 |"
