"""Rows of a model YAML: the joint with ``parse_model`` and the arguments of a row that names one of our layers.

``parse_model`` handles a module it does not list in its last ``else``. The joint compiles the host's own source with
one branch before that ``else``, and one line after the line that builds a row, for attention inside blocks; every other
line stays the host's, under its own file name and line numbers.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

from ... import registry
from ...blocks import attention_of, find_slip, layers_of, without_attention
from ...errors import ArgumentError, HostError, RowError, UnknownLayerError, YoloAttnError
from ...layers.gated import Gated
from .. import names
from ..joints import SUPPORTED
from . import check
from .blocks import attend
from .compounds import explain_compound
from .row_arguments import bind_row, find_source, hold, rows_of, tell_once
from .sizes import refuse_explosion

Function = Callable[..., Any]
_BRANCH = "_yolo_attn_row"
_LOCALS = {"d", "ch", "i", "f", "n", "m", "m_", "args", "c2"}
_FULL = "rows with attention inside"  # key of the dictionary of rows that the host builds from
_MOST_REPEATS = 100


def parse_model_joint(original: Function) -> Function:
    """Return ``parse_model`` with our rows.

    Raises:
        HostError: If the function has a shape we do not know.
    """
    build = _with_branch(original)
    host = build.__globals__

    @functools.wraps(original)
    def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        refuse_explosion(d, _file(d))
        names.tell(d)
        check.notice(d)
        d = _checked(d, host)
        names.provide()
        try:
            return build(d, *args, **kwargs)
        except YoloAttnError:
            raise
        except Exception as error:
            place = _failing_row(error, build.__code__, d)
            if place is None:
                raise
            raise RowError(f"{place}: {error}") from error

    return parse_model


def refuse_joint(problem: HostError) -> Callable[[Function], Function]:
    """Return a joint that builds plain models as before and answers a model with our layers with ``problem``."""

    def joint(original: Function) -> Function:
        @functools.wraps(original)
        def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            names.tell(d)
            ours = [name for row in rows_of(d) for name in layers_of(row) if name in registry.names()]
            if ours and not all(name in getattr(original, "__globals__", {}) for name in ours):
                raise HostError(f"{_file(d)} names {', '.join(sorted(set(ours)))}, but {problem}")
            return original(d, *args, **kwargs)

        return parse_model

    return joint


def _with_branch(original: Function) -> FunctionType:
    """Compile ``original`` with a branch for our layers before the last ``else`` of its module switch."""
    assert isinstance(original, FunctionType)
    try:
        source = inspect.getsource(original)
    except (OSError, TypeError) as error:
        raise HostError(f"the source of Ultralytics' parse_model cannot be read: {error}") from error
    function = ast.parse(textwrap.dedent(source)).body[0]
    code = original.__code__
    missing = _LOCALS - {*code.co_varnames, *code.co_cellvars}
    switches = [chain for chain in map(_last_branch, ast.walk(function)) if chain is not None]
    builds = [found for found in map(_building, ast.walk(function)) if found is not None]
    if not isinstance(function, ast.FunctionDef) or missing or len(switches) != 1 or len(builds) != 1:
        gone = ", ".join(sorted(missing)) or "none"
        raise HostError(
            "Ultralytics' parse_model has a shape that yolo-attn does not know "
            f"({len(switches)} module switches, {len(builds)} lines that build a row, missing locals: {gone}); "
            f"install a supported version: pip install 'ultralytics{SUPPORTED}', or a newer yolo-attn"
        )
    call = f"m, args, c2 = {_BRANCH}.resolve(d, i, f, n, ch, m, args)"
    branch = ast.parse(f"if m in {_BRANCH}.classes():\n    {call}").body[0]
    assert isinstance(branch, ast.If)
    last = switches[0]
    for node in ast.walk(branch):
        ast.copy_location(node, last.orelse[0])
    branch.orelse, last.orelse = last.orelse, [branch]
    body, number = builds[0]
    inside = ast.parse(f"m_, args = {_BRANCH}.attend(d, i, m_, args)").body[0]
    for node in ast.walk(inside):
        ast.copy_location(node, body[number])
    body.insert(number + 1, inside)
    factory = ast.parse(f"def factory({_BRANCH}):\n    return parse_model").body[0]
    assert isinstance(factory, ast.FunctionDef)
    factory.body.insert(0, function)
    tree = ast.fix_missing_locations(ast.Module([factory], []))
    ast.increment_lineno(function, code.co_firstlineno - 1)
    flags = code.co_flags & sum(_FUTURE_FLAGS)
    compiled = compile(tree, code.co_filename, "exec", flags=flags, dont_inherit=True)
    namespace: dict[str, Any] = {}
    exec(compiled, original.__globals__, namespace)  # the host's own source, from its own file
    return namespace["factory"](_Rows)


_FUTURE_FLAGS = [
    getattr(__import__("__future__"), name).compiler_flag for name in __import__("__future__").all_feature_names
]


def _last_branch(node: ast.AST) -> ast.If | None:
    """Return ``node`` if it is the ``if``/``elif`` whose ``else`` is ``c2 = ch[f]``."""
    if isinstance(node, ast.If) and [ast.unparse(line) for line in node.orelse] == ["c2 = ch[f]"]:
        return node
    return None


def _building(node: ast.AST) -> tuple[list[ast.stmt], int] | None:
    """Return the statements of a loop and the number of the one that builds a row's module, if there is one."""
    if isinstance(node, ast.For):
        for number, line in enumerate(node.body):
            if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == ["m_"]:
                return node.body, number
    return None


