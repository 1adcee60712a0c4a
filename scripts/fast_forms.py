"""Measure what each form of ``yolo_attn.fast`` gains over plain PyTorch on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments import evidence, forms
from yolo_attn.bench.measure import settle_allocator

TASK = "fast-forms"


def main() -> None:
    """Measure, print the table, write the record after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forms", nargs="+", choices=list(forms.USERS), default=list(forms.USERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--no-steps", action="store_true", help="leave the whole training steps out")
    parser.add_argument("-o", "--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    settle_allocator()
    rows: list[forms.Row] = []
    settings = {"rounds": given.rounds, "threads": given.threads}
    command = f"python scripts/fast_forms.py {' '.join(sys.argv[1:])}".rstrip()
    for row in forms.measure_all(given.forms, given.rounds, given.threads, not given.no_steps):
        rows.append(row)
        content = evidence.record(TASK, settings, rows, command)
        evidence.save(content, given.out)
    print(forms.forms_table(content))


if __name__ == "__main__":
    main()
