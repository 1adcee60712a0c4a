"""Install, build, train, reload, resume and export on other versions of Ultralytics, Python and PyTorch.

python scripts/versions.py                                       # all of them; each takes minutes and gigabytes
python scripts/versions.py --ultralytics 8.3.100 newest --python 3.11 --torch newest
python scripts/versions.py --share .venv/lib/python3.11/site-packages    # nothing that is there is installed again
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from experiments import versions


def main() -> int:
    """Run the rows and print a table; return 1 if a step failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("ultralytics", "python", "torch"):
        parser.add_argument(f"--{name}", nargs="+", metavar="VERSION", help="only these; newest is what pip takes")
    parser.add_argument("--share", type=Path, metavar="SITE_PACKAGES", help="use the packages of this environment too")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        wheel = versions.build_wheel(Path(scratch))
        for number, combination in enumerate(versions.all_combinations()):
            wanted = (getattr(given, name) for name in ("ultralytics", "python", "torch"))
            has = (combination.ultralytics, combination.python, combination.torch)
            if not all(only is None or value in only for only, value in zip(wanted, has, strict=True)):
                continue
            folder = Path(scratch) / str(number)
            rows.append(versions.run_row(combination, wheel, folder, given.share and given.share.resolve()))
            shutil.rmtree(folder, ignore_errors=True)
            print(versions.table(rows[-1:]).splitlines()[-1], flush=True)
            if not versions.is_good(rows[-1]):
                print(rows[-1]["log"], flush=True)
    print(f"\n{versions.table(rows)}")
    return 0 if rows and all(map(versions.is_good, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
