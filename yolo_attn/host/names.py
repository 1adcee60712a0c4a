"""Our names in the host: its rows find our layers, and its restricted unpickler accepts their classes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from .. import registry
from ..errors import HostError
from ..layers.gated import Gated

_names: dict[str, type] = {}
_safe_classes: list[type] = []
_told: set[tuple[str, str]] = set()


def added() -> list[str]:
    """Return the layer names that ``ultralytics.nn.tasks`` holds because of us."""
    return sorted(_names)


def check(tasks: ModuleType) -> None:
    """Check that ``ultralytics.nn.tasks`` has room for our names.

    Raises:
        HostError: If it holds another object of one of them.
    """
    for name, layer in registry.names().items():
        if name in vars(tasks) and not _is_ours(vars(tasks)[name], layer):
            raise HostError(
                f"{tasks.__name__} already has another {name!r} ({_origin(vars(tasks)[name])}); yolo-attn does not "
                f"replace it. If your program put it there, give it another name. If you pasted a layer into "
                f"{tasks.__file__}, remove it or reinstall ultralytics: "
                "pip install --force-reinstall --no-deps ultralytics"
            )


def tell(d: Any) -> None:
    """Speak of rows with a name of ours that do not mean our layer: warn once of a class that a program put there.

    Raises:
        LayerFileError: If a row names a layer whose file cannot be imported.
    """
    from ultralytics.utils import LOGGER

    tasks = sys.modules["ultralytics.nn.tasks"]
    broken = registry.broken()
    for name, layer in _named_by(d):
        there = vars(tasks).get(name)
        if there is not None and not _is_ours(there, layer):
            if (name, _origin(there)) not in _told:
                _told.add((name, _origin(there)))
                LOGGER.warning(
                    f"{d.get('yaml_file') or 'model'}: {name} is not yolo-attn's but what stands under that name in "
                    f"{tasks.__name__}: {_origin(there)}. For yolo-attn's {name} give yours another name."
                )
        elif layer.name in broken:
            raise broken[layer.name]


def _named_by(d: Any) -> Iterator[tuple[str, registry.Layer]]:
    """Yield the names of ours in the rows of a model dictionary, whatever else it holds."""
    ours = registry.names()
    for part in ("backbone", "head") if isinstance(d, Mapping) else ():
        rows = d.get(part)
        for row in rows if isinstance(rows, (list, tuple)) else ():
            if isinstance(row, (list, tuple)) and len(row) > 2 and isinstance(row[2], str) and row[2] in ours:
                yield row[2], ours[row[2]]


def _is_ours(there: Any, layer: registry.Layer) -> bool:
    """Tell whether an object of the host is a layer of ours, loaded by this import of our package or an earlier one."""
    return f"{getattr(there, '__module__', '')}:{getattr(there, '__qualname__', '')}" == layer.path


def _origin(there: Any) -> str:
    """Say what an object is and where it comes from."""
    if isinstance(there, type):
        return f"class {there.__qualname__} from {there.__module__}"
    return repr(there)


def sync(active: bool) -> None:
    """Make the host's names of our layers those of the registry, or none if not ``active``.

    Raises:
        HostError: If the host holds another object of a name that the registry has gained.
    """
    tasks = sys.modules.get("ultralytics.nn.tasks")
    if tasks is None:
        return
    wanted = registry.classes() if active else {}
    for name in set(_names) - set(wanted):
        if vars(tasks).get(name) is _names[name]:
            delattr(tasks, name)
        del _names[name]
    layers = registry.names()
    for name, cls in wanted.items():
        if not hasattr(tasks, name) or _is_ours(vars(tasks)[name], layers[name]):
            setattr(tasks, name, cls)
            _names[name] = cls
        elif name not in _names:
            raise HostError(f"{tasks.__name__} already has another {name!r}; choose another name for your layer")
        # Else somebody put another object in our place since: it stays there.
    _sync_safe_classes()


def _sync_safe_classes() -> None:
    """Let checkpoints with our layers load under restricted unpickling (``ULTRALYTICS_SAFE_LOAD=1``)."""
    from torch import nn, serialization

    if not hasattr(serialization, "add_safe_globals"):
        return
    wanted = {
        value
        for cls in ([*_names.values(), Gated] if _names else [])
        for value in vars(sys.modules[cls.__module__]).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == cls.__module__
    }
    gone = [cls for cls in _safe_classes if cls not in wanted]
    if gone:
        kept = [entry for entry in serialization.get_safe_globals() if entry not in gone]
        serialization.clear_safe_globals()
        serialization.add_safe_globals(kept)
    serialization.add_safe_globals([*(cls for cls in wanted if cls not in _safe_classes)])
    _safe_classes[:] = list(wanted)


def allow_parts_of_timm() -> None:
    """Let restricted unpickling build what TimmAttention holds; this imports timm."""
    from torch import serialization

    from ..layers.timm_attention import parts

    if _names and hasattr(serialization, "add_safe_globals"):
        new = [cls for cls in parts() if cls not in _safe_classes]
        serialization.add_safe_globals([*new])
        _safe_classes.extend(new)
