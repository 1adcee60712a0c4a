"""A study's report, made from its folder of plain files and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from ...cache import replacing, write_text
from ..statistics import EFFECT
from . import page, plots, texts
from .analysis import Analysis, analyse
from .reading import read

FOLDER = "report"


def write_report(folder: Path, effect: float = EFFECT) -> list[Path]:
    """Write ``report/`` in a study's folder; the study may be unfinished, and the report says what is missing.

    Args:
        folder: Of the study.
        effect: The difference worth seeing, in mAP points: how many seeds would be needed to see it is said.

    Returns:
        The files: ``report.html`` first, then the same as Markdown, LaTeX, JSON and CSV, and plots as PNG and PDF.

    Raises:
        DataError: If the folder holds no study.
    """
    analysis = analyse(read(folder), effect)
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    written = {
        "report.html": page.html(analysis),
        "report.md": texts.markdown(analysis),
        "report.tex": texts.latex(analysis),
        "report.json": json.dumps(texts.everything(analysis), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "trials.csv": texts.trials_csv(analysis),
        "variants.csv": texts.variants_csv(analysis),
    }
    for name, text in written.items():
        write_text(target / name, text)
    return [target / name for name in written] + _write_plots(analysis, target)


def _write_plots(analysis: Analysis, target: Path) -> list[Path]:
    """Write each plot that can be drawn as PNG and PDF, and take away one of before that cannot be drawn now."""
    files = []
    with plots.style():
        for name, draw in plots.PLOTS.items():
            figure = draw(analysis, "en")
            for form, date in (("png", "Software"), ("pdf", "CreationDate")):
                file = target / f"{name}.{form}"
                if figure is None:
                    file.unlink(missing_ok=True)
                    continue
                with replacing(file) as draft:
                    figure.savefig(draft, format=form, metadata={date: None})
                files.append(file)
    return files
