"""The plots of a report: axes that can be read, alone and printed in grey."""

from __future__ import annotations

import made_study
import pytest
from matplotlib.figure import Figure

from yolo_attn.study.report import plots
from yolo_attn.study.report.analysis import Analysis, analyse
from yolo_attn.study.report.reading import read

FIVE = made_study.variants(("SE", "CBAM", "CoordAtt"), ("neck",))  # in rows of four panels


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read(made_study.make(tmp_path_factory.mktemp("study") / "small", FIVE, epochs=5)))


def draw(analysis: Analysis, name: str) -> Figure:
    with plots.style():
        figure = plots.PLOTS[name](analysis, "en")
    assert figure
    return figure


def test_the_lowest_panel_of_each_column_has_its_epochs(analysis: Analysis) -> None:
    panels = [axes for axes in draw(analysis, "curves").axes if axes.get_visible()]
    assert len(panels) == 5
    shown = [any(tick.label1.get_visible() for tick in axes.xaxis.get_major_ticks()) for axes in panels]
    assert shown == [False, True, True, True, True]


def test_plain_is_told_from_a_variant_without_colour(analysis: Analysis) -> None:
    for axes in draw(analysis, "curves").axes[:5]:
        assert [line.get_linestyle() for line in axes.lines] == ["--", "-"]


def test_scores_have_their_unit(analysis: Analysis) -> None:
    assert draw(analysis, "cost").axes[0].get_ylabel() == "COCO AP, points"
    assert draw(analysis, "differences").axes[0].get_xlabel() == "Difference from plain, points of COCO AP"


def test_a_line_to_a_name_ends_at_the_edge_that_faces_its_point() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    points = {f"name {i}": (0.5, 0.5 + i / 1000) for i in range(9)}
    with plots.style():
        plots._name_points(axes, figure, points, {name: name for name in points})
    lines = [text for text in axes.texts if text.arrowprops]  # type: ignore[attr-defined]
    assert lines
    for text in lines:
        assert text.arrowprops["relpos"] == ((0, 0.5) if text.get_ha() == "left" else (1, 0.5))  # type: ignore[attr-defined]
