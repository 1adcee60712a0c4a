"""People's own layers in every process: those of installed packages and those that ``YOLO_ATTN_LAYERS`` names.

Only names are read here. A layer's module is imported when a model needs that very layer.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import keyword
import operator
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import LayerFileError, RegistrationError, nearest
from .table import Layer

if TYPE_CHECKING:
    from torch import nn

GROUP = "yolo_attn.layers"
VARIABLE = "YOLO_ATTN_LAYERS"
ROOM = "yolo_attn.own"  # files are modules of this package; checkpoints hold the name
_FORM = f"{VARIABLE}=layers.py:MyAttention"


@dataclass(frozen=True)
class Plugin(Layer):
    """A layer of a package or of ``YOLO_ATTN_LAYERS`` that nothing has imported yet."""

    file: str = ""
    is_packaged: bool = False

    def load(self) -> type[nn.Module]:
        """Import and return the class.

        Raises:
            LayerFileError: If its module cannot be imported or lacks the class.
            RegistrationError: If rows cannot use the class.
        """
        return complete(self).load()

    def may_be(self, module: str, name: str) -> bool:
        """Return whether a class in a checkpoint can be this one; packages re-export theirs from where they like."""
        own_module, _, own_name = self.path.partition(":")
        is_near = module == own_module or (not self.file and _top(module) == _top(own_module))
        return is_near and name == own_name


@dataclass(frozen=True)
class Problem:
    """An own layer that cannot be used, where it comes from and why; ``name`` is empty where none is given."""

    name: str
    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} of {self.source} {self.reason}" if self.name else f"{self.source} {self.reason}"


Declared = tuple[tuple[Plugin, ...], tuple[Problem, ...]]
_declared: tuple[Any, Declared] | None = None
_complete: dict[Plugin, Layer] = {}


def declared() -> Declared:
    """Return the own layers of this environment, those of the variable first, and what cannot be one.

    Relative paths in the variable become absolute ones, for processes that are started elsewhere.
    """
    global _declared
    if VARIABLE in os.environ:
        os.environ[VARIABLE] = _absolute(os.environ[VARIABLE])
    key = os.environ.get(VARIABLE, ""), tuple(sys.path)
    if _declared is None or _declared[0] != key:
        found = [*_of_variable(key[0]), *_of_packages()]
        plugged = tuple(dict.fromkeys(one for one in found if isinstance(one, Plugin)))
        _declared = key, (plugged, tuple(one for one in found if isinstance(one, Problem)))
    return _declared[1]


def complete(plugin: Plugin) -> Layer:
    """Return the row of an own layer with its class and arguments, which takes an import.

    Raises:
        LayerFileError: If its module cannot be imported or lacks the class.
        RegistrationError: If rows cannot use the class.
    """
    if plugin not in _complete:
        module, _, name = plugin.path.partition(":")
        said = f"{plugin.name} of {plugin.source}"
        there = _import(module, plugin)
        try:
            cls = operator.attrgetter(name)(there)
        except Exception as error:  # a module may compute what it gives
            classes = [key for key, value in vars(there).items() if hasattr(value, "forward") and key[0] != "_"]
            meant = nearest(name, classes) or (f". It has: {', '.join(classes)}" if classes else "")
            why = "" if isinstance(error, AttributeError) else f" ({_why(error)})"
            raise LayerFileError(
                f"{said} cannot be used: {plugin.file or module} has no {name!r}{why}{meant}"
            ) from error
        arguments = arguments_of(said, cls)
        path = f"{cls.__module__}:{cls.__qualname__}"
        _complete[plugin] = Layer(
            plugin.name, path, plugin.slug, (), arguments, registered=cls, source=plugin.source
        )  # fmt: skip
    return _complete[plugin]


def known(plugin: Plugin) -> Layer:
    """Return the complete row if something has imported the layer, else the plug-in as it is."""
    return _complete.get(plugin, plugin)


def completed() -> bool:
    """Return whether this process has imported any own layer."""
    return bool(_complete)


def arguments_of(said: str, cls: Any) -> tuple[str, ...]:
    """Return the arguments of a row of an own class.

    Args:
        said: How its errors begin.
        cls: What is to be the class.

    Raises:
        RegistrationError: If it is no ``nn.Module``, or its constructor does not fit rows.
    """
    from torch import nn

    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise RegistrationError(f"{said} must be a subclass of nn.Module; it is {cls!r}")
    parameters = list(inspect.signature(cls).parameters.values())
    usage = f"{cls.__name__}({usage_of(parameters)})"
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or any(p.kind not in positional for p in parameters):
        raise RegistrationError(
            f"{said}: {usage} must take the width first and every argument by position "
            "(no keyword-only arguments, no *args or **kwargs): YAML rows are positional"
        )
    return tuple(p.name for p in parameters[1:])


def usage_of(parameters: Iterable[inspect.Parameter]) -> str:
    """Return parameters with their defaults, as a call would give them."""
    return ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)


def is_name(word: str) -> bool:
    """Return whether rows can name a layer so."""
    return word.isidentifier() and not keyword.iskeyword(word)


def is_own(module: str) -> bool:
    """Return whether a module's name is that of a user's file."""
    return module.startswith(f"{ROOM}.")


def file_of(module: str) -> str:
    """Return the file that ``YOLO_ATTN_LAYERS`` names for a module of ``yolo_attn.own``, or ""."""
    return next((plugin.file for plugin in declared()[0] if plugin.path.startswith(f"{module}:")), "")


def lost(module: str, name: str = "") -> str:
    """Say what a checkpoint with a class of a user's file needs that is not here.

    Args:
        module: Module of the class, one of ``yolo_attn.own``.
        name: Its name, if that is known.
    """
    stem, file = module.removeprefix(f"{ROOM}."), file_of(module)
    what = name or "a class"
    if file:
        return f"{what} is no longer in {file}"
    return (
        f"{what} is from its owner's file {stem}.py, which this process does not know: set "
        f"{VARIABLE}=<folder>/{stem}.py:{name or '<class>'}"
    )


class Finder:
    """Meta path finder of the files that ``YOLO_ATTN_LAYERS`` names, by the names that checkpoints hold."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a file's module; all other modules are left to others.

        Raises:
            LayerFileError: If it is one of ``yolo_attn.own`` that the variable does not name.
        """
        if not is_own(name):
            return None
        file = file_of(name)
        if not file:
            raise LayerFileError(lost(name))
        return spec_from_file_location(name, file, loader=_FileLoader(name, file))


class _FileLoader(SourceFileLoader):
    """Loads a file of the user's; whatever stops it is told with the file's name."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except (Exception, SystemExit) as error:  # a script parses the arguments of the command, and ends it
            raise LayerFileError(f"{self.path} cannot be imported: {_why(error, Path(self.path).parent)}") from error


