"""Checkpoints of an edited Ultralytics: layers that carry a name of ours and are other classes, and classes not here.

A pasted layer is pickled under the path it was pasted to, a layer of a user's file under ``yolo_attn.own``. Where that
class is missing, an empty stand-in lets the rest of the checkpoint open; where a class has the name of one of our
layers, what it computes decides whether ours may take its weights.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ... import plugins, registry
from ...errors import CheckpointError
from ...plugins import lost
from .. import names
from ..opening import is_restricted
from .blocks import ungated
from .ours import is_attention, repeats

_NAMED = re.compile(rb"c([\w.-]+)\n([\w.]+)\n")  # how a pickle of protocol 2 names a class
_TOLERANCE = 1e-4  # of the largest output, in fp64 but for steps that a layer takes in fp32
_told: set[str] = set()


class StandIn(nn.Module):
    """Holds the tensors of a class that is not here; it cannot run."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Say why not.

        Raises:
            CheckpointError: Always.
        """
        module, name = type(self).__module__, type(self).__qualname__
        if plugins.is_own(module):
            raise CheckpointError(f"{module}.{name} is not here, so a model with it cannot run: {lost(module, name)}")
        raise CheckpointError(f"{module}.{name} is not in this Ultralytics, so a model with it cannot run: {_WAYS}")


_WAYS = (
    "the checkpoint was saved by an edited one. Open it with that one, turn it into one with yolo-attn's layers "
    "(yolo-attn convert <this checkpoint> -o new.pt), or train yolo-attn's layer from it: "
    "yolo train model=<your model>.yaml pretrained=<this checkpoint>"
)


def torch_safe_load_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch_safe_load`` that opens checkpoints with classes of an edited host, and says what they are."""

    @functools.wraps(original)
    def torch_safe_load(weight: Any, *args: Any, **kwargs: Any) -> Any:
        restricted = (args[0] if args else kwargs.get("safe_only")) or is_restricted()
        named = _named(weight)
        if restricted:  # what it does not know, it refuses
            names.admit(named)
            if any(module.partition(".")[0] == "timm" for module, _ in named):
                names.allow_parts_of_timm()
        missing = _missing(named)
        own = next((lost(*one) for one in missing if plugins.is_own(one[0])), "") if restricted else ""
        if own:
            raise CheckpointError(f"{weight} is not opened: {own}")
        missing = [] if restricted else missing
        # For a missing module the host would ask pip for a package of its name.
        early = missing if any(not _module(module) for module, _ in missing) else []
        with _standing_in(early):
            try:
                result = original(weight, *args, **kwargs)
            except AttributeError:
                if early or not missing:
                    raise
                with _standing_in(missing):
                    result = original(weight, *args, **kwargs)
        checkpoint = result[0]
        if isinstance(checkpoint, dict):
            _tell(str(weight), checkpoint.get("ema") or checkpoint.get("model"))
        return result

    return torch_safe_load


def foreign_layers(model: Any) -> dict[int, str]:
    """Return index and name of each row of a model that stands under a name of ours, or cannot run, and is not ours."""
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential):
        return {}
    config = getattr(model, "yaml", None) or {}
    rows = [*config.get("backbone", ()), *config.get("head", ())]
    ours, found = registry.names(), {}
    for index, layer in enumerate(layers):
        part = repeats(layer)[0]
        kind = type(part).__name__
        row = rows[index][2] if index < len(rows) else kind
        named = kind if kind in ours else row
        if not is_attention(layer) and (named in ours or any(isinstance(m, StandIn) for m in layer.modules())):
            found[index] = named
    return found


def path_of(layer: nn.Module) -> str:
    """Return the import path of a layer's class."""
    part = repeats(layer)[0]
    return f"{type(part).__module__}.{type(part).__qualname__}"


