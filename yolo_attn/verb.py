"""What each verb of ``yolo-attn`` calls; every room is imported by the verb that needs it."""

from __future__ import annotations

import math
import os
import shutil
import sys
from argparse import Namespace as Arguments
from pathlib import Path
from typing import Any

from . import listing, tabular
from .errors import RowError
from .graft import set_gate


def demo(arguments: Arguments) -> int:
    """Train the demo."""
    from .host.run import demo as program
    from .host.study.arguments import check, read_words

    check(read_words(arguments.overrides), {})
    program.run(arguments.overrides)
    return 0


def doctor(arguments: Arguments) -> int:
    """Say which Ultralytics is patched and what is wrong."""
    from .host.doctor import examine

    return examine(print)


def list_layers(arguments: Arguments) -> int:
    """List the layers."""
    print(listing.markdown() if arguments.markdown else listing.text())
    return 0


def study(arguments: Arguments) -> int:
    """Train plain and modified models side by side."""
    from .study.command import run

    return run(arguments.words, arguments.dry_run, arguments.retry)


def check(arguments: Arguments) -> int:
    """Check the wiring of models, or layers."""
    from .host.install import install

    install()
    from .host.model.check import check_model

    wrong = 0
    for subject in arguments.subject:
        layers = [] if Path(subject).suffix in (".yaml", ".yml") else _layers(subject)
        wrong |= 0 if layers else check_model(subject, arguments.strict)
        for layer in layers:
            from .contract.report import report

            wrong |= not report(layer, _row_arguments(arguments.args))
    return int(wrong)


def _layers(subject: str) -> list[Any]:
    """Return the layers that ``layers.py:MyAttention``, ``my.module:A,B`` or a name stands for."""
    from . import plugins, registry

    if subject in registry.names():
        return [registry.find(subject)]
    if ":" not in subject and not subject.endswith(".py"):
        return []
    if ":" not in subject:
        raise RowError(f"{subject} names no class; write {subject}:MyAttention")
    os.environ[plugins.VARIABLE] = subject  # what is checked is what a model will get
    declared, problems = plugins.declared()
    if problems:
        raise RowError(str(problems[0]))
    return [plugin for plugin in declared if not plugin.is_packaged]


def graft(arguments: Arguments) -> int:
    """Write a model YAML with layers inserted."""
    from .host.install import install

    install()
    from .host.model.surgery import graft_file

    if len(arguments.layer) != len(arguments.at) or len(arguments.args) > len(arguments.layer):
        given = f"{len(arguments.layer)} --layer, {len(arguments.at)} --at and {len(arguments.args)} --args"
        raise RowError(f"{given}: give each layer its place, and at most one --args")
    if Path(arguments.model).suffix not in (".yaml", ".yml"):
        raise RowError(f"{arguments.model} is no model YAML; name one such as yolo11n.yaml")
    rows = [_row_arguments(text) for text in arguments.args]
    rows += [[] for _ in range(len(arguments.layer) - len(rows))]
    if arguments.no_gate:
        rows = [set_gate(row, False) for row in rows]
    places = [int(at) if at.isdecimal() else at for at in arguments.at]
    graft_file(arguments.model, list(zip(arguments.layer, places, rows, strict=True)), arguments.output)
    return 0


def strip(arguments: Arguments) -> int:
    """Write a plain checkpoint."""
    from .host.install import install

    install()
    from .host.model import surgery

    path = Path(arguments.checkpoint)
    surgery.strip(path, arguments.output or path.with_name(f"{path.stem}-plain{path.suffix}"), arguments.force)
    return 0


def convert(arguments: Arguments) -> int:
    """Turn pasted classes of a checkpoint into ours."""
    from .host.install import install

    install()
    from .host.model import convert as program

    pairs = [text.partition("=") for text in arguments.named]
    for text, (cls, _, layer) in zip(arguments.named, pairs, strict=True):
        if not (cls and layer):
            raise RowError(f"--as {text!r}: give the pasted class and the layer, such as SEAttention=SE")
    if pairs and arguments.model:
        raise RowError("--as and --model: a model YAML says what its rows are; leave --as out")
    named = {cls.strip(): layer.strip() for cls, _, layer in pairs}
    program.convert(arguments.checkpoint, arguments.output, arguments.model, named, arguments.force)
    return 0


def verify(arguments: Arguments) -> int:
    """Export a checkpoint and compare."""
    from .host.install import install

    install()
    from .host.run import verify as program

    given = vars(arguments)
    return program.verify(
        given["checkpoint"],
        given["formats"].split(",") if given["formats"] else None,
        [_size(text) for text in given["imgsz"].split(",")] if given["imgsz"] else None,
        given["source"],
        given["dynamic"],
        given["half"],
        dict(_override(text) for text in given["export"]),
    )


def look(arguments: Arguments) -> int:
    """Draw what the attention of a checkpoint does on an image."""
    from .host.install import install

    install()
    from .host.run import looking

    given = vars(arguments)
    pixel = None
    if given["pixel"] is not None:
        x, _, y = given["pixel"].partition(",")
        if not (x.strip().isdecimal() and y.strip().isdecimal()):
            raise RowError(f"--pixel {given['pixel']!r}: give x and y in the image, such as 320,240")
        pixel = int(x), int(y)
    looking.look(
        given["checkpoint"],
        given["image"],
        given["output"],
        given["layer"],
        pixel,
        _size(given["imgsz"]) if given["imgsz"] else None,
        given["device"],
        given["save"],
        given["force"],
    )
    return 0


def _size(text: str) -> list[int]:
    numbers = text.split("x")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise RowError(f"--imgsz {text!r}: give pixels such as 640, or height x width such as 480x640")
    return [int(number) for number in numbers * (3 - len(numbers))][:2]


def _override(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise RowError(f"{text!r} is not key=value")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RowError(f"--export {text!r}: {value!r} is no YAML") from error


def list_runs(arguments: Arguments) -> int:
    """Print a table of trainings."""
    from .study import runs

    found = runs.find_runs(Path(arguments.folder), lambda line: print(f"yolo-attn: {line}", file=sys.stderr))
    forms = {"csv": runs.table_csv, "markdown": runs.markdown, "latex": runs.latex}
    asked = [form for form in forms if vars(arguments)[form]]
    files = {Path(vars(arguments)[form]): forms[form] for form in asked}
    if len(files) < len(asked):
        raise RowError(f"{' and '.join(f'--{form}' for form in asked)}: give each a file of its own")
    if not arguments.force:
        tabular.check_absent(files)
    print(runs.text(found, shutil.get_terminal_size((80, 24)).columns))
    for file, make in files.items():
        tabular.write(file, make(found))
    return 0


def report(arguments: Arguments) -> int:
    """Write the report of a study."""
    if not 0 < arguments.effect < math.inf:
        raise RowError(f"--effect {arguments.effect}: give points of mAP above 0, such as 0.5")
    from .study.report import write_report

    for file in write_report(Path(arguments.folder), arguments.effect):
        print(file)
    return 0


def bench(arguments: Arguments) -> int:
    """Measure what layers cost."""
    from .bench import command

    width = shutil.get_terminal_size((80, 24)).columns
    command.bench(arguments.words, arguments.output, arguments.force, width, progress=_show_progress)
    return 0


def _show_progress(line: str) -> None:
    """Show how far something is in one line of a terminal, which the next one replaces; "" takes it away."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


def _row_arguments(text: str) -> list[Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, (list, dict)):
        raise RowError(f"--args {text!r}: give a YAML list such as '[16]' or a mapping such as '{{kernel_size: 5}}'")
    return value if isinstance(value, list) else [value]
