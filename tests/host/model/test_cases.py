"""Model YAMLs as users wrote them, reduced; the files lie beside the checkout, and without them the tests skip."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from yolo_attn.errors import RowError
from yolo_attn.host.model import check, row_arguments

tasks = pytest.importorskip("ultralytics.nn.tasks")
LOGGER = pytest.importorskip("ultralytics.utils").LOGGER
FOLDER = Path(os.environ.get("YOLO_ATTN_CASES", Path(__file__).parents[4] / "shared" / "cases")) / "yaml"
pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"cases not found in {FOLDER}"),
    pytest.mark.usefixtures("installed"),
]
ROW = 10  # the row under test
IGNORED = r"takes its width \(256\) from the row it reads; {} ignored"
KERNEL = r"{} is read as kernel_size, as in Ultralytics' own CBAM\(c1, kernel_size=7\)"

# file -> what the layer of row 10 is, and what is said about it; or how the error goes on.
BUILT: dict[str, tuple[str, dict[str, Any], str]] = {
    "cbam-k7": ("CBAM", {"reduction": 16, "kernel_size": 7}, KERNEL.format(7)),
    "cbam-w-k7": ("CBAM", {"reduction": 16, "kernel_size": 7}, f"{IGNORED.format(1024)}; {KERNEL.format(7)}"),
    "cbam-12264": ("CBAM", {"reduction": 16, "kernel_size": 3}, f"{IGNORED.format('1024, 1024')}; {KERNEL.format(3)}"),
    "cbam-20304": ("CBAM", {"reduction": 16, "kernel_size": 7}, IGNORED.format(1024)),
    "coordatt-twowidths": ("CoordAtt", {"reduction": 32}, IGNORED.format("1024, 1024")),
    "cca-twowidths": ("CrissCross", {"recurrence": 1}, IGNORED.format("1024, 1024")),
    "se-7160": ("SE", {"reduction": 16}, IGNORED.format(1024)),
    "eca-1024": ("ECA", {"kernel_size": 5}, IGNORED.format(1024)),
    "ema-1024": ("EMA", {"factor": 8}, IGNORED.format(1024)),
    "simam": ("SimAM", {"e_lambda": 1e-4}, ""),
}
REFUSED = {
    "cbam-wrongwidth": r"row 10: CBAM: 512 is .*write \[\], or {reduction: 512}",
    "a2-wrongwidth": r"row 10: DoubleAttention: 512 is .*write \[\], or {c_m: 512}",
    "mhsa-botnet": r"row 10: MHSA takes num_heads first and needs no width and height; .*write \[4\]",
    "neckkey": "'neck' is not read by Ultralytics; move its rows to the start of 'head' and renumber",
}


def load(name: str, **more: Any) -> dict[str, Any]:
    return tasks.yaml_model_load(FOLDER / f"yolov8n-{name}.yaml") | more


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the host's logger says, in a process that has said nothing yet."""
    messages: dict[str, list[str]] = {"info": [], "warning": []}
    for level, found in messages.items():
        monkeypatch.setattr(LOGGER, level, lambda text, *args, found=found: found.append(str(text)))
    monkeypatch.setattr(row_arguments, "_told", set())
    monkeypatch.setattr(check, "_told", set())
    monkeypatch.delenv(check.STRICT, raising=False)
    return messages


def test_every_file_has_a_result_here() -> None:
    assert {path.stem.removeprefix("yolov8n-") for path in FOLDER.glob("*.yaml")} == {*BUILT, *REFUSED, "deadrow"}


@pytest.mark.parametrize("name", BUILT)
def test_what_is_meant_is_built_and_said_once(name: str, said: dict[str, list[str]]) -> None:
    kind, expected, words = BUILT[name]
    for _ in range(2):
        layer = tasks.parse_model(load(name), 3, verbose=False)[0][ROW]
    assert (type(layer).__name__, layer.channels) == (kind, 256)
    assert {key: getattr(layer, key) for key in expected} == expected
    assert len(said["info"]) == bool(words) and all(re.search(words, text) for text in said["info"])


@pytest.mark.parametrize("scale", ["n", "s"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_at_every_scale(name: str, scale: str) -> None:
    with pytest.raises(RowError, match=REFUSED[name]) as caught:
        tasks.DetectionModel(load(name, scale=scale), verbose=False)
    if "wrongwidth" in name:
        assert "written 1024" in str(caught.value) and {"n": "256", "s": "512"}[scale] in str(caught.value)


def test_a_row_that_nobody_reads_is_warned_of_and_refused_if_strict(said: dict[str, list[str]], monkeypatch) -> None:
    words = "row 22, CBAM, is read by no row and learns nothing; Detect reads [15, 18, 21]: 22 instead of 21?"
    tasks.DetectionModel(load("deadrow"), verbose=False)
    assert len(said["warning"]) == 1 and said["warning"][0].endswith(words)
    monkeypatch.setenv(check.STRICT, "1")
    with pytest.raises(RowError, match="row 22, CBAM, is read by no row"):
        tasks.DetectionModel(load("deadrow"), verbose=False)
