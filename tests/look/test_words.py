"""What is said about numbers."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_attn.look import words
from yolo_attn.look.panels import Layer, Reading, View
from yolo_attn.look.scene import Frame

VIEW = View(Frame((64, 96), (96, 96), (64, 96), top=16), (6, 6), (0.0, 0.0))


def reading(change: float, openness: float | None = None, exact: bool = False) -> Reading:
    return Reading(Layer(10, "CBAM", "backbone-p5", "", openness), VIEW, 8, change, exact, ())


def test_numbers() -> None:
    assert [words.number(v) for v in (0.0, 0.4949, 0.00812, -0.05, 12.3)] == [
        "0.00",
        "0.49",
        "0.0081",
        "-0.05",
        "12.30",
    ]
    assert [words.percent(v) for v in (0.0, 0.0001, 0.014, 0.41, 1.05)] == ["0%", "0%", "1.4%", "41%", "105%"]


def test_gates_over_channels() -> None:
    said = words.bars(np.array([0.31, 0.68, 0.48]))
    assert said == "0.31 to 0.68, mean 0.49 over 3 channels, highest in channel 1, lowest in 0"
    assert words.bars(np.array([0.491, 0.502])) == "0.491 to 0.502 over 2 channels: nearly the same for all"
    assert words.bars(np.array([0.3])) == "0.30 for its one channel"


def test_gates_over_the_image_leave_the_padding_out() -> None:
    values = np.full((6, 6), 0.4)
    values[0] = 0.99  # padding
    values[2, 3], values[4, 1] = 0.9, 0.1
    said = words.gate_map(values, VIEW)
    assert said == "0.10 to 0.90, mean 0.41, highest at (56, 24), lowest at (24, 56)"
    assert words.gate_map(np.full((6, 6), 0.5), VIEW) == "0.500 to 0.500: nearly the same everywhere"


def test_weights() -> None:
    inside = np.array([True, True, False, True])
    said = words.weights(np.array([0.2, 0.3, 0.4, 0.1]), [(1, 1), (2, 2), (3, 3), (4, 4)], inside)
    assert (
        said == "most on (2, 2), 0.30 or 1.2 times an even share; half of the weight on 2 of 4; 40% lies on the padding"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (reading(0.41, exact=True), "changes the map by 41% (|y - x| / |x|) and does nothing but multiply it"),
        (reading(0.004), "changes the map by 0.4% (|y - x| / |x|): almost nothing here"),
        (reading(0.4, 0.0), "its gate g is 0: the layer is the identity, and what follows is what it would do. "
         "It changes the map by 40% (|y - x| / |x|)"),
        (reading(0.4, 0.25), "its gate g is 0.25. Fully open, the layer changes the map by 40% (|y - x| / |x|); "
         "as it is, by 10%"),
        (reading(0.4, -0.01), "its gate g is -0.01. Fully open, the layer changes the map by 40% (|y - x| / |x|); "
         "as it is, by 0.4%: almost nothing here"),
    ],
)  # fmt: skip
def test_the_effect_of_a_layer(given: Reading, said: str) -> None:
    assert words.effect(given) == said


def test_labels() -> None:
    assert Layer(10, "CBAM", "backbone-p5").label == "row 10, CBAM, backbone-p5"
    inside = Layer(4, "TimmAttention se", "neck-blocks", "m.0.cv2")
    assert (inside.label, inside.key) == (
        "row 4 (m.0.cv2), TimmAttention se, neck-blocks",
        "row4-m-0-cv2-TimmAttention-se",
    )
