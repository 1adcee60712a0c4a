"""Exported models: which runtimes are installed, and calls that predict with them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Call

# Format -> what it needs: module -> what pip installs. OpenVINO reads the ONNX file too.
FORMATS: dict[str, dict[str, str]] = {
    "onnx": {"onnx": "onnx", "onnxruntime": "onnxruntime"},
    "openvino": {"onnx": "onnx", "openvino": "openvino"},
}
TITLES = {"onnx": "ONNX", "openvino": "OpenVINO"}


def missing_packages(form: str) -> list[str]:
    """Return what has to be installed before a format can be measured."""
    return [name for module, name in FORMATS[form].items() if importlib.util.find_spec(module) is None]


def load(form: str, file: Path, image: np.ndarray, threads: int) -> Call:
    """Return a call that predicts with an ONNX file on the CPU.

    Args:
        form: A key of ``FORMATS``: the runtime.
        file: The ONNX file.
        image: What it predicts on.
        threads: How many threads the runtime takes.
    """
    return _onnxruntime(file, image, threads) if form == "onnx" else _openvino(file, image, threads)


def _onnxruntime(file: Path, image: np.ndarray, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: image}
    return lambda _: session.run(None, given)


def _openvino(file: Path, image: np.ndarray, threads: int) -> Call:
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    request = core.compile_model(core.read_model(str(file)), "CPU", settings).create_infer_request()
    return lambda _: request.infer({0: image}, share_inputs=True)


def openvino_precision() -> str:
    """Return in what OpenVINO computes on this processor unless it is told otherwise."""
    import openvino

    chosen = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    return str(getattr(chosen, "get_type_name", lambda: chosen)())
