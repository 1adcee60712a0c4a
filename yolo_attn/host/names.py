"""Our names in the host: its rows find our layers, and its restricted unpickler accepts their classes."""

from __future__ import annotations

import sys
from types import ModuleType

from .. import registry
from ..errors import HostError
from ..layers.gated import Gated

_names: dict[str, type] = {}
_safe_classes: list[type] = []


def added() -> list[str]:
    """Return the layer names that ``ultralytics.nn.tasks`` holds because of us."""
    return sorted(_names)


def check(tasks: ModuleType) -> None:
    """Check that ``ultralytics.nn.tasks`` has room for our names.

    Raises:
        HostError: If it holds another object of one of them.
    """
    for name, layer in registry.names().items():
        there = vars(tasks).get(name)
        if there is not None and there is not layer.load():
            where = getattr(there, "__module__", "?")
            raise HostError(
                f"{tasks.__file__} already has another {name!r} (from {where}); yolo-attn does not replace it. "
                "If you pasted a layer there, remove it or reinstall ultralytics: "
                "pip install --force-reinstall --no-deps ultralytics"
            )


def sync(active: bool) -> None:
    """Make the host's names of our layers those of the registry, or none if not ``active``.

    Raises:
        HostError: If the host holds another object of a name that the registry has gained.
    """
    tasks = sys.modules.get("ultralytics.nn.tasks")
    if tasks is None:
        return
    wanted = {name: layer.load() for name, layer in registry.names().items()} if active else {}
    for name in set(_names) - set(wanted):
        if vars(tasks).get(name) is _names[name]:
            delattr(tasks, name)
        del _names[name]
    for name, cls in wanted.items():
        if name not in _names and hasattr(tasks, name):
            raise HostError(f"{tasks.__file__} already has another {name!r}; choose another name for your layer")
        setattr(tasks, name, cls)
        _names[name] = cls
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
