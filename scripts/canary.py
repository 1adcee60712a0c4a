"""Say what a release of Ultralytics changed in the functions that yolo-attn replaces or relies on.

python scripts/canary.py                    # the installed one against the newest on record
python scripts/canary.py FOLDER             # one unpacked elsewhere (pip install --no-deps --target FOLDER ...)
python scripts/canary.py FOLDER --record    # keep its fingerprint in tests/fingerprints
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from experiments import canary


def main() -> int:
    """Compare; return 1 if there is something to read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="folder that holds the package ultralytics")
    parser.add_argument("--against", help="version on record (default: the newest that is not newer)")
    parser.add_argument("--record", action="store_true", help="write the fingerprint instead")
    arguments = parser.parse_args()
    spec = importlib.util.find_spec("ultralytics")
    package = arguments.folder / "ultralytics" if arguments.folder else Path(str(spec and spec.origin)).parent
    if arguments.record:
        print(f"wrote {canary.record(package)}")
        return 0
    known, version = canary.recorded(), canary.version_of(package)
    against = arguments.against or list(known)[-1]
    said = canary.compare(known[against], canary.fingerprint(package))
    print(f"Ultralytics {version} against {against}: " + ("nothing we rely on has changed" if not said else ""))
    print("\n".join(f"  {line}" for line in said))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
