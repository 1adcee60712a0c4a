"""The export matrix: every layer at backbone, neck and in blocks through every format that can be installed here.

A cell is a process of its own with a time limit, so a crash of a converter is a row. Run it in each environment that
has some of the packages, with the same ``--out``: what is there is kept, what is missing is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by its path: find the packages, not the files beside it
    sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
import torch
from PIL import Image

from experiments import evidence, export_models, export_programs
from yolo_attn import registry
from yolo_attn.host.run import demo
from yolo_attn.host.run.export_check import Case, Row, check
from yolo_attn.host.run.runtimes import PACKAGES, missing_packages

TASK = "export"
SIZES = [[128, 160], [96, 128]]  # the second one where an export is for all sizes
TIMEOUT = 240


@dataclass(frozen=True)
class Column:
    """One way to export: the host's format and arguments, or a function of ``export_programs``."""

    name: str
    form: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    run: Callable[[str, list[list[int]]], Row] | None = None
    needs: tuple[str, ...] = ()  # modules beside those of the format

    @property
    def sizes(self) -> list[list[int]]:
        """The sizes it is checked at."""
        return SIZES if self.arguments.get("dynamic") else SIZES[:1]

    def missing(self) -> list[str]:
        """Return what cannot be imported here."""
        return missing_packages(self.form) + [n for n in self.needs if importlib.util.find_spec(n) is None]


def _onnx(name: str, **arguments: Any) -> Column:
    return Column(f"ONNX {name}".strip(), "onnx", arguments, needs=("onnxslim",))


COLUMNS = (
    _onnx("", simplify=False),
    _onnx("simplified"),
    _onnx("dynamic simplified", dynamic=True),
    _onnx("fp16", quantize=16),
    _onnx("opset 13", opset=13, simplify=False),
    _onnx("opset 20", opset=20, simplify=False),
    _onnx("NMS", nms=True),
    Column("TorchScript", "torchscript"),
    Column("TorchScript dynamic", "torchscript", {"dynamic": True}),
    Column("OpenVINO", "openvino"),
    Column("OpenVINO dynamic", "openvino", {"dynamic": True}),
    Column("OpenVINO fp16", "openvino", {"quantize": 16}),
    Column("torch.export", run=export_programs.exported),
    Column("torch.export dynamic", run=export_programs.exported_dynamic),
    Column("torch.compile", run=export_programs.compiled),
    Column("MNN", "mnn", needs=("onnxslim",)),
    Column("ncnn", "ncnn"),
    Column("LiteRT", "litert"),
    Column("ExecuTorch", "executorch"),
    Column("Paddle", "paddle"),
    Column("TF SavedModel", "saved_model"),
    Column("CoreML", "coreml"),
)


def cells(rows: list[dict[str, Any]], models: list[str], columns: list[str]) -> Iterator[tuple[str, Column]]:
    """Yield what is asked for, can be measured here and has no row yet."""
    done = {(row["model"], row["column"]) for row in rows}
    for column in COLUMNS:
        if column.name in columns and not column.missing():
            yield from ((model, column) for model in models if (model, column.name) not in done)


def measure(model: Path, column: Column, images: list[str], timeout: float) -> Row:
    """Return the row of one cell, from a process of its own that starts with everything imported."""
    with tempfile.TemporaryDirectory(prefix="export-matrix-") as name:
        folder = Path(name)
        process = multiprocessing.get_context("fork").Process(target=_cell, args=(model, column, images, folder))
        process.start()
        process.join(timeout)
        if process.is_alive():
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            return Row("failed", note=f"not finished after {timeout:.0f} s")
        answer, log = folder / "row.json", folder / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace")[-1500:] if log.exists() else ""
        if not answer.exists():
            code = process.exitcode or 0
            ending = signal.Signals(-code).name if code < 0 else f"code {code}"
            return Row("failed", note=f"the process ended with {ending}", log=text)
        row = Row(**json.loads(answer.read_text(encoding="utf-8")))
        row.log = text if row.state == "failed" else ""
        return row


def _cell(model: Path, column: Column, images: list[str], folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    stream = os.open("log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    if column.form == "saved_model":  # the host would download them; they matter to int8 alone
        np.save("calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
    try:
        if column.run is not None:
            row = column.run(str(model), column.sizes)
        else:
            row = check(Case(str(model), "detect", column.form, column.sizes, images, column.arguments), folder)
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        row = Row("failed", note=f"{type(error).__name__}: {lines[0]}"[:300])
    Path("row.json").write_text(json.dumps(asdict(row)), encoding="utf-8")
    os._exit(0)


def main() -> None:
    """Measure what is missing and save after each cell."""
    os.environ["YOLO_AUTOINSTALL"] = "false"
    parser = argparse.ArgumentParser(description=__doc__)
    names = [column.name for column in COLUMNS]
    parser.add_argument("--models", nargs="+", default=list(export_models.MODELS), choices=export_models.MODELS)
    parser.add_argument("--columns", nargs="+", default=names, choices=names)
    parser.add_argument("--base", type=Path, required=True, help="best.pt of: yolo-attn demo model=yolov8n.yaml")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models, made once")
    parser.add_argument("--again", action="store_true", help="measure those that are not the same again")
    parser.add_argument("-o", "--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for module in ("torchvision", "torch._dynamo", "onnx", "onnxruntime", "onnxslim", "openvino"):
        with contextlib.suppress(ImportError):  # once, not in every cell; they start no threads yet
            importlib.import_module(module)
    images = [str(path) for path in demo.validation_images()[:2]]
    content = evidence.load(given.out, TASK)
    rows = content["rows"] if content else []
    if given.again:
        rows = [
            r
            for r in rows
            if r["state"] == "same" or (r["model"] not in given.models or r["column"] not in given.columns)
        ]
    files = export_models.build_all(given.models, given.work, given.base, _read_images(images))
    command = "python scripts/experiments/export_matrix.py --base best.pt --work DIR"
    for model, column in cells(rows, given.models, given.columns):
        start = time.perf_counter()
        row = measure(files[model], column, images, TIMEOUT)
        seconds = round(time.perf_counter() - start, 1)
        print(
            f"{column.name:22}{model:26}{row.state:9}{row.difference or 0:8.1e} {row.layer or row.note} {seconds} s",
            flush=True,
        )
        rows.append(_entry(model, column, row) | {"seconds": seconds})
        evidence.save(evidence.record(TASK, {"sizes": SIZES, "images": len(images)}, rows, command), given.out)


def _entry(model: str, column: Column, row: Row) -> dict[str, Any]:
    _, _, rest = model.partition("-")
    place, end = next((p, e) for p, e in reversed(export_models.PLACES.items()) if rest.endswith(e))
    slug = rest.removesuffix(end)
    layer = next((layer.name for layer in registry.TABLE if layer.slug == slug), "none")
    modules = {**PACKAGES.get(column.form, {}), **{name: name for name in column.needs}}
    found = {}
    for package in modules.values():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    said = {key: value for key, value in asdict(row).items() if value not in ("", None, 0) and key != "log"}
    if "layer" in said:
        said["first"] = said.pop("layer")
    if "note" in said:
        said["note"] = re.sub(r"/\S*/", "", said["note"])  # folders of this machine
    place = place if layer != "none" else ""
    return {"model": model, "layer": layer, "place": place, "column": column.name, **said, "packages": found}


def _read_images(files: list[str]) -> torch.Tensor:
    pixels = [np.array(Image.open(file).convert("RGB").resize(SIZES[0][::-1])) for file in files]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255


if __name__ == "__main__":
    main()
