"""Write cfg/models: the drop-in YAML of every layer at every place. Run it after a layer is added."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo_attn.host.model.yamls import drop_in_files


def main() -> None:
    """Write the files that are missing or differ, and name them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "cfg" / "models")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in drop_in_files().items():
        path = out / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
