"""The benchmark's two measurements that need the host: a whole model, and the start of its command."""

from __future__ import annotations

import pytest

from experiments import start_time, whole_model
from yolo_attn.errors import HostError


def test_a_whole_model_is_measured_with_and_without_a_layer() -> None:
    row = whole_model.measure("CBAM", "backbone", "cpu", 1, 64, 1)
    assert (row["layer"], row["place"], row["memory"]) == ("CBAM", "backbone", "saved")
    assert row["memory ratio"] > 1
    for kind in ("training", "inference"):
        assert set(row[kind]) == {"with", "without"}
        assert row[f"{kind} ratio"][0] == pytest.approx(row[kind]["with"][0] / row[kind]["without"][0])


def test_the_start_is_measured_with_and_without_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_AUTOLOAD", "0")  # ours of this process must not decide
    monkeypatch.setattr(start_time, "PROGRAMS", {"python": "pass"})
    (row,) = start_time.measure(2)
    assert [row["pairs"] for row in start_time.measure(5, seconds=0)] == [1]
    assert (row["program"], row["pairs"]) == ("python", 2)
    assert row["with"][0] > 0
    monkeypatch.setattr(start_time, "PROGRAMS", {"broken": "raise SystemExit('no such command')"})
    with pytest.raises(HostError, match="no such command"):
        list(start_time.measure(1))
    monkeypatch.setattr(start_time, "HOOK", "no-such-hook.pth")
    with pytest.raises(HostError, match=r"no-such-hook\.pth is in no folder"):
        list(start_time.measure(1))
