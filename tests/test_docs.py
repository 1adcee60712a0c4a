"""README, its Chinese mirror and the pages of docs/ say what is true: parts are generated, files and models exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from shown_commands import PAGES, ROOT, bare, blocks, commands

from experiments import evidence
from yolo_attn.graft import split_name
from yolo_attn.host.run import demo

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
ENDING = ".zh-CN.md"
MIRRORS = [page for page in PAGES if page.name.endswith(ENDING)]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts" / "make_docs.py"
    spec = importlib.util.spec_from_file_location("make_docs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_parts_are_those_of_the_registry_and_the_results(page: Path, script: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    assert script.render(page) == text, "run: python scripts/make_docs.py"
    markers = set(re.findall(r"<!-- /([\w-]+) -->", text))
    assert markers <= set(script.sections())
    assert not re.search(r"<!-- ([\w-]+) -->\s*<!-- /\1 -->", text), "an empty part"
    assert "| `` |" not in text, "an empty cell that shows its quotes"


def test_the_demo_shown_is_the_demo() -> None:
    record = evidence.load(ROOT / "results", "demo")
    assert record is not None and record["settings"]["command"] == demo.SETTINGS


def test_every_generated_part_has_a_page(script: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for chinese in (False, True):
        missing = [marker for marker, part in script.sections(chinese).items() if not part or part not in text]
        assert not missing, f"on no page: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_readme_is_one_screen_and_links_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 8000
    linked = {(ROOT / target).resolve() for target in LINK.findall(text)}
    assert {page for page in (ROOT / "docs").glob("*.md") if page not in MIRRORS} <= linked
    assert ROOT / "docs/yolo-attn.ipynb" in linked
    # Three pictures in all: what the demo finds, the head of a report, and what a layer does.
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()) < 250_000


@pytest.mark.parametrize("page", MIRRORS, ids=lambda page: page.name)
def test_a_chinese_page_mirrors_its_english_one(page: Path) -> None:
    original = page.with_name(page.name.replace(ENDING, ".md"))
    english, chinese = (one.read_text(encoding="utf-8") for one in (original, page))
    assert [bare(block) for block in blocks(english)] == [bare(block) for block in blocks(chinese)]
    assert _levels(english) == _levels(chinese)
    assert _columns(english) == _columns(chinese)
    assert re.findall(r"<!-- /([\w-]+) -->", english) == re.findall(r"<!-- /([\w-]+) -->", chinese)
    assert commands(english) == commands(chinese)
    assert f"English · [简体中文]({page.name})" in english and f"[English]({original.name}) · 简体中文" in chinese
    theirs = {target.replace(ENDING, ".md") for target in LINK.findall(chinese)}
    assert {target for target in LINK.findall(english) if target != page.name} == theirs - {original.name}
    if page == CHINESE:
        assert _first_columns(english) == _first_columns(chinese)


@pytest.mark.parametrize("page", MIRRORS, ids=lambda page: page.name)
def test_a_chinese_page_links_chinese_pages_where_there_are(page: Path) -> None:
    original = page.name.replace(ENDING, ".md")
    mirrored = {mirror.name.replace(ENDING, ".md") for mirror in MIRRORS}
    english = {Path(target).name for target in LINK.findall(page.read_text(encoding="utf-8"))} & mirrored
    assert english <= {original}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_heading_exists(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        linked = (page.parent / target if target else page).read_text(encoding="utf-8")
        names = re.findall(r"^#+ (.*)$", linked, re.M)
        assert heading in {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


def test_ci_runs_the_test_command_word_for_word() -> None:
    program = next(line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("command="))
    found = subprocess.run(
        ["bash", "-c", f'{program}; printf %s "$command"'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert found == "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n 2"


def test_every_grafted_model_named_has_a_base_a_layer_and_a_place() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = set(re.findall(r"\b((?:yolo|rtdetr)[\w-]+)\.yaml", text)) - {
        "yolo11n",
        "yolov8n",
        "my-yolo11n",
        "yolov8-cbam",
        "yolov8n-myattention",
    }
    readings = {name: split_name(name) for name in names}
    assert len(names) > 12
    assert all(
        len(found) == 1 and "-" not in re.sub("-(seg|obb|pose)$", "", found[0][0]) for found in readings.values()
    )


def _first_columns(text: str) -> list[str]:
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    return [cell for cell in rows if not re.fullmatch(r"-+|you write|写法|name|名称", cell)]


def _columns(text: str) -> list[int]:
    """Return the number of cells of each line of a table."""
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


def _levels(text: str) -> list[int]:
    return [len(hashes) for hashes in re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.S), re.M)]
