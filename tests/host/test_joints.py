"""The table of joints: each leads to a function of ours, and the versions it serves are those that pip installs."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from yolo_attn.host import patch
from yolo_attn.host.joints import JOINTS, SUPPORTED, is_supported


def test_every_joint_names_a_function() -> None:
    paths = [path for functions in JOINTS.values() for joints in functions.values() for path in joints]
    assert len(paths) > 15 and all(callable(patch._joint(path)) for path in paths)


def test_the_supported_range_is_that_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    required = setup["options"]["install_requires"].split()
    assert [r for r in required if r.startswith("ultralytics")] == [f"ultralytics{SUPPORTED}"]


@pytest.mark.parametrize(
    ("version", "supported"),
    [("8.3.99", False), ("8.3.100", True), ("8.4.190", True), ("8.10.0", True), ("8.4.1+cu1", True), ("9.0.0", False)],
)
def test_versions_in_and_out_of_the_range(version: str, supported: bool) -> None:
    assert is_supported(version) is supported
