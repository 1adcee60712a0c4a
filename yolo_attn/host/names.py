"""Our names in the host: its rows find our layers, and its restricted unpickler accepts their classes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from .. import registry
from ..blocks import layers_of
from ..errors import HostError
from ..layers.gated import Gated
from ..plugins import Plugin

_names: dict[str, type] = {}
_safe_classes: list[type] = []
_told: set[tuple[str, str]] = set()


def added() -> list[str]:
    """Return the layer names that ``ultralytics.nn.tasks`` holds because of us."""
    return sorted(_names)


def check(tasks: ModuleType) -> None:
    """Check that ``ultralytics.nn.tasks`` has room for our names; those of copies are left to it where it has them.

    Raises:
        HostError: If it holds another object of one of them.
    """
    copies = {name: layer for layer in registry.TABLE for name in layer.pasted if name in vars(tasks)}
    registry.leave_to_host(name for name, layer in copies.items() if not _is_ours(vars(tasks)[name], layer))
    for name, layer in registry.in_use().items():
        if name in vars(tasks) and not _is_ours(vars(tasks)[name], layer):
            raise HostError(
                f"{tasks.__name__} already has another {name!r} ({_origin(vars(tasks)[name])}); yolo-attn does not "
                f"replace it. If your program put it there, give it another name. If you pasted a layer into "
                f"{tasks.__file__}, remove it or reinstall ultralytics: "
                "pip install --force-reinstall --no-deps ultralytics"
            )


def holder_of(layer: registry.Layer) -> str:
    """Say what else of the host has the name of an own layer, or ""."""
    tasks = sys.modules.get("ultralytics.nn.tasks")
    there = vars(tasks).get(layer.name) if tasks else None
    if there is None or there is _names.get(layer.name) or _is_ours(there, layer):
        return ""
    return f"Ultralytics ({_origin(there)})"


def tell(d: Any) -> None:
    """Speak of rows whose name does not mean what it may be thought to mean: warn once, and import the other layers.

    Raises:
        YoloAttnError: If a row names a layer that cannot be used.
    """
    tasks = sys.modules["ultralytics.nn.tasks"]
    ours, left_out = registry.names(), {problem.name: problem for problem in registry.problems()}
    for name in dict.fromkeys(_modules(d)):
        there, layer = vars(tasks).get(name), ours.get(name)
        if name in left_out and (there is not None or layer is not None):
            meant = f"yolo-attn's {name}" if layer is not None else f"{_origin(there)}"
            _warn(d, name, f"{name} is {meant}. {left_out[name]}")
        if layer is None:
            continue
        if there is not None and there is not _names.get(name) and not _is_ours(there, layer):
            _warn(
                d,
                name,
                f"{name} is not yolo-attn's but what stands under that name in {tasks.__name__}: {_origin(there)}. "
                f"For yolo-attn's {name} give yours another name.",
            )
        else:
            layer.load()


def provide() -> None:
    """Let the host find the own layers that ``tell`` has imported."""
    if registry.classes().keys() - _names.keys():
        sync(True)


def admit(named: Sequence[tuple[str, str]]) -> None:
    """Import the own layers that a checkpoint names, so that restricted loading knows them.

    Args:
        named: Module and name of each class in the checkpoint.
    """
    for layer in registry.names().values():
        if isinstance(layer, Plugin) and any(layer.may_be(*one) for one in named):
            layer.load()
    provide()


def _warn(d: Mapping[str, Any], name: str, message: str) -> None:
    from ultralytics.utils import LOGGER

    if (name, message) not in _told:
        _told.add((name, message))
        LOGGER.warning(f"{d.get('yaml_file') or 'model'}: {message}")


def _modules(d: Any) -> Iterator[str]:
    """Yield the modules of the rows of a model dictionary, whatever else it holds."""
    for part in ("backbone", "head") if isinstance(d, Mapping) else ():
        rows = d.get(part)
        for row in rows if isinstance(rows, (list, tuple)) else ():
            yield from layers_of(row)


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
    layers = registry.in_use()
    for name, cls in wanted.items():
        if not hasattr(tasks, name) or _is_ours(vars(tasks)[name], layers[name]):
            setattr(tasks, name, cls)
            _names[name] = cls
        elif name not in _names:
            raise HostError(f"{tasks.__name__} already has another {name!r}; choose another name for your layer")
        # Else somebody put another object in our place since: it stays there.
    _sync_safe_classes()


def _is_part(value: type, cls: type) -> bool:
    """Return whether a class that a layer's module holds is its own: of that module or, for other packages, theirs."""
    top = cls.__module__.partition(".")[0]
    return value.__module__ == cls.__module__ or (value.__module__.partition(".")[0] == top != "yolo_attn")


def _sync_safe_classes() -> None:
    """Let checkpoints with our layers load under restricted unpickling (``ULTRALYTICS_SAFE_LOAD=1``)."""
    from torch import nn, serialization

    if not hasattr(serialization, "add_safe_globals"):
        return
    wanted = {
        value
        for cls in ([*_names.values(), Gated] if _names else [])
        for value in vars(sys.modules[cls.__module__]).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and _is_part(value, cls)
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
