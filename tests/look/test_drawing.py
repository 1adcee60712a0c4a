"""The figure: all panels of as many layers as fit, each where the image is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from yolo_attn import registry
from yolo_attn.contract.checks import features, open_gates
from yolo_attn.look import drawing
from yolo_attn.look.panels import Bars, Layer, Map, Points, Reading, View
from yolo_attn.look.reading import read
from yolo_attn.look.scene import Detection, Frame, Scene

FRAME = Frame((48, 80), (64, 96), (58, 96), top=3)
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
BOX = np.array([(10.0, 10.0), (30.0, 10.0), (30.0, 40.0), (10.0, 40.0)])
SCENE = Scene(IMAGE, FRAME, (20.0, 25.0), (Detection("a 类", 0.5, BOX, BOX[:2]),), ("best.pt on image.jpg",))
VIEW = View(FRAME, (4, 6), (20.0, 25.0))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What would have been written, as matplotlib has it."""
    seen: list[Figure] = []
    monkeypatch.setattr(drawing, "_write", lambda figure, file: seen.append(figure))
    return seen


def reading(name: str, index: int = 3) -> Reading:
    torch.manual_seed(0)
    module = open_gates(registry.create(name, 16)).eval()
    with torch.no_grad():
        return read(module, features(1, 16, 8, 12), Layer(index, name), FRAME, SCENE.pixel)


def one(*panels: Bars | Map | Points) -> Reading:
    return Reading(Layer(1, "Own"), VIEW, 4, 0.1, False, panels)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_all_that_is_said_is_in_the_figure(tmp_path: Path, figures: list[Figure]) -> None:
    readings = [reading(name, i) for i, name in enumerate(("CBAM", "BiFormer", "DAttention", "LSK"))]
    assert drawing.draw(SCENE, readings, tmp_path / "a.png") == 4
    (figure,) = figures
    said = texts(figure)
    for each in readings:
        assert each.layer.label[1:] in said
        assert all(panel.words.replace("- ", "-") in said for panel in each.panels)
    assert "best.pt on image.jpg" in said
    axes = figure.axes
    assert len(axes) == 1 + sum(len(each.panels) for each in readings)
    assert figure.get_figwidth() == drawing.WIDTH and figure.get_figheight() < 20
    for one_of_them in axes:  # nothing reaches beyond the figure
        x0, y0, x1, y1 = one_of_them.get_position().extents
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_dollars_are_no_formula(tmp_path: Path) -> None:
    scene = replace(SCENE, detections=(Detection(r"$\foo$", 0.5, BOX),), lines=("best.pt on 5$_6$.png",))
    drawing.draw(scene, [one(Bars("gate", "$_$", np.ones((1, 4))))], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_no_panel_covers_another(tmp_path: Path, figures: list[Figure]) -> None:
    drawing.draw(SCENE, [reading("GAM"), reading("SE"), reading("MHSA")], tmp_path / "a.png")
    boxes = [axes.get_position() for axes in figures[0].axes]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_too_many_layers_are_left_out(tmp_path: Path, figures: list[Figure]) -> None:
    many = [reading("LSK")] * (drawing.TALLEST + 3)
    many = [Reading(Layer(i, "LSK"), r.view, 16, 0.1, True, r.panels) for i, r in enumerate(many)]
    assert drawing.draw(SCENE, many, tmp_path / "a.png") == drawing.TALLEST
    assert drawing.draw(SCENE, many[:2], tmp_path / "a.png") == 2
    huge = one(*[Bars("gate", "words", np.ones((1, 4)))] * (4 * drawing.TALLEST + 1))
    assert drawing.draw(SCENE, [huge, many[0]], tmp_path / "a.png") == 1


def test_a_map_lies_on_its_image_and_its_scale_leaves_the_padding_out(tmp_path: Path, figures: list[Figure]) -> None:
    frame = Frame((32, 96), (64, 96), (32, 96), top=16)
    scene = Scene(IMAGE[:32], frame, (20.0, 25.0))
    values = np.linspace(0.2, 0.6, 24).reshape(4, 6)
    values[0], values[3] = 0.0, 0.9  # the first and the last row show no image
    panel = Map("gate", "words", values, (0, 0, 6, 4))
    drawing.draw_alone(scene, Reading(Layer(1, "Own"), View(frame, (4, 6), (0.0, 0.0)), 4, 0.1, True, (panel,)), panel,
                       tmp_path / "a.png")  # fmt: skip
    axes = figures[0].axes[0]
    under, over = axes.images
    assert under.get_extent() == [0, 80, 32, 0]
    assert over.get_extent() == pytest.approx([0, 96, 48, -16])
    assert over.get_clim() == pytest.approx((values[1, 0], values[2, 5]))
    assert axes.get_ylim() == (32, 0)


def test_scales() -> None:
    assert drawing._range(np.array([0.49, 0.5]), False) == (pytest.approx(0.47), pytest.approx(0.52), "viridis")
    assert drawing._range(np.array([-0.1, 0.4]), False) == (-0.4, 0.4, "coolwarm")
    assert drawing._range(np.array([0.1, 0.4]), True) == (0, 0.4, "plasma")
    assert drawing._range(np.zeros(3), True)[1] > 0
    assert drawing._range(np.zeros(0), True) == (0, 1, "plasma")


def test_the_pixel_is_marked_where_it_matters(tmp_path: Path, figures: list[Figure]) -> None:
    values = np.linspace(0, 1, 24).reshape(4, 6)
    gate, weights = Map("gate", "w", values, (0, 0, 6, 4)), Map("weights", "w", values, (0, 0, 6, 4), of_pixel=True)
    box = (1.0, 1.0, 2.0, 2.0)
    windows = Map("windows", "w", np.where(values > 0.5, values, np.nan), (0, 0, 6, 4), boxes=(box, box), of_pixel=True)
    places = np.array([(1.0, 1.0), (5.0, 3.0)])
    points = Points("points", "w", places, np.array([0.25, 0.75]))
    drawing.draw(SCENE, [one(gate, weights, windows, points)], tmp_path / "a.png")
    head, *drawn = figures[0].axes
    marks = [[tuple(line.get_xydata()[0]) for line in axes.lines].count((20, 25)) for axes in (head, *drawn)]
    assert marks == [2, 0, 2, 2, 2]
    assert len(drawn[2].patches) == 2 and drawn[2].patches[-1].get_edgecolor()[:3] == (1, 0, 0)
    shown = drawn[3].collections[0].get_offsets()
    np.testing.assert_allclose(shown, [FRAME.point(*place, (4, 6)) for place in places])
    assert len(head.patches) == 1 and head.texts[0].get_text() == "a 类 0.50"


def test_bars_fall(tmp_path: Path, figures: list[Figure]) -> None:
    panels = [Bars("channel gate", "w", np.array([[0.2, 0.9, 0.5]])), Bars("shares", "w", np.ones((2, 3)) / 2)]
    drawing.draw(SCENE, [one(*panels)], tmp_path / "a.png")
    single, double = figures[0].axes[1:]
    assert [bar.get_height() for bar in single.patches] == [0.9, 0.5, 0.2] and single.get_ylim() == (0, 1)
    assert [text.get_text() for text in double.get_legend().get_texts()] == ["branch 1", "branch 2"]


def test_names_of_files() -> None:
    assert (
        drawing.file_name(Bars("inside: channel gate, mean", "", np.ones((1, 1))), 2) == "02-inside-channel-gate-mean"
    )