def _import(module: str, plugin: Plugin) -> ModuleType:
    try:
        there = importlib.import_module(module)
    except LayerFileError as error:
        raise LayerFileError(f"{plugin.name} cannot be used: {error}") from error
    except (Exception, SystemExit) as error:
        raise LayerFileError(
            f"{plugin.name} of {plugin.source} cannot be used, for {module} cannot be imported: {_why(error)}"
        ) from error
    if plugin.file and plugin.file != there.__file__:
        raise LayerFileError(
            f"{plugin.name} of {plugin.file} cannot be used: this process has loaded {there.__file__} under its name. "
            "Start Python anew"
        )
    return there


def _why(error: BaseException, folder: Path | None = None) -> str:
    """Say what stopped an import and, where a module is missing, what to do."""
    if isinstance(error, SystemExit):
        return "it is a script that ends Python (SystemExit); put what runs under if __name__ == '__main__':"
    said = f"{type(error).__name__}: {error}"
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return said
    top = _top(error.name)
    if folder is None:
        return f"{said}. Install it (pip install {top}), or put the folder it lies in into PYTHONPATH"
    is_beside = (folder / f"{top}.py").exists() or (folder / top).is_dir()
    return f"{said}. " + (f"It lies beside the file: set PYTHONPATH={folder}" if is_beside else f"pip install {top}")


