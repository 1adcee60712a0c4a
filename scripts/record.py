"""Write a record of a bench or a study into results/: a folder that yolo-attn bench or yolo-attn study wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments import folders


def main() -> None:
    """Write the record and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="such as runs/bench/yolov8n or runs/study/neu")
    parser.add_argument("-o", "--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    print(folders.write_record(given.folder, given.out))


if __name__ == "__main__":
    main()
