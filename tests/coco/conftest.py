"""A keypoint JSON for the tests of this room."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def write_people(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a keypoint JSON: crowds, objects without labelled points, objects of all sizes."""

    def write(k: int, categories: int = 2, seed: int = 0, **changed: Any) -> Path:
        rng = np.random.default_rng(seed)
        notes = []
        for i in range(90):
            box = np.round([*rng.uniform(0, 300, 2), *np.exp(rng.uniform(2.5, 5.5, 2))], 2)
            points = np.column_stack([box[:2] + rng.uniform(0, 1, (k, 2)) * box[2:], rng.integers(0, 3, k)])
            if i % 9 == 0:
                points[:] = 0
            notes.append(
                {
                    "id": i + 1,
                    "image_id": int(rng.integers(1, 13)),
                    "category_id": int(rng.integers(1, categories + 1)),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.uniform(0.4, 0.9)),
                    "iscrowd": int(i % 13 == 0),
                    "keypoints": points.round(1).ravel().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
        names = [f"p{j}" for j in range(k)]
        document = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 600, "height": 600} for i in range(1, 16)],
            "annotations": notes,
            "categories": [{"id": c, "name": f"c{c}", "keypoints": names} for c in range(1, categories + 1)],
            **changed,
        }
        path = tmp_path / f"people{k}.json"
        path.write_text(json.dumps(document))
        return path

    return write
