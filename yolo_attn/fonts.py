"""Fonts of every picture: names of classes and files may be Chinese, and are words, never formulas."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Noto Sans CJK JP",
    "Arial Unicode MS",
)


@contextmanager
def style(settings: Mapping[str, Any]) -> Iterator[None]:
    """Draw with these settings of matplotlib and a Chinese font behind the usual one where there is one, quietly."""
    from matplotlib import font_manager, rc_context

    installed = set(font_manager.get_font_names())
    families = ["DejaVu Sans", *(name for name in CHINESE if name in installed)]
    with rc_context({"font.family": families, "text.parse_math": False, **settings}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+")  # a letter that no font here has becomes a box
        yield
