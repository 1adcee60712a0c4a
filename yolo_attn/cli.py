"""``yolo-attn VERB``: each verb calls one function."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__, registry
from .errors import YoloAttnError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="yolo-attn", description="Attention layers for Ultralytics YOLO.")
    parser.add_argument("--version", action="version", version=f"yolo-attn {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("doctor", help="say which Ultralytics is patched, what was added and what is wrong")
    layers = verbs.add_parser("layers", help="list the layers with their arguments")
    layers.add_argument("--markdown", action="store_true", help="print the table of the README")
    arguments = parser.parse_args(argv)
    try:
        if arguments.verb == "doctor":
            from .host.doctor import examine

            return examine(print)
        print(registry.markdown() if arguments.markdown else registry.text())
    except YoloAttnError as error:
        print(f"yolo-attn: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
