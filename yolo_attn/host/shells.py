"""What a checkpoint says, read without running anything that it names: every class becomes an empty shell.

``torch.load`` takes this module as its ``pickle_module``. Tensors, numbers, dates and containers come as themselves.
Everything else, be it of this machine or not, is neither imported nor called.
"""

from __future__ import annotations

import datetime
import pickle
import reprlib
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # torch writes pickles with the names of Python 2
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError

_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "ultralytics", "pip", "setuptools"}


class Shell:
    """Holds the attributes of an object; its class, ``path``, is a name and no more."""

    path = ""
    dump_patches = False  # torch asks for it in files of its old form

    def __init__(self, *args: Any) -> None:
        """Make an empty one; an enumeration's member may come with its value.

        Raises:
            CheckpointError: If the file asks for a call that no checkpoint needs.
        """
        module, _, name = self.path.rpartition(".")
        if args and (module.partition(".")[0] in _LIBRARIES or not name[:1].isupper()):
            shown = ", ".join(map(reprlib.repr, args))
            raise CheckpointError(
                f"it asks to call {self.path}({shown}), which no checkpoint needs. Nothing of it was run"
            )

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                vars(self).update({key: value for key, value in part.items() if isinstance(key, str)})

    def append(self, item: Any) -> None:
        """Ignore an item of a list of another class."""

    def extend(self, items: Any) -> None:
        """Ignore items of a list of another class."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an item of a mapping of another class."""

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return self.path.rpartition(".")[2]

    def children(self) -> dict[str, Shell]:
        """Return the modules in it by name."""
        return {str(key): value for key, value in self._part("_modules").items() if isinstance(value, Shell)}

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Shell]]:
        """Yield it and all modules in it, each with its path."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.modules(f"{prefix}.{name}" if prefix else name)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what ``state_dict()`` would hold; no hook of the file is called."""
        found = {}
        for path, module in self.modules():
            hidden = vars(module).get("_non_persistent_buffers_set") or ()
            for part in ("_parameters", "_buffers"):
                for name, value in module._part(part).items():
                    if isinstance(value, torch.Tensor) and not (part == "_buffers" and name in hidden):
                        found[f"{path}.{name}" if path else name] = value.detach()
        return found

    def _part(self, name: str) -> Mapping[str, Any]:
        part = vars(self).get(name)
        return part if isinstance(part, Mapping) else {}


class _Known:
    """A function that the reader may call; the file cannot change it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class _Bytes:
    """Stands for torch's storage of plain bytes, a class of Python's that a file could change."""

    __slots__ = ()
    dtype = torch.uint8


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _rebuild_typed(storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    return torch.empty(0, dtype=dtype).set_(storage._untyped_storage, offset, size, stride)


def _rebuild_from_type(function: Any, _: Any, args: Any, *__: Any) -> Any:
    return function(*args) if isinstance(function, _Known) else None


def _reconstruct(cls: Any, *_: Any) -> Any:
    return cls() if isinstance(cls, type) and issubclass(cls, Shell) else None


_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _Known(lambda *_: {}),
    "collections.Counter": _Known(lambda *pairs: dict(*pairs)),
    "collections.deque": _Known(lambda items=(), *_: list(items)),
    "_codecs.encode": _Known(lambda text, *_: text.encode("latin1")),
    "copyreg._reconstructor": _Known(_reconstruct),
    "datetime.datetime": datetime.datetime,
    "datetime.date": datetime.date,
    "datetime.timedelta": datetime.timedelta,
    "datetime.timezone": datetime.timezone,
    "torch._utils._rebuild_tensor": _Known(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Known(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": _Known(_rebuild_typed),
    "torch._utils._rebuild_parameter": _Known(lambda data, *_: data),
    "torch._utils._rebuild_parameter_with_state": _Known(lambda data, *_: data),
    "torch._tensor._rebuild_from_type_v2": _Known(_rebuild_from_type),
    "torch.serialization._get_layout": _Known(lambda *_: None),
    "torch.Size": _Known(lambda *sizes: tuple(*sizes)),
    "torch.device": _Known(lambda *parts: ":".join(map(str, parts))),
    "torch.storage.UntypedStorage": _Bytes(),
    "torch.UntypedStorage": _Bytes(),
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
}
_scalar: Any = np.float64(0).__reduce__()[0]
_array: Any = np.zeros(1).__reduce__()[0]
for _numpy in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN[f"{_numpy}.scalar"], _KNOWN[f"{_numpy}._reconstruct"] = _Known(_scalar), _Known(_array)
_KNOWN |= {f"builtins.{cls.__name__}": cls for cls in (object, set, frozenset, complex, bytearray, slice)}
# A method of one of its objects, as the host puts in the place of ``forward`` when it fuses a model.
_KNOWN["builtins.getattr"] = _Known(lambda *_: None)
for _kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
    for _pathlib in ("pathlib", "pathlib._local"):
        _KNOWN[f"{_pathlib}.{_kind}"] = _Known(lambda *parts: str(PurePosixPath(*parts)))


class Unpickler(pickle.Unpickler):
    """Finds data by a list and makes a shell of every other name."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what stands for ``module.name``; nothing is imported."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        path = f"{module}.{name}"
        if path in _KNOWN:
            return _KNOWN[path]
        if path == "functools.partial":  # built with its function, filled by its state
            return _Known(lambda *_: self._shell(path)())
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        return self._shell(path)

    def _shell(self, path: str) -> type[Shell]:
        made: dict[str, type[Shell]] = self.__dict__.setdefault("made", {})
        return made.setdefault(path, type("Shell", (Shell,), {"path": path}))


def load(file: Any, **options: Any) -> Any:
    """Read one pickle; files of old versions of torch hold several."""
    return Unpickler(file, **options).load()
