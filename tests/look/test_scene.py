"""Places in the image and cells of a map are the same places."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_attn.look.panels import View
from yolo_attn.look.scene import Detection, Frame

WIDE = Frame((100, 200), (128, 224), (112, 224), top=8)  # padded above and below
CROPPED = Frame((100, 200), (64, 64), (64, 128), left=-32)  # as classifiers see it


def test_a_place_there_and_back() -> None:
    size = (16, 28)
    for x, y in ((0.5, 0.5), (100, 50), (199, 99)):
        row, column = WIDE.cell(x, y, size)
        left, top, right, bottom = WIDE.box(column, row, column + 1, row + 1, size)
        assert left <= x <= right and top <= y <= bottom
    assert WIDE.point(14, 8, size) == pytest.approx((100, 50))
    assert WIDE.box(0, 0, 28, 16, size) == pytest.approx((0, -8 / 1.12, 200, 100 + 8 / 1.12))


def test_what_is_padding() -> None:
    inside = WIDE.inside((16, 28))
    assert inside.shape == (16, 28) and inside[1:15].all() and not inside[[0, 15]].any()
    assert WIDE.inside((1, 1)).all()
    strip = Frame((1, 1000), (32, 640), (1, 640), top=15)
    assert strip.inside((2, 40)).all()  # no centre lies in the image, so all count


def test_a_cropped_image() -> None:
    assert CROPPED.inside((8, 8)).all()
    assert CROPPED.point(0, 0, (8, 8)) == pytest.approx((50, 0))
    assert CROPPED.cell(0, 99, (8, 8)) == (7, 0)  # out of sight: the nearest cell


def test_places_stay_in_the_image() -> None:
    view = View(WIDE, (4, 7), (100.0, 50.0))
    assert view.cell == (2, 3)
    assert view.place(0, 0) == (14, 7) and view.place(3, 6) == (185, 92)
    assert View(WIDE, (16, 28), (0.0, 0.0)).place(0, 0) == (3, 0)


def test_the_centre_of_a_detection() -> None:
    outline = np.array([(10, 20), (30, 20), (30, 60)])
    assert Detection("a", 0.5, outline).center == (20, 40)