class _Rows:
    """What the added lines call."""

    @staticmethod
    def attend(d: Mapping[str, Any], i: int, block: Any, args: list[Any]) -> tuple[Any, list[Any]]:
        """Return the module of row ``i`` with the attention that the row puts inside, and the arguments to show."""
        full = d.get(_FULL)
        return (block, args) if full is None else attend(full, i, block, args)

    @staticmethod
    def classes() -> set[type]:
        """Return the classes of our layers."""
        return set(registry.classes().values())

    @staticmethod
    def resolve(
        d: Mapping[str, Any], i: int, f: Any, n: int, ch: Sequence[int], m: type, args: Sequence[Any]
    ) -> tuple[type, list[Any], int]:
        """Return the class to build, its positional arguments and the output width of row ``i``.

        Args:
            d: The model dictionary.
            i: Index of the row.
            f: The row's ``from``.
            n: Number of repeats, depth already applied.
            ch: Widths of the rows before.
            m: The layer's class.
            args: The row's arguments.
        """
        name = rows_of(d)[i][2]
        place = f"{_file(d)}, row {i}"
        if isinstance(f, bool) or not isinstance(f, int):
            raise RowError(f"{place}: {name} reads from {f!r}; an attention layer reads one layer, give one index")
        if not -len(ch) <= f < len(ch):
            raise RowError(f"{place}: {name} reads from {f}; give -1 or an index from 0 to {i - 1}")
        width = ch[f]
        layer = registry.find(name)
        try:
            bound, gate, said = bind_row(layer, name, args, find_source(d, ch, i, f))
        except (ArgumentError, RowError) as error:
            raise RowError(f"{place}: {error}") from error
        tell_once(d, i, said)
        out = getattr(layer.load(), "out_channels", None)
        c2 = int(out(*bound)) if out else width
        if n > _MOST_REPEATS:
            raise RowError(f"{place}: {name} is repeated {n} times; {_MOST_REPEATS} are allowed")
        if (n > 1 or gate) and c2 != width:
            what = "be stacked; set n to 1" if n > 1 else "have a gate; leave 'gate' out"
            raise RowError(f"{place}: {name} turns {width} channels into {c2} and cannot {what}")
        return (Gated, [layer.name, *bound], c2) if gate else (m, bound, c2)


def _file(d: Mapping[str, Any]) -> str:
    return str(d.get("yaml_file") or "model")


def _checked(d: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``d`` with our rows in the host's form (arguments in a list); refuse names that nobody knows."""
    ours = registry.names()
    result = dict(d)
    index, has_inside = 0, False
    for part in ("backbone", "head"):
        if not isinstance(d.get(part), (list, tuple)):
            raise RowError(f"{_file(d)}: {part!r} must be a list of rows; it is {d.get(part)!r}")
        result[part] = []
        for row in d[part]:
            place = f"{_file(d)}, row {index}"
            if not isinstance(row, (list, tuple)) or len(row) != 4 or not isinstance(row[2], str):
                raise RowError(f"{place}: {row!r} is not of the form [from, number, module, args]")
            name, args = row[2], row[3]
            if name in ours:
                if not isinstance(args, (list, tuple, Mapping)):
                    raise RowError(f"{place}: {name} has arguments {args!r}; give a list or a mapping")
                if isinstance(row[1], bool) or not isinstance(row[1], (int, float)) or not 0 <= row[1] < float("inf"):
                    raise RowError(f"{place}: {name} is repeated {row[1]!r} times; give a number such as 1")
                row = [*row[:3], [args] if isinstance(args, Mapping) else hold(args)]
            elif name.startswith("nn.") and name[3:] in ours:
                raise UnknownLayerError(f"{place}: unknown module {name!r}; did you mean {name[3:]!r}?")
            elif name not in host and not name.startswith(("nn.", "torchvision.ops.")):
                readings = explain_compound(row, index, host)
                if readings:
                    raise UnknownLayerError(f"{place}: {readings}")
                modules = [
                    k for k, v in host.items() if k not in ours and isinstance(v, type) and hasattr(v, "forward")
                ]
                raise UnknownLayerError(f"{place}: unknown module {name!r}{registry.hint(name, modules)}")
            if name not in ours:
                has_inside = _has_inside(row, place) or has_inside
                row = without_attention(row)
            result[part].append(row)
            index += 1
    return {**result, _FULL: d} if has_inside else result


def _has_inside(row: Sequence[Any], place: str) -> bool:
    """Return whether a row of the host's has attention inside its block."""
    try:
        if slip := find_slip(row, registry.names()):
            raise RowError(slip)
        inside = attention_of(row)
        if inside:
            registry.find(inside[0])
    except (RowError, UnknownLayerError) as error:
        raise type(error)(f"{place}: {error}") from None
    return inside is not None


def _failing_row(error: BaseException, code: CodeType, d: Mapping[str, Any]) -> str | None:
    """Return file, row and layer if ``error`` came out of the constructor of one of our layers, else None."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code is code:
            if frame.f_locals.get("m") in {*_Rows.classes(), Gated}:
                i = frame.f_locals["i"]
                return f"{_file(d)}, row {i}: {rows_of(d)[i][2]}"
            return None
        trace = trace.tb_next
    return None
