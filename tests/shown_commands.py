"""What README, docs and the other pages show: their code blocks and commands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = r"(?:yolo|yolo-attn|python|python3|pip|torchrun|bash)"


def blocks(text: str, language: str = r"\w+") -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def bare(block: str) -> str:
    """Return a block without its comments and the space in front of them."""
    return re.sub(r"\s*(^|\s)#.*$", "", block, flags=re.M)


def commands(text: str) -> set[str]:
    """Return every command a page shows, in blocks, in the text and in what a program prints, without comments."""
    found = []
    for block in blocks(text, "bash"):
        found += bare(block).replace("\\\n", " ").splitlines()
    for block in blocks(text, "text"):
        found += re.findall(rf"(?:^|: +)({PROGRAMS} .*)", block, re.M)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found += re.findall(rf"`({PROGRAMS} [^`]*)`", prose)
    return {" ".join(command.split()) for command in found if command.strip()}
