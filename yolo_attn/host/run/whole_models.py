"""Whole models to measure: read by name, built with random weights, prepared to predict, exported."""

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._version import __version__
from ...errors import HostError, ModelNameError, RowError, YoloAttnError, nearest
from ..install import install
from ..model import surgery
from ..model.model_names import host_models
from .runtimes import nothing_installed

Config = dict[str, Any]
_LEAST_STRIDE = 32  # to which the host rounds sizes of every model


def read_config(model: str | Path, nc: int | None = None) -> Config:
    """Return the dictionary of a model YAML, or of a name such as ``yolov8n`` or ``yolov8n-cbam-neck``.

    Args:
        model: Name or path, with or without ``.yaml``.
        nc: Number of classes; None means that of the YAML.

    Raises:
        ModelNameError: If there is no such model.
        RowError: If it is another YAML, or none.
    """
    install()
    from ultralytics.nn import tasks

    path = Path(model)
    if path.suffix == ".pt":
        raise ModelNameError(f"{str(model)!r} is a checkpoint, and cost needs no weights; name the model: {path.stem}")
    name = str(model) if path.suffix in (".yaml", ".yml") else f"{model}.yaml"
    try:
        with surgery.silence():
            config: Config = tasks.yaml_model_load(name)
    except YoloAttnError:
        raise
    except FileNotFoundError as error:
        meant = nearest(path.stem, host_models())
        raise ModelNameError(f"there is no model {str(model)!r}{meant or '; name one such as yolov8n'}") from error
    except ValueError as error:  # the host's own, of YAML's
        raise RowError(f"{model} is no model YAML: {' '.join(str(error).split())}") from error
    for part in ("backbone", "head"):
        if not isinstance(config.get(part), list) or not config[part]:
            raise RowError(f"{model} is no model YAML: it has no rows in '{part}:'")
    return config if nc is None else {**config, "nc": nc}


def build(config: Mapping[str, Any], device: torch.device | str = "cpu") -> Any:
    """Return the model of a dictionary in training mode, the same weights at each call."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn import tasks

    torch.manual_seed(0)
    with surgery.silence():
        model = surgery.build(dict(config)).to(device).train()
    model.args, model.task = get_cfg(), tasks.guess_model_task(dict(config))
    return model


def channels(model: Any) -> int:
    """Return how many channels the images of a model have."""
    return int(model.yaml.get("channels", model.yaml.get("ch", 3)))  # the second in older versions


def in_training_format(model: Any, device: torch.device) -> Any:
    """Return a model in the memory format in which the host trains it on a device."""
    from ultralytics.utils import DEFAULT_CFG_DICT, WINDOWS

    if device.type == "cuda" and "channels_last" in DEFAULT_CFG_DICT and not WINDOWS:
        return model.to(memory_format=torch.channels_last)
    return model


def gflops(model: Any, imgsz: int) -> float:
    """Return the GFLOPs of a model as the host counts them."""
    from ultralytics.utils.torch_utils import get_flops

    return float(get_flops(model, imgsz))


def predictor(model: Any, device: torch.device) -> Callable[[Tensor], Any]:
    """Return a model as the host predicts with it: in eval mode, fused, in its memory format. ``model`` is used up."""
    from ultralytics.nn.autobackend import AutoBackend

    with surgery.silence():
        return AutoBackend(model.eval(), device=device, fuse=True, verbose=False)


def export_onnx(model: Any, file: Path, imgsz: int, batch: int) -> Path:
    """Let the host export a model that is not fused yet as ``file``, which ends in ``.onnx``.

    The file is not simplified afterwards: the runtimes do that when they load it.

    Raises:
        Exception: Whatever the exporter raises.
    """
    from ultralytics.engine.exporter import Exporter

    exported = copy.deepcopy(model).eval()
    exported.pt_path = str(file.with_suffix(".pt"))  # names the file to write; there is none
    words = {
        "mode": "export", "format": "onnx", "imgsz": imgsz, "batch": batch, "device": "cpu", "simplify": False,
    }  # fmt: skip
    with surgery.silence(), nothing_installed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Path(Exporter(overrides=words)(model=exported))


def rounded(imgsz: int, model: Any) -> int:
    """Return the side of an image, in pixels, as the host rounds it for a model: up to a multiple of its stride."""
    stride = max(int(model.stride.max()), _LEAST_STRIDE)
    return -(-imgsz // stride) * stride


def select_device(name: str) -> Any:
    """Return the device that the host takes for ``device=name``.

    Raises:
        HostError: If there is no such device.
    """
    from ultralytics.utils import torch_utils

    try:
        with surgery.silence():
            return torch_utils.select_device(name, verbose=False)
    except (ValueError, AssertionError, RuntimeError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise HostError(f"device={name!r}: {first}") from error


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device that the host takes for ``device=name``; on the CPU this sets the host's number of threads.

    A device of PyTorch is taken as it is: to older versions of the host a GPU's number is one of the machine, whatever
    ``CUDA_VISIBLE_DEVICES`` says, and cannot be chosen once CUDA is in use. A GPU becomes PyTorch's current one.

    Raises:
        HostError: If there is no such device, or no cost can be measured on it.
    """
    device = name if isinstance(name, torch.device) else select_device(name)
    if not isinstance(device, torch.device) or device.type not in ("cpu", "cuda"):
        raise HostError(f"device={str(name)!r}: cost is measured on the CPU or on a CUDA GPU; give cpu or 0")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def machine(device: torch.device) -> dict[str, str]:
    """Return device, processor and versions by name."""
    import ultralytics
    from ultralytics.utils.torch_utils import get_cpu_info

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": get_cpu_info(),
        "yolo-attn": __version__,
        "ultralytics": ultralytics.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
