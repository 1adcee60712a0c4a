"""The wiring check where models are built, and ``yolo-attn check``, which prints the graph of a model.

A model with a row of ours is checked whenever it is built: what cannot be built is an error that names file, row and
mend, everything else a warning, once per file. ``YOLO_ATTN_STRICT=1`` makes errors of the warnings.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
import yaml

from ... import registry
from ...blocks import layers_of
from ...errors import RowError, YoloAttnError
from ...switches import OFF
from ...wiring import READ_BY_THE_MODEL, Finding, Graph, findings, repeated_keys

STRICT = "YOLO_ATTN_STRICT"
HEAD = ("row", "module", "reads", "read by", "width", "stride", "level")
_SIDE = 256  # pixels; every supported stride divides it
_is_off: ContextVar[bool] = ContextVar("is_off", default=False)
_told: set[str] = set()
Say = Callable[[str], object]


def is_strict() -> bool:
    """Return whether warnings are errors; ``YOLO_ATTN_STRICT=1`` makes them so."""
    return os.environ.get(STRICT, "").strip().lower() not in ("", *OFF)


def examine(model: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the wiring of a model dictionary and with the keys of its file."""
    return [*findings(model), *_repeated_keys(model)]


def notice(model: Mapping[str, Any], is_file: bool = False) -> None:
    """Warn once of what is wrong with the wiring of a model that is about to be built, if a row of it is ours.

    Args:
        model: The model dictionary.
        is_file: Whether it was just read. The host may then be asked for less than to run it: maps of two sizes are an
            error in a file, and a warning where rows are only built.

    Raises:
        RowError: If the model cannot be built, or anything is wrong under ``YOLO_ATTN_STRICT=1``.
    """
    if _is_off.get() or not _has_ours(model):
        return
    found = examine(model)
    refused = [finding for finding in found if is_strict() or (finding.fatal and (is_file or finding.kind != "size"))]
    if refused:
        raise RowError("\n".join(_line(_file(model), finding) for finding in refused))
    from ultralytics.utils import LOGGER, RANK

    for line in [_line(_file(model), finding) for finding in found]:
        if RANK in {-1, 0} and line not in _told:
            _told.add(line)
            LOGGER.warning(line)


def warnings_of(model: Any) -> list[str]:
    """Return in words what is wrong with the wiring of a built model with a row of ours."""
    config = getattr(model, "yaml", None)
    if not isinstance(config, Mapping) or not _has_ours(config):
        return []
    return [finding.message for finding in examine(config)]


