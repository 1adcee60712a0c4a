"""What a release of Ultralytics changed in the functions that we replace or rely on, in words.

A fingerprint is read from the source and holds names alone: where each function is, its signature, its locals, the sets
of modules that it keeps, what it calls, and a digest of its syntax tree without docstrings and messages.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolo_attn.host.joints import JOINTS

FOLDER = Path(__file__).parents[2] / "tests/fingerprints"
# Beside the joints: what finds model YAMLs, writes the file of multi-GPU workers and loads checkpoints.
RELIED_ON = {
    "ultralytics.nn.tasks": ("torch_safe_load", "_SafeLoad._build", "_SafeLoad.loading", "guess_model_task"),
    "ultralytics.utils.checks": ("check_yaml", "check_file"),
    "ultralytics.utils.dist": ("generate_ddp_file", "generate_ddp_command"),
    "ultralytics.utils.patches": ("torch_load",),
}
Fingerprint = dict[str, dict[str, Any]]


def watched() -> dict[str, list[str]]:
    """Return the functions (or methods) to look at, by module."""
    found = {module: list(functions) for module, functions in JOINTS.items()}
    for module, names in RELIED_ON.items():
        found.setdefault(module, []).extend(names)
    # A name that a module merely imports is looked at where it is defined.
    return found


def fingerprint(package: Path) -> Fingerprint:
    """Return the fingerprint of the Ultralytics in a folder (the one named ``ultralytics``), by function."""
    result: Fingerprint = {}
    for module, names in watched().items():
        for name in names:
            file = package.parent / (module.replace(".", "/") + ".py")
            node = _find(file, name)
            if node is None:
                places = [(f, n) for f in sorted(package.rglob("*.py")) if (n := _find(f, name)) is not None]
                if not places:
                    continue
                file, node = places[0]
            result[name] = {"file": file.relative_to(package).as_posix(), **_describe(node)}
    return result


def compare(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Say what is different in a newer fingerprint, one sentence a finding; none if nothing is."""
    said = [f"{name} is gone" for name in old.keys() - new.keys()]
    said += [f"{name} is new ({new[name]['file']})" for name in new.keys() - old.keys()]
    for name in sorted(old.keys() & new.keys()):
        a, b = old[name], new[name]
        found = []
        if a["file"] != b["file"]:
            found.append(f"moved from {a['file']} to {b['file']}")
        if a["signature"] != b["signature"]:
            found.append(f"signature was ({a['signature']}), is ({b['signature']})")
        for what in ("locals", "calls", "module switches"):
            found += _difference(what, a[what], b[what])
        for group in sorted(a["sets"].keys() | b["sets"].keys()):
            found += _difference(f"modules in {group}", a["sets"].get(group, []), b["sets"].get(group, []))
        if not found and a["digest"] != b["digest"]:
            found.append("changed inside; names and calls are the same")
        said += [f"{name}: {finding}" for finding in found]
    return sorted(said)


def recorded() -> dict[str, Fingerprint]:
    """Return the fingerprints on record by version, the oldest first."""
    files = sorted(FOLDER.glob("*.json"), key=lambda file: [int(part) for part in file.stem.split(".")])
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def version_of(package: Path) -> str:
    """Return the version that a package says it is."""
    said = re.search(r"__version__ = \"(.+?)\"", (package / "__init__.py").read_text(encoding="utf-8"))
    if said is None:
        raise ValueError(f"{package} has no __version__")
    return said[1]


def record(package: Path) -> Path:
    """Write the fingerprint of a package beside the others and return the file."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{version_of(package)}.json"
    file.write_text(json.dumps(fingerprint(package), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return file


def _difference(what: str, old: list[str], new: list[str]) -> Iterator[str]:
    gained, lost = sorted(set(new) - set(old)), sorted(set(old) - set(new))
    if gained:
        yield f"new {what}: {', '.join(gained)}"
    if lost:
        yield f"{what} gone: {', '.join(lost)}"


def _find(file: Path, name: str) -> ast.FunctionDef | None:
    """Return the definition of a function or method in a file, if it is there."""
    if not file.is_file() or f"def {name.rpartition('.')[2]}(" not in (text := file.read_text(encoding="utf-8")):
        return None
    body: list[ast.stmt] = ast.parse(text).body
    for part in name.split("."):
        nodes = [n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == part]
        if not nodes:
            return None
        body = nodes[-1].body
    return nodes[-1] if isinstance(nodes[-1], ast.FunctionDef) else None


def _describe(node: ast.FunctionDef) -> dict[str, Any]:
    nodes = list(ast.walk(node))
    return {
        "signature": ast.unparse(node.args),
        "locals": sorted({n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}),
        "calls": sorted({ast.unparse(n.func) for n in nodes if isinstance(n, ast.Call) and _is_path(n.func)}),
        "module switches": [
            f"else of: {ast.unparse(n.test)}" for n in nodes
            if isinstance(n, ast.If) and [ast.unparse(line) for line in n.orelse] == ["c2 = ch[f]"]
        ],
        "sets": dict(sorted(_sets(nodes))),
        "digest": hashlib.sha256(" ".join(map(_word, nodes)).encode()).hexdigest()[:16],
    }  # fmt: skip


def _word(node: ast.AST) -> str:
    """Return what a node is, without the text of docstrings and messages; the same in every version of Python."""
    own = [getattr(node, field, None) for field in ("id", "attr", "arg", "name", "value")]
    kept = [repr(value) for value in own if isinstance(value, (int, float)) or (value and isinstance(value, str))]
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return type(node).__name__ + ("" if is_text else ":".join(kept))


def _is_path(node: ast.expr) -> bool:
    """Tell whether what is called is a name, or names joined by dots."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _sets(nodes: list[ast.AST]) -> Iterator[tuple[str, list[str]]]:
    """Yield the sets of names that a function keeps (``base_modules = frozenset({...})``) or asks (``m in {...}``)."""
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.In):
            name, value = f"a branch of {ast.unparse(node.test.left)}", node.test.comparators[0]
        else:
            continue
        members = [n.id for n in ast.walk(value) if isinstance(n, ast.Name) and n.id[:1].isupper()]
        members += [ast.unparse(n) for n in ast.walk(value) if isinstance(n, ast.Attribute) and n.attr[:1].isupper()]
        if len(members) > 2:
            yield (name if name.endswith("modules") else f"{name} with {sorted(members)[0]}"), sorted(members)
