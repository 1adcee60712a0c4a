"""Builders shared by the tests of the COCO rooms, and threads for parallel workers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

# HYPOTHESIS_PROFILE=thorough tries 2,000 cases of every property; the suite tries a few, the same ones each time.
_checks = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("few", max_examples=30, derandomize=True, **_checks)
settings.register_profile("thorough", max_examples=2000, **_checks)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # one process per core; threads beside them would only wait for each other


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is cached away from the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_ATTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=["fast", "plain"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with the fast forms of the layers and again without."""
    try:
        from yolo_attn import fast
    except ImportError:
        if request.param == "fast":
            pytest.skip("the folder is optional")
        yield
        return
    token = fast._is_on.set(request.param == "fast")
    yield
    fast._is_on.reset(token)


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a noise image of a size, optionally with an EXIF orientation."""

    def write(name: str, size: tuple[int, int] = (40, 20), orientation: int | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        exif = Image.Exif()
        if orientation:
            exif[274] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
        return path

    return write


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a COCO JSON from (id, file) images and (image, category, box) annotations."""

    def write(
        images: list[tuple[Any, ...]],
        annotations: list[tuple[Any, ...]] | None = (),
        categories: dict[Any, str] | list[dict[str, Any]] | None = None,
        name: str = "annotations/train.json",
        **replaced: Any,
    ) -> Path:
        document = {
            "images": [
                {
                    "id": id_,
                    "file_name": file,
                    "width": (size or [(40, 20)])[0][0],
                    "height": (size or [(40, 20)])[0][1],
                }
                for id_, file, *size in images
            ],
            "annotations": None
            if annotations is None
            else [
                {
                    "id": i + 1,
                    "image_id": im,
                    "category_id": c,
                    "bbox": list(box),
                    "area": 1.0,
                    "iscrowd": 0,
                    **dict(*more),
                }
                for i, (im, c, box, *more) in enumerate(annotations)
            ],
            "categories": categories
            if isinstance(categories, list)
            else [{"id": id_, "name": n} for id_, n in (categories or {1: "a", 3: "b"}).items()],
            **replaced,
        }
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}), encoding="utf-8")
        return path

    return write
