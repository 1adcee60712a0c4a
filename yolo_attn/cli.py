"""``yolo-attn VERB``: each verb calls one function."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import listing, tabular
from ._version import __version__
from .errors import RowError, YoloAttnError
from .graft import set_gate


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="yolo-attn", description="Attention layers for Ultralytics YOLO.")
    parser.add_argument("--version", action="version", version=f"yolo-attn {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    demo = verbs.add_parser("demo", help="train YOLOv8n with CBAM on a generated demo set, in minutes on a CPU")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="as for yolo train: model=yolov8n-caa.yaml")
    verbs.add_parser("doctor", help="say which Ultralytics is patched, what was added and what is wrong")
    check = verbs.add_parser("check", help="check the wiring of a model YAML, or a layer of your own")
    check.add_argument(
        "subject", nargs="+", help="a model YAML such as yolov8n-cbam.yaml, layers.py:MyAttention, or a layer's name"
    )
    check.add_argument("--strict", action="store_true", help="end with 1 for warnings too, as with YOLO_ATTN_STRICT=1")
    check.add_argument("--args", default="[]", help="arguments of the layer as in a row: '[8, {kernel_size: 5}]'")
    layers = verbs.add_parser("layers", help="list the layers with their arguments")
    layers.add_argument("--markdown", action="store_true", help="print the table of docs/layers.md")
    graft = verbs.add_parser("graft", help="write a model YAML with attention layers inserted")
    graft.add_argument("model", help="name or path of a model YAML, such as yolo11n.yaml")
    graft.add_argument("--layer", action="append", required=True, help="YAML name; may be repeated, each with its --at")
    graft.add_argument(
        "--at",
        action="append",
        required=True,
        help="backbone, stages, neck, neck-p3, blocks (inside them), or a row's index",
    )
    graft.add_argument(
        "--args", action="append", default=[], help="YAML list or mapping of arguments, in order of --layer"
    )
    graft.add_argument("--no-gate", action="store_true", help="keep the paper's start in pretrained weights")
    graft.add_argument("-o", "--output", required=True, help="file to write; it must not exist")
    strip = verbs.add_parser("strip", help="write a plain checkpoint if every gate is zero")
    strip.add_argument("checkpoint")
    strip.add_argument("-o", "--output", help="file to write (default: beside it, with -plain)")
    strip.add_argument("--force", action="store_true", help="write also if outputs differ")
    convert = verbs.add_parser("convert", help="turn pasted attention classes of a checkpoint into yolo-attn's")
    convert.add_argument("checkpoint", help="a checkpoint of an edited Ultralytics, or a state dict")
    convert.add_argument("-o", "--output", required=True, help="file to write, such as new.pt")
    convert.add_argument("--model", help="model YAML to build; needed for a state dict")
    convert.add_argument(
        "--as",
        action="append",
        default=[],
        dest="named",
        metavar="CLASS=LAYER",
        help="what a class is; may be repeated",
    )
    convert.add_argument("--force", action="store_true", help="write over a file that is there")
    runs = verbs.add_parser("runs", help="print a table of the trainings in a folder")
    runs.add_argument("folder", help="folder of runs, such as runs")
    for form in ("csv", "markdown", "latex"):
        runs.add_argument(f"--{form}", metavar="FILE", help=f"write the table as {form} too")
    runs.add_argument("--force", action="store_true", help="write over files that are there")
    verify = verbs.add_parser("verify", help="export a checkpoint, run it, and compare it with the checkpoint")
    verify.add_argument("checkpoint")
    verify.add_argument("--formats", help="such as onnx,openvino; default: all that can run here")
    verify.add_argument("--imgsz", help="such as 640 or 640,480x640 (height x width); default: the size of training")
    verify.add_argument("--source", help="an image or a folder; default: images of the checkpoint's data")
    verify.add_argument("--dynamic", action="store_true", help="export once for all sizes")
    verify.add_argument("--half", action="store_true", help="export in half precision")
    verify.add_argument(
        "--export", nargs="+", default=[], metavar="key=value", help="as for yolo export: opset=13 nms=True"
    )
    bench = verbs.add_parser("bench", help="measure what each layer costs here: time, memory, size; no training")
    bench.add_argument(
        "words", nargs="*", metavar="key=value", help="model=yolov8n layers=cbam,se at=backbone,neck imgsz=640 ..."
    )
    bench.add_argument("-o", "--output", metavar="FOLDER", help="folder to write to (default: a new one in runs/bench)")
    bench.add_argument("--force", action="store_true", help="write over files of an earlier bench there")
    arguments = parser.parse_args(argv)
    try:
        if arguments.verb == "demo":
            return _demo(arguments)
        if arguments.verb == "runs":
            return _list_runs(arguments)
        if arguments.verb == "bench":
            return _bench(arguments)
        if arguments.verb == "check":
            return _check(arguments)
        if arguments.verb == "verify":
            return _verify(arguments)
        if arguments.verb == "convert":
            return _convert(arguments)
        if arguments.verb in ("graft", "strip"):
            return _operate(arguments)
        if arguments.verb == "doctor":
            from .host.doctor import examine

            return examine(print)
        print(listing.markdown() if arguments.markdown else listing.text())
    except (YoloAttnError, OSError) as error:
        print(f"yolo-attn: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from .host.run import demo

    try:
        demo.run(arguments.overrides)
    except SyntaxError as error:  # what Ultralytics raises for a setting that it does not know
        raise YoloAttnError(str(error)) from error
    return 0


def _check(arguments: argparse.Namespace) -> int:
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


def _operate(arguments: argparse.Namespace) -> int:
    from .host.install import install

    install()
    from .host.model.surgery import graft_file, strip

    if arguments.verb == "strip":
        path = Path(arguments.checkpoint)
        strip(path, arguments.output or path.with_name(f"{path.stem}-plain{path.suffix}"), arguments.force)
        return 0
    if len(arguments.layer) != len(arguments.at) or len(arguments.args) > len(arguments.layer):
        given = f"{len(arguments.layer)} --layer, {len(arguments.at)} --at and {len(arguments.args)} --args"
        raise RowError(f"{given}: give each layer its place, and at most one --args")
    if Path(arguments.model).suffix not in (".yaml", ".yml"):
        raise RowError(f"{arguments.model} is no model YAML; name one such as yolo11n.yaml")
    rows = [_row_arguments(text) for text in arguments.args]
    rows += [[] for _ in range(len(arguments.layer) - len(rows))]
    if arguments.no_gate:
        rows = [set_gate(row, False) for row in rows]
    places = [int(at) if at.isdigit() else at for at in arguments.at]
    graft_file(arguments.model, list(zip(arguments.layer, places, rows, strict=True)), arguments.output)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from .host.install import install

    install()
    from .host.model.convert import convert

    pairs = [text.partition("=") for text in arguments.named]
    for text, (cls, _, layer) in zip(arguments.named, pairs, strict=True):
        if not (cls and layer):
            raise RowError(f"--as {text!r}: give the pasted class and the layer, such as SEAttention=SE")
    if pairs and arguments.model:
        raise RowError("--as and --model: a model YAML says what its rows are; leave --as out")
    named = {cls.strip(): layer.strip() for cls, _, layer in pairs}
    convert(arguments.checkpoint, arguments.output, arguments.model, named, arguments.force)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from .host.install import install

    install()
    from .host.run.verify import verify

    given = vars(arguments)
    return verify(
        given["checkpoint"],
        given["formats"].split(",") if given["formats"] else None,
        [_size(text) for text in given["imgsz"].split(",")] if given["imgsz"] else None,
        given["source"],
        given["dynamic"],
        given["half"],
        dict(_override(text) for text in given["export"]),
    )


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
    return name, yaml.safe_load(value)


def _list_runs(arguments: argparse.Namespace) -> int:
    from .study import runs

    found = runs.find_runs(Path(arguments.folder), lambda line: print(f"yolo-attn: {line}", file=sys.stderr))
    forms = {"csv": runs.table_csv, "markdown": runs.markdown, "latex": runs.latex}
    files = {Path(vars(arguments)[form]): make for form, make in forms.items() if vars(arguments)[form]}
    if not arguments.force:
        tabular.check_absent(files)
    print(runs.text(found, shutil.get_terminal_size((80, 24)).columns))
    for file, make in files.items():
        tabular.write(file, make(found))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from .bench.command import bench

    width = shutil.get_terminal_size((80, 24)).columns
    bench(arguments.words, arguments.output, arguments.force, width, progress=_show_progress)
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


if __name__ == "__main__":
    raise SystemExit(main())
