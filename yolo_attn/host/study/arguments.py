"""Training arguments as the ``yolo`` command reads them: names, values and what it says of wrong ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import StudyError
from ..install import install
from ..model.surgery import silence


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``key=value`` words.

    Raises:
        StudyError: If a word is none.
    """
    install()
    from ultralytics.cfg import parse_key_value_pair

    found: dict[str, Any] = {}
    for word in words:
        if not word.partition("=")[2].strip():
            raise StudyError(f"{word!r} is not key=value; write for example epochs=50")
        key, value = parse_key_value_pair(word)
        if key in found:
            raise StudyError(f"{key} is given twice, as {found[key]} and as {value}")
        found[key] = value
    return found


def check(given: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Let Ultralytics say what is wrong with names and values.

    Args:
        given: All that was given.
        ours: The keys of a study, with an example value each.

    Raises:
        StudyError: If a key is neither ours nor Ultralytics', or a value of a training argument cannot be.
    """
    install()
    from ultralytics.cfg import check_dict_alignment, get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    try:
        with silence():  # it shows the help of the yolo command
            check_dict_alignment({**DEFAULT_CFG_DICT, **ours}, dict(given))
    except SyntaxError as error:  # with that help, in older versions
        wrong = [line.strip() for line in str(error).splitlines() if "is not a valid YOLO argument" in line]
        raise StudyError("\n".join(wrong) or str(error)) from error
    theirs = {key: value for key, value in given.items() if key not in ours}
    try:
        get_cfg(overrides=theirs)
    except (TypeError, ValueError) as error:
        raise StudyError(str(error)) from error


def default(key: str) -> Any:
    """Return Ultralytics' default of a training argument."""
    install()
    from ultralytics.utils import DEFAULT_CFG_DICT

    return DEFAULT_CFG_DICT[key]


def devices(given: Any) -> list[str]:
    """Return the devices for trials: those named, else the first GPU, else the CPU.

    Raises:
        StudyError: If none is named, or Ultralytics is to choose: two trials at once would choose the same.
    """
    import torch

    if given in (None, ""):
        mps = getattr(torch.backends, "mps", None)
        if torch.cuda.is_available():
            return ["0"]
        return ["mps"] if mps is not None and mps.is_available() else ["cpu"]
    parts = given if isinstance(given, (list, tuple)) else str(given).strip("[]() ").split(",")
    words = [str(part).strip() for part in parts if str(part).strip()]
    if not words or "-1" in words:
        raise StudyError(f"device={given}: name the GPUs, such as device=0,1; each trial gets one of them")
    return ["0" if word == "cuda" else word.removeprefix("cuda:") for word in words]


def torch_device(device: str) -> str:
    """Return a device as PyTorch names it."""
    return f"cuda:{device}" if kind(device) == "cuda" else device


def describe_machine(names: list[str]) -> dict[str, Any]:
    """Return the names of the processor and of devices.

    Raises:
        StudyError: If there is no such device.
    """
    import torch
    from ultralytics.utils.torch_utils import get_cpu_info

    processor = get_cpu_info()
    for name in names:
        try:
            torch.device(torch_device(name))
        except RuntimeError as error:
            raise StudyError(f"device={name}: give cpu, or GPUs by number such as device=0,1") from error
    gpus = [int(name) for name in names if kind(name) == "cuda"]
    if gpus and not torch.cuda.is_available():
        raise StudyError(f"device={gpus[0]}: PyTorch finds no GPU on this machine; leave device= out, or device=cpu")
    if missing := [number for number in gpus if number >= torch.cuda.device_count()]:
        raise StudyError(f"device={missing[0]}: this machine has {torch.cuda.device_count()} GPUs, the first is 0")
    cuda = [torch.cuda.get_device_name(number) for number in gpus]
    return {"processor": processor, "devices": cuda or [processor if name == "cpu" else name for name in names]}


def kind(device: str) -> str:
    """Return ``cuda``, ``cpu`` or whatever else a device is."""
    return "cuda" if device.lstrip("-").isdigit() else device.partition(":")[0]
