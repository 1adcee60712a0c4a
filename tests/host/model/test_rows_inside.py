"""The attention in a block's row as people write it: widths, other orders, strings, compound names."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from yolo_attn.errors import RowError, UnknownLayerError
from yolo_attn.layers import CBAM, ECA
from yolo_attn.layers.timm_attention import TimmAttention

tasks = pytest.importorskip("ultralytics.nn.tasks")

SCALES = {"n": [1.0, 0.25, 1024], "s": [1.0, 0.5, 1024]}


@pytest.fixture(autouse=True, scope="module")
def _patched(installed) -> None:
    pass


def model(*row: Any, scale: str = "n", **more: Any) -> dict[str, Any]:
    backbone = [[-1, 1, "Conv", [256, 3, 2]], [-1, *row], [-1, 1, "SPPF", [256, 5]]]
    return {"nc": 2, "backbone": backbone, "head": [[[2], 1, "Detect", ["nc"]]], "scale": scale, **more}


def inside(attention: Any, scale: str = "n", **more: Any) -> Any:
    d = model(1, "C2f", [512, True, {"attention": attention}], scale=scale, **more)
    return tasks.parse_model(d, 3, verbose=False)[0][1].m[0].cv2[1]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("number", [64, 128, 512])
def test_a_width_means_the_same_at_every_scale(scale: str, number: int) -> None:
    with pytest.raises(RowError, match=f"{number} is .*the width of the bottleneck.* write {{attention: CBAM}}, or"):
        inside(["CBAM", number], scale, scales=SCALES)


def test_what_an_error_says_to_write_builds() -> None:
    with pytest.raises(RowError) as error:
        inside(["CBAM", 512, 512, 3], scales=SCALES)
    written = yaml.safe_load(re.search(r"write (\{.*\})$", str(error.value))[1])
    assert inside(written["attention"], scales=SCALES).kernel_size == 3
    assert inside(["CBAM", 256], scale="").channels == 256  # one scale alone


def test_another_order_is_read_and_said_once(said: list[str]) -> None:
    for _ in range(2):
        assert inside(["CBAM", 7], scales=SCALES, yaml_file="my.yaml").kernel_size == 7
    assert said == [line for line in said if line.startswith("my.yaml, row 1: 7 is read as kernel_size")]
    assert len(said) == 1


def test_strings_are_read_as_in_other_rows() -> None:
    assert isinstance(inside(["ECA", "None"]), ECA)
    assert inside(["CBAM", "8"]).reduction == 8


def test_a_head_is_told_where_rows_go() -> None:
    d = model(1, "C2f", [256])
    d["head"][0][3] = ["nc", {"attention": "CBAM"}]
    with pytest.raises(RowError, match=r"Detect has no bottleneck .* after each row that it reads"):
        tasks.parse_model(d, 3, verbose=False)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("C2f_timm_eca", TimmAttention), ("c2fCBAM", CBAM), ("C2F_CBAM_Block", CBAM), ("BottleNeck_CBAM", CBAM)],
)
def test_both_readings_of_a_compound_name_build(name: str, kind: type) -> None:
    d = model(1, name, [256, True])
    with pytest.raises(UnknownLayerError) as error:
        tasks.parse_model(copy.deepcopy(d), 3, verbose=False)
    first = re.search(r"residual is added: (\[.*?\]);", str(error.value))[1]
    second = re.search(r"block's end: (\[.*?\]), then (\[.*?\]) as row 2", str(error.value))
    for written in ([first], list(second.groups())):
        backbone = [d["backbone"][0], *map(yaml.safe_load, written)]
        layers, _ = tasks.parse_model({**d, "backbone": backbone, "head": [[[-1], 1, "Detect", ["nc"]]]}, 3, False)
        assert any(isinstance(m, kind) for m in layers.modules())


@pytest.mark.parametrize("name", ["C2f_Attention", "C2f_CA_Block", "C2f_PSA", "SPPF_Attention"])
def test_a_compound_with_a_name_of_several_layers_says_what_there_is(name: str) -> None:
    word = name.partition("_")[2]
    with pytest.raises(UnknownLayerError, match=f"{name} is no module .*{word}.* here") as error:
        tasks.parse_model(model(1, name, [256, True]), 3, verbose=False)
    assert "did you mean" not in str(error.value)
