"""Imports go one way, in no circle, and one room alone knows Ultralytics; imports inside functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRONT_DOOR = "yolo_attn"
# From the top down; a room may import from its own line and from those below.
ORDER = (
    ("scripts", "experiments", "yolo_attn.cli", "yolo_attn.verb", "yolo_attn.__main__"),
    (FRONT_DOOR,),
    ("yolo_attn.study", "yolo_attn.bench"),
    ("yolo_attn.host",),
    (
        *("yolo_attn.registry", "yolo_attn.table", "yolo_attn.listing", "yolo_attn.contract"),
        *("yolo_attn.own_names", "yolo_attn.plugins", "yolo_attn.own"),
        *("yolo_attn.blocks", "yolo_attn.graft", "yolo_attn.wiring", "yolo_attn.coco", "yolo_attn.look"),
    ),
    ("yolo_attn.fast",),
    ("yolo_attn.layers",),
    ("yolo_attn.tabular",),
    ("yolo_attn.errors", "yolo_attn.cache", "yolo_attn.fonts", "yolo_attn.switches", "yolo_attn._version"),
)
# Loads by name: each layer's file stands alone without them, and ``fast`` loads its forms when one is asked for.
BY_NAME = {
    ("yolo_attn.layers", "yolo_attn.registry"): "the table says which names the package has",
    ("yolo_attn.layers.gated", "yolo_attn.registry"): "Gated('CBAM', 64), as rows and old scripts build it",
    ("yolo_attn.layers._fast", "yolo_attn.fast"): "the one place that looks up a faster form, if there is one",
}
Imports = dict[str, set[str]]


def modules() -> dict[str, Path]:
    found = {}
    for top, folder in (("yolo_attn", ROOT / "yolo_attn"), ("", ROOT / "scripts")):
        for path in sorted(folder.rglob("*.py")):
            parts = [top, *path.relative_to(folder).with_suffix("").parts]
            if not top and len(parts) == 2:
                parts[0] = "scripts"
            found[".".join(part for part in parts if part and part != "__init__")] = path
    return found


def imported(tree: ast.AST, package: str, known: Mapping[str, object]) -> Iterator[str]:
    """Yield what a file imports, by the longest name that is a module of ours or by the name as it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # read by type checkers, never run
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


@pytest.fixture(scope="module")
def imports() -> Imports:
    known = modules()
    found = {}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = set(imported(ast.parse(path.read_text(encoding="utf-8")), package, known))
    return found


def inside(imports: Imports) -> Iterator[tuple[str, str]]:
    """Yield who imports whom among our own modules, but for the loads by name."""
    for name, targets in imports.items():
        for target in targets & imports.keys():
            if not any(name == a and within(target, b) for a, b in BY_NAME):
                yield name, target


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def level(name: str) -> int:
    if name == FRONT_DOOR:
        return 1
    (found,) = {i for i, rooms in enumerate(ORDER) for room in rooms if room != FRONT_DOOR and within(name, room)}
    return found


def circle(edges: Iterator[tuple[str, str]]) -> list[str]:
    graph: dict[str, set[str]] = {}
    for a, b in edges:
        if a != b:
            graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_go_down(imports: Imports) -> None:
    assert len(imports) > 90 and sum(1 for _ in inside(imports)) > 150
    assert [f"{a} imports {b}" for a, b in inside(imports) if level(b) < level(a)] == []


def test_no_import_goes_in_a_circle(imports: Imports) -> None:
    assert circle(inside(imports)) == []


def test_rooms_do_not_import_in_a_circle(imports: Imports) -> None:
    def room(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[: 3 if parts[:2] == ["yolo_attn", "host"] else 2])

    assert circle((room(a), room(b)) for a, b in inside(imports)) == []


def test_only_the_host_room_and_the_experiments_know_ultralytics(imports: Imports) -> None:
    knowing = {name for name, targets in imports.items() if any(within(t, "ultralytics") for t in targets)}
    assert "yolo_attn.host.model.surgery" in knowing
    assert [n for n in knowing if not within(n, "yolo_attn.host") and not within(n, "experiments")] == []


def test_the_loads_by_name_are_still_there(imports: Imports) -> None:
    for (name, target), reason in BY_NAME.items():
        if name in imports:  # fast forms are optional
            assert any(within(t, target) for t in imports[name]), reason
