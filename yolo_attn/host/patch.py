"""Put the joints into Ultralytics and take them out again, restoring the very objects.

A joint is a function ``original -> replacement`` for one function of one host module. Modules of the host bind such
functions with ``from ... import``, so a replacement is put wherever the original is found, and back again.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import registry
from ..errors import HostError
from ..layers.gated import Gated
from . import startup

Function = Callable[..., Any]
SUPPORTED = ">=8.3.100,<9"

# Host module -> its functions (or methods) -> their joints here, ``module.function``, the innermost first; they are
# imported when the host's module is. A version that lacks one of the functions is one we cannot serve.
JOINTS: dict[str, dict[str, tuple[str, ...]]] = {
    "ultralytics.cfg": {"entrypoint": ("command.entrypoint_joint",)},
    "ultralytics.nn.tasks": {
        "parse_model": ("rows.parse_model_joint",),
        "yaml_model_load": ("models.yaml_model_load_joint",),
        "BaseModel.load": ("transfer.load_joint",),
        "BaseModel.fuse": ("fold.fuse_joint",),
    },
    "ultralytics.engine.trainer": {
        "BaseTrainer._do_train": ("ranks.do_train_joint", "run_guard.do_train_joint"),
        "BaseTrainer.get_dataset": ("data.get_dataset_joint",),
        "BaseTrainer.save_model": ("run_guard.save_model_joint",),
        "BaseTrainer.final_eval": ("run_guard.final_eval_joint",),
        "BaseTrainer.resume_training": ("run_guard.resume_training_joint",),
        "strip_optimizer": ("run_guard.strip_optimizer_joint",),
    },
    "ultralytics.engine.model": {"Model.load": ("transfer.model_load_joint",)},
    "ultralytics.data.utils": {"check_det_dataset": ("data.check_det_dataset_joint",)},
    "ultralytics.data.build": {"build_yolo_dataset": ("data.build_yolo_dataset_joint",)},
    "ultralytics.models.rtdetr.train": {"RTDETRTrainer.build_dataset": ("data.build_rtdetr_dataset_joint",)},
    "ultralytics.models.rtdetr.val": {"RTDETRValidator.build_dataset": ("data.build_rtdetr_dataset_joint",)},
    "ultralytics.models.yolo.detect.val": {"DetectionValidator.init_metrics": ("data.init_metrics_joint",)},
}


@dataclass
class _Patch:
    """One replaced function; ``owner`` is the class of a method."""

    name: str
    owner: type | None
    original: Function
    replacement: Function


_patches: dict[str, list[_Patch]] = {}
_names: dict[str, type] = {}
_safe_classes: list[type] = []
problems: dict[str, HostError] = {}


def apply(module_name: str, strict: bool = True) -> None:
    """Patch one loaded host module; nothing happens if it is patched.

    Args:
        module_name: A key of ``JOINTS``.
        strict: Raise if the module cannot be patched. Otherwise the problem is kept for ``doctor``, plain models work
            as before, and a model with one of our layers gets the problem as its error.

    Raises:
        HostError: With ``strict``, if the module has another shape than we know or holds another object of our name.
    """
    if _in_place(module_name):
        return
    module = sys.modules[module_name]
    try:
        found = []
        for name, joints in JOINTS[module_name].items():
            *owner, function = name.split(".")
            cls = getattr(module, owner[0], None) if owner else None
            original = vars(cls or module).get(function)
            if original is None or (owner and cls is None):
                raise HostError(f"{module_name} has no {name!r}: {_host_version()} is not a version we know")
            found.append(_Patch(function, cls, original, _joined(original, joints)))
        if module_name == "ultralytics.nn.tasks":
            _check_names(module)
    except HostError as problem:
        problems[module_name] = problem
        if strict:
            raise
        if module_name != "ultralytics.nn.tasks":
            return
        # Names still resolve, so that who asks for one of our models gets the problem and not "no such file".
        from . import models, rows

        fallback = {"parse_model": rows.refuse_joint(problem), "yaml_model_load": models.yaml_model_load_joint}
        originals = {name: vars(module)[name] for name in fallback if name in vars(module)}
        found = [_Patch(name, None, original, fallback[name](original)) for name, original in originals.items()]
    else:
        problems.pop(module_name, None)
        if module_name == "ultralytics.nn.tasks":
            registry.observe(_sync_names)
    _patches[module_name] = found
    for patch in found:
        _replace(patch, patch.original, patch.replacement)
    _sync_names()


def install() -> None:
    """Import Ultralytics and make it know our layers, model names and data formats. Calling it again changes nothing.

    Raises:
        HostError: If the installed Ultralytics cannot be patched safely; nothing is patched then.
    """
    if not installed():
        uninstall()
    try:
        for module_name in JOINTS:
            importlib.import_module(module_name)
            apply(module_name)
    except HostError:
        uninstall()
        raise
    startup.arm()


def uninstall() -> None:
    """Put every object of Ultralytics back as it was and leave modules imported later alone."""
    startup.disarm()
    for found in _patches.values():
        for patch in found:
            _replace(patch, patch.replacement, patch.original)
    _patches.clear()
    problems.clear()
    _sync_names()


def installed() -> bool:
    """Return whether every joint is in place in the running Ultralytics."""
    return all(map(_in_place, JOINTS)) and not problems


def added_names() -> list[str]:
    """Return the layer names that ``ultralytics.nn.tasks`` holds because of us."""
    return sorted(_names)


def _joined(original: Function, joints: tuple[str, ...]) -> Function:
    for joint in joints:
        module, _, function = joint.partition(".")
        original = getattr(importlib.import_module(f".{module}", __package__), function)(original)
    return original


def _host_version() -> str:
    return f"Ultralytics {getattr(sys.modules.get('ultralytics'), '__version__', '(unknown version)')}"


def _in_place(module_name: str) -> bool:
    """Return whether a module is patched as it is now; one that was imported anew is not."""
    module = sys.modules.get(module_name)
    return module_name in _patches and all(
        vars(patch.owner or module).get(patch.name) is patch.replacement for patch in _patches[module_name]
    )


def _replace(patch: _Patch, old: Function, new: Function) -> None:
    """Bind ``new`` in the class that holds the method, or wherever a module of the host holds ``old``."""
    if patch.owner is not None:
        if vars(patch.owner).get(patch.name) is old:
            setattr(patch.owner, patch.name, new)
        return
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "ultralytics" and isinstance(module, ModuleType):
            namespace = vars(module)
            for key in [k for k, v in namespace.items() if v is old]:
                namespace[key] = new


def _check_names(tasks: ModuleType) -> None:
    for name, layer in registry.names().items():
        there = vars(tasks).get(name)
        if there is not None and there is not layer.load():
            where = getattr(there, "__module__", "?")
            raise HostError(
                f"{tasks.__file__} already has another {name!r} (from {where}); yolo-attn does not replace it. "
                "If you pasted a layer there, remove it or reinstall ultralytics: "
                "pip install --force-reinstall --no-deps ultralytics"
            )


def _sync_names() -> None:
    """Make the host's names of our layers those of the registry, or none when the row joint is not in place."""
    tasks = sys.modules.get("ultralytics.nn.tasks")
    if tasks is None:
        return
    active = "ultralytics.nn.tasks" in _patches and "ultralytics.nn.tasks" not in problems
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
