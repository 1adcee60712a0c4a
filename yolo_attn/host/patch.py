"""Put the joints into the modules of Ultralytics and take them out again, restoring the very objects.

Modules of the host bind functions with ``from ... import``, so a replacement is put wherever the original is found,
and back again.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import own_names, registry
from ..errors import HostError
from . import names
from .joints import JOINTS

Function = Callable[..., Any]
_TASKS = "ultralytics.nn.tasks"
_MARK = "_yolo_attn_joint"  # on what we put into the host: itself, for wrappers copy attributes, and what stood there


@dataclass
class _Patch:
    """One replaced function; ``owner`` is the class of a method, ``there`` what stood in the place of the original."""

    name: str
    owner: type | None
    original: Function
    replacement: Function
    there: Function


_patches: dict[str, list[_Patch]] = {}
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
    if is_in_place(module_name):
        return
    module = sys.modules[module_name]
    try:
        found = []
        for name, joints in JOINTS[module_name].items():
            *owner, function = name.split(".")
            cls = getattr(module, owner[0], None) if owner else None
            there = vars(cls or module).get(function)
            if there is None or (owner and cls is None):
                raise HostError(f"{module_name} has no {name!r}: {_host_version()} is not a version we know")
            original = _original(there)
            try:
                replacement = _joined(original, joints)
            except HostError as problem:
                raise _foreign(module_name, name, original) or problem from problem
            setattr(replacement, _MARK, (replacement, original))
            found.append(_Patch(function, cls, original, replacement, there))
        if module_name == _TASKS:
            own_names.reserve(names.holder_of)
            names.check(module)
    except HostError as problem:
        problems[module_name] = problem
        if strict:
            raise
        if module_name != _TASKS:
            return
        # Names still resolve, so that who asks for one of our models gets the problem and not "no such file".
        fallback = {
            "parse_model": _joint("model.rows.refuse_joint")(problem),
            "yaml_model_load": _joint("model.yamls.yaml_model_load_joint"),
        }
        originals = {name: vars(module)[name] for name in fallback if name in vars(module)}
        found = [_Patch(name, None, it, fallback[name](it), it) for name, it in originals.items()]
    else:
        problems.pop(module_name, None)
        if module_name == _TASKS:
            registry.observe(_sync_names)
    _patches[module_name] = found
    for patch in found:
        _replace(patch, patch.there, patch.replacement)
    _sync_names()


def take_out() -> None:
    """Put every object of the host back as it was."""
    for found in _patches.values():
        for patch in found:
            _replace(patch, patch.replacement, patch.original)
    _patches.clear()
    problems.clear()
    _sync_names()


def is_in_place(module_name: str) -> bool:
    """Return whether a module is patched as it is now, be it inside a wrapper; one that was imported anew is not."""
    module = sys.modules.get(module_name)
    return module_name in _patches and all(
        any(layer is patch.replacement for layer in _unwrapped(vars(patch.owner or module).get(patch.name)))
        for patch in _patches[module_name]
    )


def is_sound() -> bool:
    """Return whether the modules that are patched are so still, without a problem."""
    return all(map(is_in_place, _patches)) and not problems


def _joined(original: Function, joints: tuple[str, ...]) -> Function:
    for joint in joints:
        original = _joint(joint)(original)
    return original


def _joint(path: str) -> Function:
    module, _, function = path.rpartition(".")
    return getattr(importlib.import_module(f".{module}", __package__), function)


def _original(there: Any) -> Any:
    """Return what we replaced if ``there`` is ours, put there before our package was imported anew, else ``there``."""
    replacement, original = getattr(there, _MARK, (None, None))
    return original if replacement is there else there


def _unwrapped(function: Any) -> Iterator[Any]:
    """Yield a function and what it wraps, as ``functools.wraps`` notes it."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _foreign(module_name: str, name: str, function: Any) -> HostError | None:
    """Return an error that says whose a function of the host is, if it is not the host's own."""
    code = getattr(function, "__code__", None)
    here = Path(sys.modules["ultralytics"].__file__ or "").parent
    if code is not None and here in Path(code.co_filename).parents:
        return None
    owner = getattr(function, "__globals__", {}).get("__name__") or type(function).__module__
    where = f"{code.co_filename}, line {code.co_firstlineno}" if code is not None else repr(function)
    return HostError(
        f"{module_name}.{name} is not Ultralytics' own: module {owner!r} replaced it ({where}). yolo-attn adds its "
        f"rows to the original: turn that module off, or import yolo_attn and {module_name} before it"
    )


def _host_version() -> str:
    return f"Ultralytics {getattr(sys.modules.get('ultralytics'), '__version__', '(unknown version)')}"


def _replace(patch: _Patch, old: Function, new: Function) -> None:
    """Bind ``new`` in the class that holds the method, or wherever a module of the host holds ``old``."""
    if patch.owner is not None:
        if vars(patch.owner).get(patch.name) is old:
            setattr(patch.owner, patch.name, new)
        return
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "ultralytics" and isinstance(module, ModuleType):
            namespace = vars(module)
            for key in [k for k, v in list(namespace.items()) if v is old]:
                namespace[key] = new


def _sync_names() -> None:
    """Let the host know our layers as long as the row joint is in place."""
    names.sync(_TASKS in _patches and _TASKS not in problems)
