"""Run ``yolo-attn demo`` with several seeds, each as its own command, and record score and time."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments import evidence
from yolo_attn.host.run import demo


def main() -> None:
    """Run the study and write its record after each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    command = f"python scripts/demo_study.py --seeds {' '.join(map(str, given.seeds))}"
    rows = []
    for seed in given.seeds:
        rows.append(measure(seed))
        print(rows[-1], flush=True)
        evidence.save(
            evidence.record("demo", {"seeds": given.seeds, "command": demo.SETTINGS}, rows, command), given.out
        )


def measure(seed: int) -> dict[str, Any]:
    """Run the demo once in a folder of its own."""
    program = Path(sys.executable).with_name("yolo-attn")
    with tempfile.TemporaryDirectory() as folder:
        before, begun = os.times(), time.perf_counter()
        command = [program, "demo", f"seed={seed}", f"project={folder}/runs/detect"]
        said = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
        after, seconds = os.times(), time.perf_counter() - begun
        (numbers,) = Path(folder).rglob("coco_metrics.json")
        scores = json.loads(numbers.read_text(encoding="utf-8"))["coco"]["bbox"]
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "seed": seed, "mAP50": scores["AP50"], "mAP50-95": scores["AP"], "seconds": round(seconds, 1),
        "processor seconds": round(used, 1), "last lines": said.rstrip().splitlines()[-4:],
    }  # fmt: skip


if __name__ == "__main__":
    main()
