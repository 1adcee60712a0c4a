"""Whatever people write: a row, a YAML or a name builds, or ends in an error of ours that quotes it.

Errors of the host's own rows are the host's.
"""

from __future__ import annotations

import copy
import os
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import yolo_attn
from yolo_attn import registry
from yolo_attn.errors import UnknownLayerError, YoloAttnError
from yolo_attn.layers._pasted import WIDTHS

tasks = pytest.importorskip("ultralytics.nn.tasks")

PACKAGE = str(Path(yolo_attn.__file__).parent) + os.sep
NAMES = sorted(registry.names())
ARGUMENTS = sorted(
    {argument for layer in registry.TABLE for argument in layer.arguments} | WIDTHS | {"gate", "channels"}
)
WORDS = [
    "7x7",
    "",
    "None",
    "true",
    "c2",
    "nc",
    "d",
    "args",
    "class",
    "(",
    "1e9",
    "identity",
    "conv",
    "x",
    "[",
    "{",
    "0x",
    "é",
]

numbers = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([32, 63, 64, 128, 255, 256, 512, 1024, 10**6, 10**9, 10**30, 10**1000, -(10**9)]),
)
scalars = st.one_of(numbers, st.booleans(), st.none(), st.floats(), st.sampled_from(WORDS), st.text(max_size=6))
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=3), scalars, max_size=1))
mappings = st.dictionaries(st.one_of(st.sampled_from(ARGUMENTS), st.text(max_size=4), numbers), values, max_size=3)
arguments = st.one_of(
    st.lists(numbers, max_size=4), st.lists(values, max_size=4), mappings, st.lists(mappings, max_size=2), scalars,
    st.tuples(numbers, mappings).map(list),
)  # fmt: skip
sources = st.one_of(st.just(-1), st.integers(-6, 7), st.lists(st.integers(-6, 7), max_size=2), scalars)
repeats = st.one_of(st.just(1), numbers, scalars)
spellings = st.one_of(
    st.sampled_from(NAMES), st.sampled_from(["ECA", "CBAMM", "nn.CBAM", "SELayer", "cbam"]), st.text(max_size=8)
)
NET = {
    "nc": 2,
    "scales": {"n": [1.0, 0.5, 64], "s": [1.0, 1.0, 64]},
    "backbone": [[-1, 1, "Conv", [64, 3, 8]], [-1, 1, "Conv", [128, 3, 4]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
    "yaml_file": "my.yaml",
}


@pytest.fixture(autouse=True, scope="module")
def _patched(installed) -> None:
    pass


def comes_from_us(error: BaseException) -> bool:
    """Return whether an error was raised in a file of ours."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)


def build(model: Any) -> None:
    tasks.DetectionModel(copy.deepcopy(model), verbose=False)


@given(name=spellings, args=arguments, scale=st.sampled_from("ns"))
def test_the_arguments_of_a_row(name: str, args: Any, scale: str) -> None:
    check([-1, 1, name, args], scale)


@given(name=st.sampled_from(NAMES), args=arguments, source=sources, repeat=repeats)
def test_a_row(name: str, args: Any, source: Any, repeat: Any) -> None:
    check([source, repeat, name, args], "n")


@given(row=st.one_of(values, st.lists(values, max_size=5)))
def test_something_in_place_of_a_row(row: Any) -> None:
    check(row, "n")


def check(row: Any, scale: str) -> None:
    model = {**NET, "scale": scale, "backbone": [*NET["backbone"], row]}
    try:
        build(model)
    except YoloAttnError as error:
        assert str(error).startswith("my.yaml, row 2: ") and len(str(error)) > 25
    except Exception:
        name = row[2] if isinstance(row, list) and len(row) == 4 else ""
        # The host has names that are no layers, such as torch, and looks up nn.* itself.
        assert isinstance(name, str) and name not in NAMES and (hasattr(tasks, name) or name.startswith("nn."))


@given(
    name=st.sampled_from(NAMES),
    width=st.one_of(st.sampled_from([16, 64]), scalars),
    args=st.lists(values, max_size=4),
    kwargs=st.dictionaries(st.sampled_from(ARGUMENTS), values, max_size=3),
)
def test_create(name: str, width: Any, args: list, kwargs: dict) -> None:
    kwargs.pop("channels", None)  # Python's own error: given twice
    try:
        yolo_attn.create(name, width, *args, **kwargs)
    except (YoloAttnError, ValueError) as error:
        assert str(error)


TEXT = """nc: 2
scales:
  n: [1.0, 0.5, 64]
backbone:
  - [-1, 1, Conv, [64, 3, 8]]
  - [-1, 1, CBAM, [64, 16, 7]]
  - [-1, 1, Conv, [128, 3, 4]]
  - [-1, 1, SE, {reduction: 8}]
head:
  - [[3], 1, Detect, [nc]]
"""
PIECES = [
    "- ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "*b",
    "<<: *a",
    "!!python/none",
    "#",
    "'",
    "\t",
    "neck:",
    "- -",
    "~",
]
KINDS = ["drop", "double", "swap", "indent", "cut", "insert", "key"]
EDITS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 30), st.integers(0, 30), st.sampled_from(PIECES)),
    min_size=1,
    max_size=3,
)


def edited(edits: list[tuple[str, int, int, str]]) -> str:
    lines = TEXT.splitlines()
    for kind, a, b, piece in edits:
        if not lines:
            break
        a, b = a % len(lines), b % len(lines)
        if kind == "drop":
            del lines[a]
        elif kind == "double":
            lines.insert(a, lines[b])
        elif kind == "swap":
            lines[a], lines[b] = lines[b], lines[a]
        elif kind == "indent":
            lines[a] = " " * (b % 5) + lines[a].lstrip()
        elif kind == "cut":
            lines[a] = lines[a][:b]
        elif kind == "insert":
            lines[a] = lines[a][:b] + piece + lines[a][b:]
        else:
            lines[a] = piece + lines[a].lstrip()
    return "\n".join(lines)


@given(edits=EDITS, name=st.sampled_from(["my.yaml", "yolov8n-my.yaml"]))
def test_a_file(edits: list, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(edited(edits), encoding="utf-8")
    try:
        build(tasks.yaml_model_load(path))
    except YoloAttnError as error:
        assert path.name in str(error)
    except Exception as error:
        assert not comes_from_us(error), "a raw error out of a file of ours"


BASES = ["yolov8n", "yolo11s-seg", "yolov11n", "yolo8", "YOLOv8n", "yolov5n", "rtdetr-l", "foo", "yolov8", "n", ""]
PARTS = [
    "cbam",
    "SEAttention",
    "mhsa",
    "lepe",
    "ca",
    "caa",
    "cbamm",
    "eca",
    "neck",
    "stages",
    "backbone",
    "p3",
    "neck-p3",
    "seg",
    "p6",
    "",
    " ",
    "é",
    "*",
    "[",
    "\0",
    "x" * 300,
]


@given(
    base=st.sampled_from(BASES),
    parts=st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=4)), max_size=5),
    between=st.sampled_from(["-", "_", "--"]),
    folder=st.sampled_from(["", "./", "models/"]),
)
def test_a_name(base: str, parts: list[str], between: str, folder: str) -> None:
    name = f"{folder}{between.join([base, *parts])}.yaml"
    try:
        model = tasks.yaml_model_load(name)
    except YoloAttnError as error:
        assert name in str(error) or repr(name) in str(error)
    except Exception as error:
        assert not comes_from_us(error), "a raw error out of a file of ours"
    else:
        assert model["backbone"] and model["head"] and model["yaml_file"]


@given(name=st.text(max_size=300))
def test_a_layer_that_is_none(name: str) -> None:
    try:
        registry.find(name)
    except UnknownLayerError as error:
        assert repr(name) in str(error)
