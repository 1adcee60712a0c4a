"""The study of starts: what each start computes, what is run, and what its table says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import start_study
from experiments.start_study import STARTS, Opening
from yolo_attn.layers.cbam import CBAM
from yolo_attn.layers.gated import Gated


@pytest.mark.parametrize(("gain", "channels"), [(1, None), (8, None), (8, 16), (None, None)])
def test_an_opening_starts_as_the_identity_and_ends_as_the_layer(gain: float | None, channels: int | None) -> None:
    layer, x = CBAM(16), torch.randn(2, 16, 8, 8)
    opening = Opening(layer, gain, channels)
    assert torch.equal(opening(x), x) and opening.openness() == 0
    if gain is None:
        opening.opened = 1.0
        assert not list(opening.parameters(recurse=False))
    else:
        opening.gate.data.fill_(1 / gain)
    assert opening.openness() == 1
    torch.testing.assert_close(opening(x), layer(x))


def test_a_gain_of_8_is_our_own_gate() -> None:
    layer, x = CBAM(16), torch.randn(2, 16, 8, 8)
    opening, gated = Opening(layer, 8), Gated(layer)
    opening.gate.data.fill_(0.01)
    gated.gate.data.fill_(0.01)
    torch.testing.assert_close(opening(x), gated(x))


def test_every_start_is_run_for_one_seed_before_the_next() -> None:
    runs = start_study.plan(["SE", "CBAM"], ["neck"], [0, 1])
    assert [run["seed"] for run in runs] == [0] * 15 + [1] * 15
    assert runs[0]["start"] == "base" and [run["start"] for run in runs[1:8]] == list(STARTS)


def _run(start: str, seed: int, maps: list[float], gates: list[float] = ()) -> dict[str, Any]:  # type: ignore[assignment]
    place = "" if start == "base" else "neck"
    readings = [{"step": step, "g": [*gates]} for step in (10, 15, 20)] if gates else []
    found = {"maps": maps, "steps": [0, 10, 20], "gates": readings}
    return {"layer": "none" if start == "base" else "SE", "place": place, "start": start, "seed": seed, **found}


def test_the_summary_pairs_seeds_and_counts_steps() -> None:
    runs = [_run("base", 0, [0.5, 0.4, 0.45]), _run("base", 1, [0.5, 0.3, 0.4])]
    runs += [_run("gain 8", 0, [0.5, 0.5, 0.6], [-0.2, 0.4]), _run("gain 8", 1, [0.5, 0.2, 0.6], [0.0, 0.0])]
    runs += [_run("paper", 0, [0.1, 0.2, 0.3]), _run("paper", 1, [0.1, 0.2, 0.5])]
    rows = base, paper, gain = start_study.summarise(runs)
    assert (base["maps"], base["difference"], base["back"], base["gates"]) == ([50, 35, 42.5], 0, 0, [])
    assert (paper["maps"], paper["difference"], paper["back"], paper["steps"]) == ([10, 20, 40], -2.5, 1, 20)
    assert (gain["difference"], gain["back"], gain["steps"], gain["gates"]) == (17.5, 2, 15, [0.15, 0.15])
    assert gain["low"] == pytest.approx(17.5 - 12.706 * 2.5, abs=0.01) and gain["high"] > 17.5  # t of one degree
    table = start_study.start_table({"rows": rows, "settings": {"runs": runs}})
    assert table.startswith("The base has 50.0 mAP50-95, and 42.5 when it is fine-tuned without a layer. 3 of all 6")
    assert "| SE | neck | 10.0 | -2.5 [-161.3, +156.3] | +17.5 [-14.3, +49.3] |" in table
    assert table.endswith(
        "| gate | place | 10 steps | 20 steps |\n| --- | --- | ---: | ---: |\n| gain 8 | neck | 0.150 | 0.150 |"
    )
    chinese = start_study.start_table({"rows": rows, "settings": {"runs": runs}}, chinese=True)
    assert chinese.startswith("基础模型的 mAP50-95 为 50.0，不加层微调后为 42.5。全部 6 次训练中，有 3 次")
    assert re.findall(r"[\d.]{4,}", chinese.partition("|")[2]) == re.findall(r"[\d.]{4,}", table.partition("|")[2])


def test_a_run_is_claimed_once_and_again_after_its_process_died(tmp_path: Path) -> None:
    file = tmp_path / "a.claim"
    assert start_study._claim(file) and not start_study._claim(file)
    file.write_text("999999999")
    assert start_study._claim(file)
