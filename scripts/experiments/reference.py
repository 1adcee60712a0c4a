"""Other people's implementations of our layers: found in a folder by class name, built, given our weights."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo_attn import registry
from yolo_attn.errors import DataError

# Class names under which a layer circulates, if not under its own and its aliases; the first that the folder defines is
# taken. The width is their first argument and all others keep their defaults, but for those in ARGUMENTS.
CLASSES: dict[str, tuple[str, ...]] = {
    "SE": ("SEAttention", "SE"),
    "DoubleAttention": ("DoubleAttention", "A2Attention"),
    "BAM": ("BAMBlock", "BAM"),
    "BiFormer": ("BiLevelRoutingAttention", "BiFormer"),
    "MHSA": ("Attention", "MHSA"),
    "MHSALePE": ("AttentionLePE", "MHSALePE"),
    "CAA": ("CAA", "ContextAnchorAttention"),
    "CBAM": ("CBAM", "CBAMBlock"),
    "CloAttention": ("EfficientAttention", "CloAttention"),
    "CrissCross": ("CrissCrossAttention", "CrissCross"),
    "CoordAtt": ("CoordinateAttention", "CoordAtt"),
    "CoT": ("CoTAttention", "CoT"),
    "CPCA": ("CPCA",),
    "DAttention": ("DAttention", "DAttentionBaseline"),
    "LSKA": ("LSKA",),
    "LSK": ("LSKblock", "LSKBlock"),
    "SCSA": ("SCSA",),
    "ELA": ("ELA", "EfficientLocalizationAttention"),
    "Polarized": ("ParallelPolarizedSelfAttention",),
    "PolarizedSeq": ("SequentialPolarizedSelfAttention",),
    "PSA_p": ("PSA_p",),
    "PSA_s": ("PSA_s",),
    "GC": ("ContextBlock",),
}
ARGUMENTS: dict[str, Callable[[int, tuple[int, int]], dict[str, Any]]] = {
    "DAttention": lambda channels, size: {"q_size": size},
    "LSKA": lambda channels, size: {"k_size": 7},
    "SCSA": lambda channels, size: {"head_num": 1},
    "PSA_p": lambda channels, size: {"planes": channels},
    "PSA_s": lambda channels, size: {"planes": channels},
    "GC": lambda channels, size: {"ratio": 1 / 16},
}


def load_classes(folder: str | Path) -> tuple[dict[str, type[nn.Module]], dict[str, str]]:
    """Return the ``nn.Module`` classes that the Python files of a folder define, and why a file could not be imported.

    Args:
        folder: Folder with ``*.py`` files; they are executed.

    Raises:
        DataError: If the folder has no Python file.
    """
    files = sorted(p for p in Path(folder).glob("*.py") if p.stem != "__init__")
    if not files:
        raise DataError(f"{folder} has no Python file; --against takes a folder of files that define layers")
    classes: dict[str, type[nn.Module]] = {}
    failures: dict[str, str] = {}
    for path in files:
        name = f"yolo_attn_against_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # any file of other people may fail in any way; the others still serve
            reason = str(error).partition(" (/")[0]  # an ImportError names the file it looked into
            failures[path.name] = f"{path.name} cannot be imported: {type(error).__name__}: {reason}"
            continue
        for key, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == name:
                classes.setdefault(key, value)
    return classes, failures


def build(
    layer: str, ours: nn.Module, channels: int, size: tuple[int, int], classes: Mapping[str, type[nn.Module]]
) -> tuple[nn.Module | None, str]:
    """Return another implementation of a layer with the weights of ours, or None, and what to know about it.

    Args:
        layer: YAML name of the layer.
        ours: Our layer.
        channels: Width of the map.
        size: Height and width of the map in pixels.
        classes: What ``load_classes`` found.
    """
    names = CLASSES.get(layer, (layer, *registry.find(layer).aliases))
    found = next((name for name in names if name in classes), None)
    if found is None:
        return None, f"no class {' or '.join(names)}"
    arguments: dict[str, Any] = ARGUMENTS[layer](channels, size) if layer in ARGUMENTS else {}
    accepted = inspect.signature(classes[found]).parameters
    try:
        theirs = classes[found](channels, **{k: v for k, v in arguments.items() if k in accepted})
    except Exception as error:  # whatever their constructor raises is theirs
        return None, f"{found}({channels}) cannot be built: {error!r}"
    mine, their = ours.state_dict(), theirs.state_dict()
    common = {k: v for k, v in mine.items() if k in their and their[k].shape == v.shape}
    theirs.load_state_dict(common, strict=False)
    rest = [k for k in {*mine, *their} if k not in common]
    return theirs, f"{len(rest)} tensors differ in name or shape" if rest else ""


def difference(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> float:
    """Return the largest difference of the outputs in eval mode, relative to our largest output.

    Raises:
        ValueError: If the outputs differ in shape.
    """
    with torch.no_grad():
        one, other = ours.eval()(x), theirs.eval()(x)
    if one.shape != other.shape:
        raise ValueError(f"its output is {tuple(other.shape)}, ours is {tuple(one.shape)}")
    return ((one - other).abs().max() / one.abs().max()).item()