def _of_variable(text: str) -> Iterator[Plugin | Problem]:
    """Yield the layers of ``SOURCE:Class,Class;SOURCE:Class``; a source is a file or a module."""
    stems: dict[str, str] = {}
    for part in _parts(text):
        source, names = _split(part)
        if not source or not names or not all(map(is_name, names)):
            yield Problem("", f"{VARIABLE}: {part!r}", f"names no class; write {_FORM}")
            continue
        reason, module, shown = "", source, f"{source} ({VARIABLE})"
        if _is_file(source):
            stem, shown = Path(source).stem, source
            reason = _no_file(source) or _same_stem(source, stems.setdefault(stem, source))
            module = f"{ROOM}.{stem}"
        elif not all(map(is_name, source.split("."))):
            reason = f"is neither a file nor a module: write {_FORM}, and a ';' between two of them"
        for name in names:
            if reason:
                yield Problem(name, shown, reason)
            else:
                yield Plugin(
                    name, f"{module}:{name}", name.lower(), source=shown, file=source if shown == source else ""
                )


def _parts(text: str) -> list[str]:
    stripped = (part.strip(" \t\r\n\"'") for part in text.split(";"))
    return [part for part in stripped if part]


def _split(part: str) -> tuple[str, list[str]]:
    source, _, classes = part.rpartition(":")
    return source.strip(), [name.strip() for name in classes.split(",") if name.strip()]


def _is_file(source: str) -> bool:
    return source.endswith(".py") or "/" in source or "\\" in source


def _absolute(text: str) -> str:
    """Return the variable's text with absolute paths of files."""
    found = []
    for part in _parts(text):
        source, names = _split(part)
        if source and _is_file(source) and all(map(is_name, names)):
            part = f"{Path(source).expanduser().absolute()}:{','.join(names)}"
        found.append(part)
    return ";".join(found)


def _no_file(file: str) -> str:
    path = Path(file)
    if not path.is_file():
        several = " (between two of them, write a ';')" if ":" in path.name or "," in path.name else ""
        return f"cannot be used: there is no such file{several}"
    if path.suffix != ".py" or path.stem == "__init__" or "." in path.stem:
        return "cannot be used: name a file such as layers.py, or a package as my_package:MyAttention"
    return ""


def _same_stem(file: str, first: str) -> str:
    if file == first:
        return ""
    return f"cannot be used: {first} has the same file name, and checkpoints could not tell them apart. Rename one"


def _of_packages() -> Iterator[Plugin | Problem]:
    """Yield the layers of the entry points of installed packages."""
    for point in sorted(_entry_points(), key=lambda point: (_origin(point), point.name, point.value)):
        module, colon, name = (text.strip() for text in point.value.partition("[")[0].partition(":"))
        if not is_name(point.name):
            yield Problem(point.name, _origin(point), "cannot be used: its name must be a Python identifier")
        elif not colon or not all(map(is_name, [*module.split("."), *name.split(".")])):
            yield Problem(
                point.name, _origin(point), f"cannot be used: its entry point {point.value!r} is not module:Class"
            )
        else:
            yield Plugin(
                point.name, f"{module}:{name}", point.name.lower(), source=_origin(point), is_packaged=True
            )  # fmt: skip


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=GROUP))
    except Exception:  # the metadata of a package, ours to read and not to judge
        found = []
        for package in importlib.metadata.distributions():
            try:
                found += list(package.entry_points.select(group=GROUP))
            except Exception:
                continue
        return found


def _origin(point: importlib.metadata.EntryPoint) -> str:
    package = getattr(point, "dist", None)
    return f"{package.name} {package.version}" if package is not None else "a package"


def _top(module: str) -> str:
    return module.partition(".")[0]
