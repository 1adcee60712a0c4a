"""Write the generated parts of README.md: the layer table and the tables of results/."""

from __future__ import annotations

import re
from pathlib import Path

from experiments import evidence, report
from yolo_attn import registry

ROOT = Path(__file__).resolve().parents[1]


def sections() -> dict[str, str]:
    """Return the text of every generated part by its marker."""
    parts = {"layers": registry.markdown()}
    tables = {
        "transfer": evidence.transfer_table,
        "transfer-bccd": evidence.study_table,
        "speed-bccd": evidence.speed_table,
        "speed-bccd-layers": evidence.speed_table,
        "benchmark": report.benchmark_table,
    }
    for task, table in tables.items():
        content = evidence.load(ROOT / "results", task)
        if content is not None:
            parts[task] = table(content)
    return parts


def render(text: str) -> str:
    """Return a README with its generated parts renewed."""
    for marker, part in sections().items():
        pattern = rf"(<!-- {marker}(?::[^>]*)? -->\n).*?(<!-- /{marker} -->)"
        text = re.sub(pattern, lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text(encoding="utf-8")), encoding="utf-8")
