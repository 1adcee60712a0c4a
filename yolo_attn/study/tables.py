"""Tables of text cells as Markdown, LaTeX or CSV, and numbers as text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: f"\\{c}" for c in "&%$#_{}"}


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a table in Markdown; numeric columns stand right."""
    rules = ["---:" if is_number else "---" for is_number in numeric]
    lines = [heads, rules, *([markdown_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_cell(text: str) -> str:
    """Return text that does not end a cell of a Markdown table."""
    return text.replace("|", r"\|").replace("\n", " ")


def latex(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a ``tabular`` of cells that are LaTeX already, an empty row a rule; it needs the package ``booktabs``."""
    kinds = "".join("r" if is_number else "l" for is_number in numeric)
    head, *body = [" & ".join(cells) + r" \\" if cells else r"\midrule" for cells in (heads, *rows)]
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(c, c) for c in text)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; its columns are all keys, in the order in which they first appear."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def number(value: float | None, digits: int) -> str:
    """Return a number with that many decimals, or ``-`` for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def natural(name: str) -> list[Any]:
    """Return a key by which ``train10`` comes after ``train9``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]
