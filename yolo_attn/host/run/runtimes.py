"""Exported models: written by the host's exporter and run by its predictor, in a folder that is thrown away."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

Size = Sequence[int]  # height and width
# Format -> what it needs: module -> what pip installs. onnxslim is missing here: the host exports without it.
PACKAGES: dict[str, dict[str, str]] = {
    "torchscript": {},
    "onnx": {"onnx": "onnx", "onnxruntime": "onnxruntime"},
    "openvino": {"openvino": "openvino"},
    "mnn": {"onnx": "onnx", "MNN": "MNN"},
    "ncnn": {"ncnn": "ncnn", "pnnx": "pnnx"},
    "litert": {"litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert"},
    "executorch": {"executorch": "executorch"},
    "paddle": {"paddle": "paddlepaddle", "x2paddle": "x2paddle"},
    "saved_model": {
        "tensorflow": "tensorflow", "onnx": "onnx", "onnx2tf": "onnx2tf", "tf_keras": "tf_keras",
        "sng4onnx": "sng4onnx", "onnx_graphsurgeon": "onnx_graphsurgeon",
    },
    "coreml": {"coremltools": "coremltools"},
    "engine": {"tensorrt": "tensorrt"},
}  # fmt: skip


@dataclass
class Seen:
    """What a model said about one image: its input, raw outputs, and detections ``(n, 6)`` in pixels of the image."""

    image: Tensor
    raw: list[Tensor]
    detections: Tensor


def missing_packages(form: str) -> list[str]:
    """Return what has to be installed before a format can be written and run here."""
    return [name for module, name in PACKAGES.get(form, {}).items() if importlib.util.find_spec(module) is None]


def known_formats() -> dict[str, list[str]]:
    """Return the formats that this version of the host writes, each with the export arguments it takes, if they say."""
    from ultralytics.engine.exporter import export_formats

    table = export_formats()
    arguments = table.get("Arguments") or [[] for _ in table["Argument"]]
    return {name: list(given) for name, given in zip(table["Argument"], arguments, strict=True) if name != "-"}


@contextlib.contextmanager
def nothing_installed() -> Iterator[None]:
    """Keep the host from installing packages in this block: a check must not change what it checks."""
    from ultralytics.utils import checks

    with mock.patch.object(checks, "AUTOINSTALL", False):
        yield


@contextlib.contextmanager
def float32_kept(form: str) -> Iterator[None]:
    """Let the runtime compute in float32 in this block: OpenVINO prefers bfloat16 where the processor has it."""
    if form != "openvino":
        yield
        return
    import openvino

    compile_model = openvino.Core.compile_model

    def in_float32(core: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        return compile_model(core, *args, config={**(config or {}), "INFERENCE_PRECISION_HINT": "f32"}, **kwargs)

    with mock.patch.object(openvino.Core, "compile_model", in_float32):
        yield


def export(file: Path, form: str, size: Size, arguments: Mapping[str, Any]) -> tuple[str, nn.Module]:
    """Export a checkpoint beside itself; return the exported file and the model as the exporter prepared it."""
    from ultralytics import YOLO

    model = YOLO(str(file))
    kept: list[nn.Module] = []

    def keep(exporter: Any) -> None:
        # A copy: newer exporters move this very model on, to half precision or into a wrapper. Older ones have none yet
        # when they start.
        if not kept and hasattr(exporter, "model"):
            kept.append(copy.deepcopy(exporter.model))

    for moment in ("on_export_start", "on_export_end"):
        model.add_callback(moment, keep)
    path = model.export(format=form, imgsz=list(size), **arguments)
    return str(path), kept[0]


def look(weights: str, task: str, images: Sequence[str], size: Size, least: float) -> list[Seen]:
    """Let the host's predictor run a checkpoint or an exported model on images.

    Args:
        weights: The file or folder.
        task: Task of the model.
        images: Image files.
        size: Height and width to which images are padded, the same for every format.
        least: Score from which on detections are returned.
    """
    from ultralytics import YOLO

    model = YOLO(weights, task=task)
    words = {"imgsz": list(size), "conf": least, "rect": False, "save": False, "verbose": False, "mode": "predict"}
    predictor = model._smart_load("predictor")(overrides={**words, "batch": 1, "device": "cpu"})
    predictor.setup_model(model=model.model, verbose=False)
    last: dict[str, Any] = {}
    hook = predictor.model.register_forward_hook(lambda _, given, y: last.update(image=given[0], raw=y))
    try:
        return [
            Seen(last["image"].float().cpu().clone(), tensors(last["raw"]), _detections(result))
            for image in images  # a list would be one batch
            for result in predictor(source=image)
        ]
    finally:
        hook.remove()


def run_raw(weights: str, images: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the raw outputs of an exported model for inputs that are ready."""
    from ultralytics.nn.autobackend import AutoBackend

    backend = AutoBackend(weights, device=torch.device("cpu"))
    return [tensors(backend(image)) for image in images]


def tensors(y: Any) -> list[Tensor]:
    """Return all tensors in what a model returns, in order; a model in Python adds maps behind the outputs."""
    if isinstance(y, Tensor):
        return [y.detach().float().cpu().clone()]
    parts = y.values() if isinstance(y, Mapping) else y if isinstance(y, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def _detections(result: Any) -> Tensor:
    boxes = result.obb if getattr(result, "obb", None) is not None else result.boxes
    if boxes is None:  # classification: the best class, as if it were found in all of the image
        if result.probs is None:
            return torch.zeros(0, 6)
        score, best = float(result.probs.top1conf), result.probs.top1
        return torch.tensor([[0.0, 0.0, *result.orig_shape[::-1], score, best]])
    columns = [boxes.xyxy, boxes.conf[:, None], boxes.cls[:, None]]
    return torch.cat([torch.as_tensor(column).float().cpu() for column in columns], 1)
