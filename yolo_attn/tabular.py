"""Rows as a table of text, Markdown, LaTeX or CSV, and files that replace no other."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import DataError

GAP = "  "
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_LATEX |= {c: f"\\{c}" for c in "&%$#_{}"}
_LEAST = 8  # width of a column of words that is not cut further

Row = Mapping[str, Any]
# Head of the column, how to read its cell from a row, and whether it is a number.
Column = tuple[str, Callable[[Any], str], bool]


def text(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[str]:
    """Return the lines of a table of at most ``width`` characters where that is possible.

    If it is wider, words are cut; numbers never. Cells of the first column keep their end, the others their beginning.
    """
    table = grid(columns, rows)
    widths = [max(map(len, column)) for column in table]
    while sum(widths) + len(GAP) * (len(table) - 1) > width:
        words = [i for i, (_, _, is_number) in enumerate(columns) if not is_number and widths[i] > _LEAST]
        if not words:
            break
        widest = max(words, key=lambda i: widths[i])
        widths[widest] -= 1
        table[widest] = [cut(cell, widths[widest], keep_end=widest == 0) for cell in table[widest]]
    return [
        GAP.join(
            cell.rjust(size) if is_number else cell.ljust(size)
            for cell, size, (_, _, is_number) in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in zip(*table, strict=True)
    ]


def grid(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[str]]:
    """Return the cells column by column, each with its head first."""
    return [[head, *(str(read(row)) for row in rows)] for head, read, _ in columns]


def full_width(columns: Sequence[Column], rows: Sequence[Row]) -> int:
    """Return how many characters the table takes if nothing is cut."""
    return sum(max(map(len, column)) for column in grid(columns, rows)) + len(GAP) * (len(columns) - 1)


def markdown(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    heads, *cells = zip(*grid(columns, rows), strict=True)
    return markdown_table(heads, cells, [is_number for _, _, is_number in columns])


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return cells as a table in Markdown; numeric columns stand right."""
    rules = ["---:" if is_number else "---" for is_number in numeric]
    escaped = ([cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rules, *escaped))


def latex(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return the table in LaTeX; it needs the package ``booktabs``."""
    heads, *cells = ([escape_latex(cell) for cell in line] for line in zip(*grid(columns, rows), strict=True))
    return latex_table(heads, cells, [is_number for _, _, is_number in columns])


def latex_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a ``tabular`` of cells that are LaTeX already, an empty row a rule; it needs the package ``booktabs``."""
    kinds = "".join("r" if is_number else "l" for is_number in numeric)
    head, *body = [" & ".join(cells) + r" \\" if cells else r"\midrule" for cells in (heads, *rows)]
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(c, c) for c in text)


def to_csv(rows: Iterable[Row]) -> str:
    """Return every field of every row as CSV: nested names joined by dots, lists as JSON."""
    flat = [dict(_flatten(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def number(value: float | None, digits: int) -> str:
    """Return a number with that many decimals, or ``-`` for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def natural(name: str) -> list[Any]:
    """Return a key by which ``train10`` comes after ``train9``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def cut(cell: str, size: int, keep_end: bool = False) -> str:
    """Return text of at most ``size`` characters, with a mark where something is left out."""
    if len(cell) <= size:
        return cell
    return "…" + cell[len(cell) - size + 1 :] if keep_end else cell[: size - 1] + "…"


def check_absent(files: Iterable[Path]) -> None:
    """Check that files may be written without losing one.

    Raises:
        DataError: If one of them is there.
    """
    for file in files:
        if os.path.lexists(file):
            raise DataError(f"{file} is there already; name another file or add --force")


def write(file: Path, content: str) -> None:
    """Write a table.

    Raises:
        DataError: If the file cannot be written.
    """
    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}; name a file in a folder that is there") from error


def _flatten(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(value) if isinstance(value, list) else value
