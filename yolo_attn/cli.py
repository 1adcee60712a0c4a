"""``yolo-attn VERB``: the words of each verb, and the function that it calls."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import Any

from . import verb
from ._version import __version__
from .errors import YoloAttnError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="yolo-attn", description="Attention layers for Ultralytics YOLO.")
    parser.add_argument("--version", action="version", version=f"yolo-attn {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (_add_first_steps, _add_models, _add_checkpoints, _add_evidence):
        add(verbs)
    arguments, more = parser.parse_known_args(argv)
    if more:  # words behind a flag: study data=my.yaml --dry-run layers=cbam
        if "words" not in arguments or any(word.startswith("-") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        arguments.words += more
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a letter missing from a code page must not end a study
    try:
        return arguments.call(arguments)
    except (YoloAttnError, OSError) as error:
        print(f"yolo-attn: {error}", file=sys.stderr)
        return 1


def _add_first_steps(verbs: Any) -> None:
    demo = verbs.add_parser("demo", help="train YOLOv8n with CBAM on a generated demo set, in minutes on a CPU")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="as for yolo train: model=yolov8n-caa.yaml")
    demo.set_defaults(call=verb.demo)
    doctor = verbs.add_parser("doctor", help="say which Ultralytics is patched, what was added and what is wrong")
    doctor.set_defaults(call=verb.doctor)
    layers = verbs.add_parser("layers", help="list the layers with their arguments")
    layers.add_argument("--markdown", action="store_true", help="print the table of docs/layers.md")
    layers.set_defaults(call=verb.list_layers)


def _add_models(verbs: Any) -> None:
    check = verbs.add_parser("check", help="check the wiring of a model YAML, or a layer of your own")
    check.add_argument(
        "subject", nargs="+", help="a model YAML such as yolov8n-cbam.yaml, layers.py:MyAttention, or a layer's name"
    )
    check.add_argument("--strict", action="store_true", help="end with 1 for warnings too, as with YOLO_ATTN_STRICT=1")
    check.add_argument("--args", default="[]", help="arguments of the layer as in a row: '[8, {kernel_size: 5}]'")
    check.set_defaults(call=verb.check)
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
    graft.set_defaults(call=verb.graft)
    bench = verbs.add_parser("bench", help="measure what each layer costs here: time, memory, size; no training")
    bench.add_argument(
        "words", nargs="*", metavar="key=value", help="model=yolov8n layers=cbam,se at=backbone,neck imgsz=640 ..."
    )
    bench.add_argument("-o", "--output", metavar="FOLDER", help="folder to write to (default: a new one in runs/bench)")
    bench.add_argument("--force", action="store_true", help="write over files of an earlier bench there")
    bench.set_defaults(call=verb.bench)


def _add_checkpoints(verbs: Any) -> None:
    look = verbs.add_parser(
        "look",
        help="draw what the attention of a checkpoint does on an image",
        description="Draw what each attention layer does on an image: its gates, and the weights of a pixel. Heat maps "
        "of what speaks for a class are Ultralytics' own: yolo predict ... visualize=True",
    )
    look.add_argument("checkpoint")
    look.add_argument("image")
    look.add_argument("-o", "--output", help="PNG to write (default: the image's name with -look.png, here)")
    look.add_argument("--layer", action="append", default=[], type=int, metavar="INDEX", help="row; may be repeated")
    look.add_argument(
        "--pixel", metavar="X,Y", help="pixel of the image whose weights are shown; default: the surest find"
    )
    look.add_argument("--imgsz", help="such as 640 or 480x640 (height x width); default: the size of training")
    look.add_argument("--device", help="as for yolo predict")
    look.add_argument("--save", metavar="DIR", help="folder for each panel as PNG and all numbers as NPZ")
    look.add_argument("--force", action="store_true", help="write over files that are there")
    look.set_defaults(call=verb.look)
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
    verify.set_defaults(call=verb.verify)
    strip = verbs.add_parser("strip", help="write a plain checkpoint if every gate is zero")
    strip.add_argument("checkpoint")
    strip.add_argument("-o", "--output", help="file to write (default: beside it, with -plain)")
    strip.add_argument("--force", action="store_true", help="write also if outputs differ")
    strip.set_defaults(call=verb.strip)
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
    convert.set_defaults(call=verb.convert)


def _add_evidence(verbs: Any) -> None:
    study = verbs.add_parser("study", help="train plain and modified models side by side, paired by seed, and report")
    study.add_argument(
        "words",
        nargs="+",
        metavar="key=value",
        help="data=... model=yolov8n layers=cbam,coordatt at=backbone,neck seeds=3 epochs=50 and any training "
        "argument; first a study's YAML or folder, if there is one",
    )
    study.add_argument("--dry-run", action="store_true", help="print the plan, with hours and memory, and stop")
    study.add_argument("--retry", action="store_true", help="run trials again that failed")
    study.set_defaults(call=verb.study)
    report = verbs.add_parser("report", help="write the report of a study again, finished or not")
    report.add_argument("folder", help="folder of a study, such as runs/study/NAME")
    report.add_argument(
        "--effect", type=float, default=0.5, help="difference worth seeing, in mAP points (default: 0.5)"
    )
    report.set_defaults(call=verb.report)
    runs = verbs.add_parser("runs", help="print a table of the trainings in a folder")
    runs.add_argument("folder", help="folder of runs, such as runs")
    for form in ("csv", "markdown", "latex"):
        runs.add_argument(f"--{form}", metavar="FILE", help=f"write the table as {form} too")
    runs.add_argument("--force", action="store_true", help="write over files that are there")
    runs.set_defaults(call=verb.list_runs)


if __name__ == "__main__":
    raise SystemExit(main())
