"""Every layer at every place and scale, by name: the model builds, and each row takes the map of the row before it."""

from __future__ import annotations

import warnings

import pytest
import torch

import yolo_attn
from yolo_attn import registry
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


def count_after_a_run(name: str, layer: registry.Layer) -> int:
    """Build the rows of a model by name, run all but its head without numbers, and count a layer in them."""
    config = tasks.yaml_model_load(name)
    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # narrow bottlenecks have one hidden channel
        rows, _ = tasks.parse_model(config, 3, verbose=False)
        x, seen = torch.zeros(1, 3, 96, 160), []
        for row in rows.eval()[:-1]:
            given = [x if f == -1 else seen[f] for f in ([row.f] if isinstance(row.f, int) else row.f)]
            x = row(given[0] if isinstance(row.f, int) else given)
            seen.append(x)
    sizes = [tuple(seen[f].shape[2:]) for f in rows[-1].f]
    assert sizes == [(12, 20), (6, 10), (3, 5)] and all(seen[f].shape[1] > 0 for f in rows[-1].f)
    return sum(type(m) is layer.load() for m in rows.modules() if not isinstance(m, Gated))


@pytest.mark.parametrize("scale", "nsmlx")
@pytest.mark.parametrize("layer", registry.TABLE, ids=lambda layer: layer.name)
def test_it_builds_and_runs_in_backbone_neck_and_blocks(layer: registry.Layer, scale: str) -> None:
    bottlenecks = {"n": 10, "s": 10, "m": 20, "l": 30, "x": 30}[scale]
    name = "-".join((f"yolov8{scale}", layer.slug, layer.slug, "neck", layer.slug, "blocks")) + ".yaml"
    assert count_after_a_run(name, layer) == 1 + 3 + bottlenecks