def yaml_model_load_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``yaml_model_load`` that checks a file too: the host trips over some of what is wrong before it builds."""

    @functools.wraps(original)
    def yaml_model_load(path: str | Path) -> dict[str, Any]:
        model = original(path)
        if isinstance(model, Mapping):
            notice(model, is_file=True)
        return model

    return yaml_model_load


def check_model(name: str, strict: bool = False, say: Say = print) -> int:
    """Print the graph of a model YAML, then what is wrong with its wiring.

    Args:
        name: Name or path of the model YAML, with or without a scale letter.
        strict: Whether anything that is wrong counts; otherwise only what cannot be built does.
        say: Takes one line.

    Returns:
        The exit status: 1 if anything counts, else 0.

    Raises:
        FileNotFoundError: If there is no such model.
        YoloAttnError: If a row cannot be built.
    """
    from ultralytics.nn import tasks

    if Path(name).suffix not in (".yaml", ".yml"):
        raise RowError(f"{name} is no model YAML; name one such as yolov8n-cbam.yaml")
    with _unnoticed():
        try:
            model = tasks.yaml_model_load(name)
        except (ValueError, TypeError, yaml.YAMLError) as error:
            if isinstance(error, YoloAttnError):
                raise
            raise RowError(f"{name} is no mapping with keys such as backbone and head: {error}") from error
        found = examine(model)
        problem = None
        if not any(finding.kind in ("section", "key") and finding.fatal for finding in found):
            sizes: dict[int, tuple[int, float]] = {}
            if not any(finding.fatal for finding in found):
                sizes, problem = _measure(model)
            for line in table(model, sizes):
                say(line)
    for finding in found:
        say(f"{'error' if finding.fatal else 'warning'}: {_line(name, finding)}")
    if isinstance(problem, YoloAttnError):
        raise problem
    if problem is not None:
        say(f"error: {name}: it cannot be built: {type(problem).__name__}: {str(problem).splitlines()[0]}")
    elif not found:
        say(f"{name}: nothing is wrong with its wiring")
    counts = bool(found) if strict or is_strict() else any(finding.fatal for finding in found)
    return int(counts or problem is not None)


def table(model: Mapping[str, Any], sizes: Mapping[int, tuple[int, float]]) -> list[str]:
    """Return the graph of a model as an aligned table, one line a row.

    Args:
        model: The model dictionary.
        sizes: Width and stride of the maps of the built model by row; where there are none, strides are worked out.
    """
    graph = Graph.of(model)
    last = len(graph.rows) - 1
    rows: list[Sequence[str]] = [HEAD]
    for index, sources in enumerate(graph.reads):
        width, stride = sizes.get(index, (None, None if sizes or index == last else graph.strides[index]))
        reads = ", ".join("input" if source < 0 else str(source) for source in sources)
        end = "output" if index == last else "model" if graph.module(index) in READ_BY_THE_MODEL else "-"
        readers = ", ".join(map(str, graph.readers[index])) or end
        level = math.log2(stride) if stride else 0.0
        module = " + ".join(layers_of(graph.rows[index])) or graph.module(index)
        cells = (index, module, reads, readers, width or "-", f"{stride:g}" if stride else "-")
        rows.append([*map(str, cells), f"P{level:g}" if level >= 1 and level.is_integer() else "-"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = ("row", "width", "stride")
    return [
        "  ".join(
            cell.rjust(size) if head in numbers else cell.ljust(size)
            for cell, size, head in zip(row, widths, HEAD, strict=True)
        ).rstrip()
        for row in rows
    ]


def _measure(model: Mapping[str, Any]) -> tuple[dict[int, tuple[int, float]], Exception | None]:
    """Build a model and return width and stride of each row that gives a map, and what the host raised if it did."""
    from .surgery import build, silence

    sizes: dict[int, tuple[int, float]] = {}
    side = 0

    def look(layer: Any, given: Any, output: Any) -> None:
        nonlocal side
        if "i" in vars(layer) and isinstance(output, torch.Tensor) and output.dim() == 4:
            side = given[0].shape[-1] if layer.i == 0 else side
            sizes[id(layer)] = (output.shape[1], side / output.shape[-1])

    hook = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        with silence(), torch.no_grad():
            built = build(copy.deepcopy(dict(model)))
            # Most of the host's models are run when they are built; copies of them may be, too.
            if not any(id(layer) in sizes for layer in built.model):
                built.eval()(torch.zeros(1, built.yaml.get("channels", built.yaml.get("ch", 3)), _SIDE, _SIDE))
    except Exception as error:  # whatever the host raises for a model that it cannot build
        return {}, error
    finally:
        hook.remove()
    return {index: sizes[id(layer)] for index, layer in enumerate(built.model) if id(layer) in sizes}, None


@contextmanager
def _unnoticed() -> Iterator[None]:
    """Build models without warnings of their wiring."""
    token = _is_off.set(True)
    try:
        yield
    finally:
        _is_off.reset(token)


def _line(file: str, finding: Finding) -> str:
    return f"{file}{':' if finding.row is None else ','} {finding.message}"


def _has_ours(model: Mapping[str, Any]) -> bool:
    ours = registry.names()
    return any(
        name in ours
        for rows in model.values()
        if isinstance(rows, (list, tuple))
        for row in rows
        for name in layers_of(row)
    )


def _file(model: Mapping[str, Any]) -> str:
    return str(model.get("yaml_file") or "model")


def _repeated_keys(model: Mapping[str, Any]) -> list[Finding]:
    """Return the keys that the file repeats from which a model came, if that can be told."""
    named = Path(str(model.get("yaml_file") or "model.yaml"))
    without_scale = named.with_name(re.sub(r"(?<=\d)[nsmlx](?=[^a-z]|$)", "", named.name, count=1))
    for file in dict.fromkeys((named, without_scale)):
        try:
            text = file.read_text(encoding="utf-8")
            found = repeated_keys(text)
            content = yaml.safe_load(text) if found else None
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, Mapping) and all(content.get(part) == model.get(part) for part in ("backbone", "head")):
            return found
    return []
