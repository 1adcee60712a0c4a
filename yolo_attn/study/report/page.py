"""The report as one HTML page that needs nothing else: both languages, plots as SVG, style and switch inside."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from ..._version import __version__
from . import cells, plots, sentences
from .analysis import CLASS, Analysis, Comparison, costs
from .phrases import LANGUAGES, say
from .reading import LARGER, OVERALL, PLAIN, POINTWISE

TEMPLATE = "page.html.jinja"
MANY_CLASSES = 12  # more are folded away
_BAR = (110, 18)  # pixels
_THEME = {plots.INK: "var(--ink)", plots.SOFT: "var(--soft)", plots.FAINT: "var(--line)", "#ffffff": "var(--page)"}


def html(analysis: Analysis) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    study = analysis.study
    controls = [kind for kind in (POINTWISE, LARGER) if analysis.main(kind)]

    def tell(name: str, *subject: Any) -> Markup:
        return _both(*(getattr(sentences, name)(analysis, *subject, language) for language in LANGUAGES))

    def lines(name: str) -> list[Markup]:
        said = [getattr(sentences, name)(analysis, language) for language in LANGUAGES]
        return [_both(*pair) for pair in zip(*said, strict=True)]

    return environment.get_template(TEMPLATE).render(
        analysis=analysis, study=study, cells=cells, sentences=sentences, version=__version__,
        groups=cells.groups(analysis), controls=controls, metrics=OVERALL,
        kinds=plots.LABELS, colours={**plots.COLOURS, PLAIN: "var(--ink)"}, cost=costs(analysis)[0], CLASS=CLASS,
        is_folded=len(analysis.classes) > MANY_CLASSES, say=_say, tell=tell, lines=lines,
        typeset=typeset, bar=_bars(analysis), plots=_plots(analysis), shade=_shades(analysis),
    )  # fmt: skip


def typeset(text: str) -> str:
    """Return text with minus signs for hyphens before numbers, and no line break inside an interval or ``q = 0.01``."""
    text = re.sub(r"(?<![\w\-.])-(?=\d)", "\u2212", text)
    text = re.sub(r"\[(\S+), (\S+)\]", "[\\1,\u00a0\\2]", text)
    return re.sub(r"\bq ([=<]) ", "q\u00a0\\1\u00a0", text)


def _both(*texts: str) -> Markup:
    """Return a text in each language, of which the page shows one; once if they agree."""
    texts = tuple(map(typeset, texts))
    if len(set(texts)) == 1:
        return escape(texts[0])
    spans = zip(LANGUAGES, texts, strict=True)
    return Markup("").join(Markup('<span lang="{}">{}</span>').format(language, text) for language, text in spans)


def _say(key: str, **values: Any) -> Markup:
    """Return a phrase in each language."""
    return _both(*(say(key, language, **values) for language in LANGUAGES))


def _bars(analysis: Analysis) -> Callable[[Comparison, str], Markup]:
    """Return a function that draws a difference and its interval as a small bar, all on one scale."""
    width, height = _BAR
    found = [c for c in analysis.main() if c.pair.mean is not None]
    limit = plots.limit(found) if found else 1.0

    def at(value: float) -> str:
        return f"{(max(-limit, min(limit, value)) / limit + 1) * width / 2:.1f}"

    def bar(c: Comparison, colour: str) -> Markup:
        middle = height / 2
        parts = [f'<line x1="{width / 2}" x2="{width / 2}" y1="0" y2="{height}" stroke="var(--soft)"/>']
        if c.pair.low is not None and c.pair.high is not None:
            ends = f'x1="{at(c.pair.low)}" x2="{at(c.pair.high)}" y1="{middle}" y2="{middle}"'
            parts.append(f'<line {ends} stroke="{colour}" stroke-width="3" stroke-opacity="0.55"/>')
        if c.pair.mean is not None:
            fill = colour if cells.is_beyond_chance(c) else "var(--page)"
            parts.append(f'<circle cx="{at(c.pair.mean)}" cy="{middle}" r="4" fill="{fill}" stroke="{colour}"/>')
        box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        return Markup(f'<svg class="bar" {box} aria-hidden="true">{"".join(parts)}</svg>')

    return bar


def _shades(analysis: Analysis) -> Callable[[Comparison | None], str]:
    """Return a function that gives the background of a class's difference: blue above zero, orange below."""
    found = [abs(c.pair.mean) for c in analysis.comparisons if c.metric == CLASS and c.pair.mean is not None]
    most = max(found, default=0.0) or 1.0

    def shade(c: Comparison | None) -> str:
        if c is None or c.pair.mean is None:
            return "transparent"
        share = round(45 * abs(c.pair.mean) / most)
        return f"color-mix(in srgb, {'#0072b2' if c.pair.mean > 0 else '#e69f00'} {share}%, transparent)"

    return shade


def _plots(analysis: Analysis) -> dict[str, Markup]:
    """Return each plot that can be drawn, in both languages."""
    drawn = {}
    with plots.style():
        for name, draw in plots.PLOTS.items():
            figures = {language: draw(analysis, language) for language in LANGUAGES}
            parts = [
                Markup('<div lang="{}" class="plot">{}</div>').format(language, _svg(figure, f"{name}-{language}"))
                for language, figure in figures.items()
                if figure
            ]
            if parts:
                drawn[name] = Markup("").join(parts)
    return drawn


def _svg(figure: Figure, prefix: str) -> Markup:
    """Return a figure as SVG to stand in a page: its own ids, the page's colours and width."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r'<svg role="img" \1', text)
    text = re.sub(r'^(<svg [^>]*?)height="[^"]*"', r"\1", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    for colour, variable in _THEME.items():
        text = text.replace(colour, variable)
    return Markup(text)
