"""What changed in a release of Ultralytics, said in words; releases here are written by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import canary
from experiments.versions import ULTRALYTICS

ROOT = Path(__file__).parents[2]
PARSE = '''
def parse_model(d, ch, verbose=True):
    """Old words."""
    base_modules = frozenset({Conv, Bottleneck, SPPF})
    for i in d:
        if m in base_modules:
            c2 = make(ch)
        else:
            c2 = ch[f]
'''


@pytest.fixture
def release(tmp_path: Path):
    """Return a function that writes a release with ``parse_model`` in a file."""

    def write(name: str, text: str, file: str = "nn/tasks.py", version: str = "8.5.0") -> Path:
        package = tmp_path / name / "ultralytics"
        (package / file).parent.mkdir(parents=True)
        (package / file).write_text(text)
        (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
        return package

    return write


CHANGES = [
    ("SPPF}", "SPPF, NewBlock}", "parse_model: new modules in base_modules: NewBlock"),
    ("SPPF}", "SPP}", "parse_model: modules in base_modules gone: SPPF"),
    ("c2 = make(ch)", "c2 = width = make(ch)", "parse_model: new locals: width"),
    ("verbose=True", "verbose=True, device=None", "parse_model: signature was (d, ch, verbose=True), is"),
    ("make(ch)", "build(ch)", "parse_model: new calls: build"),
    ("make(ch)", "make(ch, 2)", "parse_model: changed inside; names and calls are the same"),
    ("c2 = ch[f]", "c2 = ch[f] * 1", "parse_model: module switches gone: else of: m in base_modules"),
    ("def parse_model", "def parse_rows", "parse_model is gone"),
]


@pytest.mark.parametrize(("old", "new", "said"), CHANGES, ids=[said for _, _, said in CHANGES])
def test_a_change_is_said_in_words(old: str, new: str, said: str, release) -> None:
    before = canary.fingerprint(release("before", PARSE))
    after = canary.fingerprint(release("after", PARSE.replace(old, new)))
    assert any(line.startswith(said) for line in canary.compare(before, after))


def test_a_function_that_moved_is_found(release) -> None:
    before = canary.fingerprint(release("before", PARSE))
    after = canary.fingerprint(release("after", PARSE, "nn/parse.py"))
    assert canary.compare(before, after) == ["parse_model: moved from nn/tasks.py to nn/parse.py"]


def test_other_words_other_lines_and_other_layout_are_no_change(release) -> None:
    other = "# a comment\n\n" + PARSE.replace("Old", "New").replace(
        "{Conv, Bottleneck", "{\n        Conv,\n        Bottleneck"
    )
    before, after = (canary.fingerprint(release(name, text)) for name, text in (("before", PARSE), ("after", other)))
    assert canary.compare(before, after) == []


def test_every_tested_release_is_on_record_and_has_what_we_need() -> None:
    recorded = canary.recorded()
    assert {*ULTRALYTICS} - {"newest"} <= recorded.keys()
    for version, found in recorded.items():
        joints = {name for functions in canary.JOINTS.values() for name in functions}
        assert joints <= found.keys(), version
        assert len(found["parse_model"]["module switches"]) == 1, version


def test_the_installed_release_is_the_recorded_one_if_it_is_recorded() -> None:
    ultralytics = pytest.importorskip("ultralytics")
    package = Path(ultralytics.__file__).parent
    if ultralytics.__version__ not in canary.recorded():
        pytest.skip("no fingerprint of this release is on record")
    assert canary.compare(canary.recorded()[ultralytics.__version__], canary.fingerprint(package)) == []


def test_the_command_compares_and_records(release, tmp_path: Path) -> None:
    package = release("new", PARSE)
    command = [sys.executable, str(ROOT / "scripts/canary.py"), str(package.parent)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "BaseModel.load is gone" in done.stdout
    assert done.stdout.startswith(f"Ultralytics 8.5.0 against {list(canary.recorded())[-1]}: ")