def difference(foreign: nn.Module, ours: nn.Module) -> float | None:
    """Return how far two layers of equal weights differ, relative to the largest output; None if it cannot be tried.

    Args:
        foreign: A layer under a name of ours.
        ours: Our layer whose tensors have the same names and shapes, gated or not.
    """
    theirs = [copy.deepcopy(part).double().cpu().eval() for part in repeats(foreign)]
    own = [copy.deepcopy(ungated(p)).double().cpu().eval() for p in repeats(ours)]
    width = getattr(own[0], "channels", None)
    if not isinstance(width, int):
        return None
    x = torch.randn(2, width, 14, 14, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    worst = 0.0
    with torch.no_grad():
        for their, our in zip(theirs, own, strict=True):
            our.load_state_dict(their.state_dict())
            try:
                expected = their(x)
            except Exception:  # code that we do not know: written for CUDA, for one size, or not here at all
                return None
            if expected.shape != x.shape:
                return float("inf")
            scale = expected.abs().max().clamp(min=1e-12)
            worst = max(worst, float((our(x) - expected).abs().max() / scale))
    return worst


def is_same(found: float | None) -> bool:
    """Return whether layers of this ``difference`` are one function; without one, names and shapes speak for it."""
    return found is None or found <= _TOLERANCE


def judged(layer: nn.Module, found: float | None) -> str:
    """Say what a foreign layer is whose weights ours takes over."""
    if found is None:
        return f"{path_of(layer)}, whose tensors have the names and shapes of yolo-attn's; it could not be run here"
    return f"{path_of(layer)}, the same function as yolo-attn's (outputs agree to {found:.0e})"


def refusal(file: Any, lost: Sequence[str]) -> CheckpointError:
    """Return the error of a run that cannot go on because layers of the checkpoint are no layers of ours."""
    return CheckpointError(
        f"{file} cannot be resumed: {'; '.join(lost)}. Their weights and optimizer states fit no layer of yolo-attn. "
        "Resume with the Ultralytics that it was trained with and YOLO_ATTN_AUTOLOAD=0, or start a new run that takes "
        f"over all other layers: yolo train model=<your model>.yaml pretrained={file}"
    )


def _named(weight: Any) -> list[tuple[str, str]]:
    """Return module and name of what a checkpoint file names."""
    try:
        with zipfile.ZipFile(Path(str(weight))) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    except (OSError, zipfile.BadZipFile):
        return []  # not here or not of this form: the host says so
    return sorted({(m.decode(), n.decode()) for text in pickles for m, n in _NAMED.findall(text)})


def _missing(named: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return module and name of what is named of the host, or of a user's file, and is not there."""
    # The host itself maps its old package ultralytics.yolo.
    theirs = [(m, n) for m, n in named if m.startswith("ultralytics.") and not m.startswith("ultralytics.yolo.")]
    own = [(m, n) for m, n in named if plugins.is_own(m) and (not plugins.file_of(m) or not hasattr(_module(m), n))]
    return [(m, n) for m, n in theirs if not hasattr(_module(m), n)] + own


def _module(name: str) -> ModuleType | None:
    if name not in sys.modules and plugins.is_own(name) and not plugins.file_of(name):
        return None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


@contextlib.contextmanager
def _standing_in(missing: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Let the missing classes be found, as empty ones, while the block runs."""
    with contextlib.ExitStack() as stack:
        for path, name in missing:
            parts = path.split(".")
            for end in range(2, len(parts) + 1):
                above = ".".join(parts[:end])
                if _module(above) is None:
                    sys.modules[above] = ModuleType(above)
                    stack.callback(sys.modules.pop, above, None)
            module = sys.modules[path]
            setattr(module, name, type(name, (StandIn,), {"__module__": path}))
            stack.callback(vars(module).pop, name, None)
        yield


def _tell(file: str, model: Any) -> None:
    """Say once what the foreign layers of a checkpoint are and what becomes of them."""
    from ultralytics.utils import LOGGER

    if file in _told:
        return
    _told.add(file)
    for index, name in foreign_layers(model).items():
        layer = model.model[index]
        gone = next((m for m in layer.modules() if isinstance(m, StandIn)), None)
        trains = f"training builds yolo-attn's {name} in its place" if name in registry.names() else _WAYS
        if gone is None:
            LOGGER.info(
                f"{file}: layer {index}, {name}, is {path_of(layer)}, not yolo-attn's. predict, val and export run it "
                f"as it is; {trains}"
            )
        elif plugins.is_own(type(gone).__module__):
            LOGGER.warning(
                f"{file}: layer {index}, {name}, needs {path_of(gone)}, which is not here. predict, val and export "
                f"cannot run; {lost(type(gone).__module__, type(gone).__qualname__)}"
            )
        else:
            LOGGER.warning(
                f"{file}: layer {index}, {name}, needs {path_of(gone)}, which is not in this Ultralytics (an edited "
                f"one saved the file). predict, val and export cannot run; {trains}"
            )
