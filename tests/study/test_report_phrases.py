"""The report's phrases: both languages whole, with the same blanks, all of them used and all that are used there."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import yolo_attn.study.report as package
from yolo_attn.study import statistics
from yolo_attn.study.report.page import typeset
from yolo_attn.study.report.phrases import PHRASES, say
from yolo_attn.study.report.reading import KINDS, OVERALL, SIZES
from yolo_attn.study.report.sentences import signed

ROOM = Path(package.__file__).parent
SAME = {"coco.AP", "coco.AP50", "coco.AP75", "ultralytics.map", "ultralytics.map50", "gflops", "axis_gflops"}
BUILT = {f"vs_{kind}" for kind in KINDS[1:3]} | {f"axis_{cost}" for cost in ("latency", "gflops")} | {*OVERALL, *SIZES}
BUILT |= {f"caption_{cost}" for cost in ("latency", "gflops")} | {f"answer_{v}" for v in ("better", "worse", "chance")}
BUILT |= {f"method_{line}" for line in KINDS[1:3]}


def blanks(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", PHRASES)
def test_a_phrase_is_whole_in_both_languages(key: str) -> None:
    english, chinese = PHRASES[key]
    assert blanks(english) == blanks(chinese)
    assert not re.search(r"[\u3000-\u9fff\uff00-\uffef]", english)
    words = re.sub(r"\{\w+\}", "", english)
    if key in SAME:
        assert english == chinese
    elif re.search(r"[A-Za-z]{2}", words):
        assert re.search(r"[\u4e00-\u9fff]", chinese)
    assert not re.search(r"[\u4e00-\u9fff][,;:!?]", chinese), "Chinese words take Chinese punctuation"


def test_every_phrase_is_used() -> None:
    files = [file for file in ROOM.iterdir() if file.is_file() and file.name != "phrases.py"]
    text = "".join(file.read_text(encoding="utf-8") for file in [*files, Path(statistics.__file__)])
    assert [key for key in PHRASES if f'"{key}"' not in text and key not in BUILT] == []


def test_every_phrase_that_is_asked_for_is_there() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in ROOM.iterdir() if file.is_file())
    asked = set(re.findall(r'\bsay\("([\w.]+)"(?! ~)', text))
    assert len(asked) > 50 and asked - PHRASES.keys() == set()
    assert BUILT - PHRASES.keys() == set()


def test_no_phrase_of_the_page_stands_outside_the_table() -> None:
    page = (ROOM / "page.html.jinja").read_text(encoding="utf-8")
    body = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", page[page.index("<body>") :])
    words = set(re.findall(r"[^\W\d_]{2,}", re.sub(r"<[^>]*>", " ", body)))
    assert words == {"English", "中文"}


def test_say_fills_blanks() -> None:
    assert say("trials_done", "en", done=1, planned=2) == "1 of 2 trials"
    assert say("trials_done", "zh", done=1, planned=2) == "完成 1/2 次训练"


def test_numbers_are_set_with_care() -> None:
    assert [signed(x, 1) for x in (0.44, -0.44, 0.04, -0.04)] == ["+0.4", "-0.4", "0.0", "0.0"]
    assert typeset("yolov8n-3 x-2d -0.4 [-0.3, +1.1] q = 0.2 q < 0.001") == (
        "yolov8n-3 x-2d \u22120.4 [\u22120.3,\u00a0+1.1] q\u00a0=\u00a00.2 q\u00a0<\u00a00.001"
    )
