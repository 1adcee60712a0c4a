"""The wiring of a model YAML: what its rows read, and where that is surely not what its author meant.

Pure functions over a model dictionary, in the form that ``graft`` knows. Each finding quotes the rows and says what was
probably meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .checks import HEADS, check_rows, find_missing_sources
from .finding import Finding
from .graph import READ_BY_THE_MODEL, Graph
from .keys import check_keys, repeated_keys

__all__ = ["HEADS", "READ_BY_THE_MODEL", "Finding", "Graph", "findings", "repeated_keys"]


def findings(model: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the wiring of a model, what cannot be built first.

    Args:
        model: A model dictionary; ``scale`` in it is the one asked for.

    Example:
        >>> findings(yaml.safe_load(open("yolov8-cbam.yaml")))
        []
    """
    found = check_keys(model)
    if not any(finding.fatal for finding in found):
        graph = Graph.of(model)
        missing = find_missing_sources(graph)
        if missing and any(finding.kind == "section" for finding in found):
            # What is missing are the rows that Ultralytics does not read.
            missing, found = [], [replace(finding, fatal=finding.kind == "section") for finding in found]
        elif not missing:
            found += check_rows(graph)
        found += missing
    return sorted(found, key=lambda finding: not finding.fatal)
