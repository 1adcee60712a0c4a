"""Layers by name: the rows of the table and of users' own layers, their arguments, and building one."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import own_names, plugins
from .errors import (
    ArgumentError,
    RegistrationError,
    UnknownLayerError,
    YoloAttnError,
    mistyped,
    nearest,
)
from .layers import _pasted
from .layers._checks import plain
from .layers._pasted import WIDTHS, Bound
from .plugins import Plugin, Problem, usage_of
from .table import ELSEWHERE, POINTWISE, TABLE, TIMM, TIMM_SLUGS, Layer

if TYPE_CHECKING:
    from torch import nn


# A layer with more parameters than this (2 GiB in float32) is a slip in a row.
_MOST_PARAMETERS = 2**29

BUILT_IN = (*TABLE, TIMM)
PACKAGED = (*BUILT_IN, POINTWISE)
# Every name that the package gives a layer, those left to the host included.
BY_NAME = {name: layer for layer in PACKAGED for name in (layer.name, *layer.aliases, *layer.pasted)}
_USER_LAYERS: dict[str, Layer] = {}
_left: frozenset[str] = frozenset()
_observers: list[Callable[[], None]] = []


def observe(callback: Callable[[], None]) -> None:
    """Call ``callback`` after every change of the table (the host joint keeps its names in step)."""
    if callback not in _observers:
        _observers.append(callback)


def layers() -> tuple[Layer, ...]:
    """Return all rows: built-in ones, registered ones, then those of ``YOLO_ATTN_LAYERS`` and of packages."""
    return BUILT_IN + tuple(_USER_LAYERS.values()) + tuple(map(plugins.known, _own()))


def names() -> dict[str, Layer]:
    """Map every YAML name and alias to its row, but for names of copies that the host has a class for.

    Nothing is imported.
    """
    return _without_left({**BY_NAME, **_USER_LAYERS, **_own_by_name()})


def leave_to_host(pasted: Iterable[str]) -> None:
    """Let rows that name these copies mean the host's own classes."""
    global _left
    _left = frozenset(pasted)


def in_use() -> dict[str, Layer]:
    """Map names and aliases to the package's layers, the registered ones, and those own ones that a model has named."""
    own = _own_by_name() if plugins.completed() else {}
    return _without_left({**BY_NAME, **_USER_LAYERS, **{name: own[name] for name in own if own[name].registered}})


def classes() -> dict[str, type[nn.Module]]:
    """Map YAML names and aliases to classes: of the package's layers that can be imported, and own ones in use."""
    found = in_use()
    rows = {layer.name: layer for layer in found.values()}
    gone = _broken(rows.values())
    loaded = {name: layer.load() for name, layer in rows.items() if name not in gone}
    return {name: loaded[layer.name] for name, layer in found.items() if layer.name in loaded}


def is_layer(cls: type) -> bool:
    """Return whether a class is that of a layer; an own one may have come here in a checkpoint."""
    if cls in classes().values():
        return True
    for plugin in _own():
        if plugin.may_be(cls.__module__, cls.__qualname__):
            with contextlib.suppress(YoloAttnError):
                if plugin.load() is cls:
                    return True
    return False


def broken() -> dict[str, YoloAttnError]:
    """Return the layers that cannot be used, each with its error; this imports all of them."""
    return _broken(layers())


def problems() -> list[Problem]:
    """Return the own layers that are left out, each with the reason."""
    return own_names.admitted(_USER_LAYERS)[1]


def _own() -> list[Plugin]:
    return own_names.admitted(_USER_LAYERS)[0]


def _own_by_name() -> dict[str, Layer]:
    return {layer.name: layer for layer in map(plugins.known, _own())}


def _without_left(found: dict[str, Layer]) -> dict[str, Layer]:
    return {name: layer for name, layer in found.items() if name not in _left} if _left else found


def _broken(rows: Iterable[Layer]) -> dict[str, YoloAttnError]:
    found = {}
    for layer in rows:
        try:
            layer.load()
        except YoloAttnError as error:
            found[layer.name] = error
    return found


def list_layers() -> list[str]:
    """Return the YAML names of all layers, built-in and your own."""
    return [layer.name for layer in layers()]


def slugs() -> dict[str, Layer]:
    """Map everything that stands for a layer in a model's name, in lower case, to its row; the package's come first."""
    own = {word: layer for layer in reversed(layers()[len(BUILT_IN) :]) for word in (layer.name.lower(), layer.slug)}
    words = {name.lower(): layer for name, layer in BY_NAME.items() if layer is not TIMM}  # which needs a name
    return {**own, **words, **{layer.slug: layer for layer in reversed((*TABLE, *TIMM_SLUGS))}}


def find(name: str) -> Layer:
    """Return the row of a YAML name or alias; an own layer is imported.

    Raises:
        UnknownLayerError: If no layer has that name; the message lists the names and what may be meant.
        LayerFileError: If it is an own layer that cannot be imported.
        RegistrationError: If it is an own layer that rows cannot use.
    """
    layer = BY_NAME.get(name) or _USER_LAYERS.get(name) or _own_by_name().get(name)
    if layer is None:
        raise UnknownLayerError(f"unknown layer {name!r}{hint(name)}")
    return plugins.complete(layer) if isinstance(layer, Plugin) else layer


def row_of(name: str) -> tuple[str, list[Any]]:
    """Return module and first arguments of the row of a YAML name, an alias or the slug of a layer of timm.

    Raises:
        UnknownLayerError: If no layer has that name.

    Example:
        >>> row_of("timm-eca")
        ('TimmAttention', ['eca'])
    """
    layer = next((layer for layer in TIMM_SLUGS if layer.slug == name.lower()), None) or find(name)
    return layer.name, list(layer.given)


def hint(name: str, others: Iterable[str] = ()) -> str:
    """Return what to say about a name that is no layer: what may be meant, what there is, how to add one.

    Args:
        name: The name as it was given.
        others: Names of other modules that may be meant.
    """
    word = str(name)
    known = [name for layer in layers() for name in (layer.name, *layer.aliases)]
    timm = next((f"; write TimmAttention, {[*row.given]}." for row in TIMM_SLUGS if row.slug == word.lower()), "")
    meant = timm or ELSEWHERE.get(word.lower()) or mistyped(word, [*known, *others]) or "."
    own = word if word.isidentifier() else "MyLayer"
    refused = "".join(f" {problem}." for problem in problems() if problem.name in (word, ""))
    return (
        f"{meant}{refused} Layers of yolo-attn: {', '.join(list_layers())}. For a layer of your own, set "
        f"{plugins.VARIABLE}=layers.py:{own}, or call yolo_attn.register({own!r}, {own}) in a module that is imported "
        "before the model is built (in each process)."
    )


def bind(name: str, channels: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> list[Any]:
    """Return the positional arguments of a layer's constructor, trailing defaults left out.

    Args:
        name: YAML name or alias.
        channels: Width of the map the layer is placed on.
        args: Positional arguments after ``channels``.
        kwargs: Keyword arguments; those that call the width by another name must say ``channels``.

    Raises:
        UnknownLayerError: If no layer has that name.
        ArgumentError: If the arguments do not fit the constructor.
    """
    return bind_to(find(name), channels, args, kwargs)


def bind_to(
    layer: Layer, channels: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> list[Any]:
    """Return what ``bind`` does, for a row of the table."""
    parameters = layer.parameters()
    own = [p.name for p in parameters]
    usage = f"{layer.name}({usage_of(parameters)})"
    if len(args) > len(parameters):
        raise ArgumentError(
            f"{usage} takes at most {len(parameters)} arguments; got {len(args)}: {list(args)}"
            f"{_pasted.two_widths(layer.name)}"
        )
    given = dict(zip(own, args, strict=False))
    gathered: dict[str, Any] = {}
    for key, value in without_widths(layer, kwargs or {}, (channels,)).items():
        if key not in own and layer.gathers:
            gathered[key] = value
            continue
        if key not in own:
            meant = nearest(key, own) if layer.registered else _pasted.meant(layer.name, key, own)
            raise ArgumentError(f"{usage} has no argument {key!r}{meant}")
        if key in given:
            raise ArgumentError(f"{usage}: {key!r} is given twice, as {given[key]!r} and as {value!r}")
        given[key] = value
    if gathered:
        given[layer.gathers] = _joined(usage, given.get(layer.gathers), gathered)
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        raise ArgumentError(f"{usage} needs {', '.join(map(repr, missing))}")
    last = max((i for i, p in enumerate(parameters) if p.name in given), default=-1)
    width = Bound(channels) if type(channels) is int and layer.registered is None else channels
    return [width, *(plain(given.get(p.name, p.default)) for p in parameters[: last + 1])]


def _joined(usage: str, said: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping of arguments with further ones given beside it."""
    if said is not None and not isinstance(said, Mapping):
        raise ArgumentError(f"{usage}: {said!r} must be a mapping, for {', '.join(map(repr, more))} go with it")
    known = dict(said or {})
    for key in [key for key in more if key in known]:
        raise ArgumentError(f"{usage}: {key!r} is given twice, as {known[key]!r} and as {more[key]!r}")
    return {**known, **more}


def without_widths(layer: Layer, kwargs: Mapping[str, Any], widths: Sequence[int]) -> dict[str, Any]:
    """Return keyword arguments without those that call the width by a name that other versions of a layer use.

    Args:
        layer: Row of the table.
        kwargs: Keyword arguments.
        widths: What the width may be given as: the width itself, then other forms of it.

    Raises:
        ArgumentError: If one of them says something else.
    """
    pasted = {key: kwargs[key] for key in kwargs if key in (*WIDTHS, "channels") and key not in layer.arguments}
    for key, value in pasted.items():
        if value not in widths:
            width = " or ".join(dict.fromkeys(map(str, widths)))
            raise ArgumentError(f"{layer.name}: {key}={value!r} is not the width it gets, {width}; leave it out")
    return {key: value for key, value in kwargs.items() if key not in pasted}


def refuse_giants(layer: Layer, arguments: Sequence[Any]) -> None:
    """Refuse a layer of the package whose parameters would fill the memory.

    Args:
        layer: Row of the table.
        arguments: Its constructor's arguments, the width first.

    Raises:
        ArgumentError: If it has too many parameters.
        ValueError: If the constructor refuses a value.
    """
    if layer.source:
        return
    import torch

    with torch.device("meta"):  # holds shapes and no numbers
        count = sum(parameter.numel() for parameter in layer.load()(*arguments).parameters())
    if count > _MOST_PARAMETERS:
        given = ", ".join(map(str, arguments))
        raise ArgumentError(f"{layer.name}({given}) has {count:,} parameters; {_MOST_PARAMETERS:,} are allowed")


def create(layer: str | None = None, /, channels: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a layer by name.

    Args:
        layer: YAML name, alias or the class name of a copy, such as ``"CBAM"``; ``name=`` may say it.
        channels: Width C of the map the layer will see.
        *args: The layer's other arguments in YAML order.
        **kwargs: The same by keyword. The width may go by the names that other versions use, such as ``dim``.

    Returns:
        The layer, a map ``(B, C, H, W) -> (B, C, H, W)``.

    Raises:
        UnknownLayerError: If no layer has that name.
        ArgumentError: If the arguments do not fit the constructor.
        ValueError: If the constructor refuses a value.

    Example:
        >>> layer = create("CBAM", 256, kernel_size=5)
    """
    row = find(kwargs.pop("name", "") if layer is None else layer)  # an argument of a layer may be called name
    if channels is None:
        channels = next((value for key, value in kwargs.items() if key in WIDTHS - {*row.arguments}), None)
    if row.registered is None:
        given, keywords = _pasted.reordered(row.name, row.arguments, channels, args, kwargs)
    else:
        given, keywords = [*args], kwargs
    arguments = bind(row.name, channels, given, keywords)
    refuse_giants(row, arguments)
    return row.load()(*arguments)


def register(name: str, cls: type[nn.Module]) -> type[nn.Module]:
    """Make a layer of your own usable in model YAMLs and in ``create``.

    The class takes the width first and returns a map of the same shape (or names its output width in a static method
    ``out_channels(channels, *args)``). Put class and ``register`` call into one importable module, and import that
    module wherever a model with its rows is built: registration holds for the process it happens in. For every
    process, workers and the ``yolo`` command too, set ``YOLO_ATTN_LAYERS=layers.py:MyAttention`` instead.

    Args:
        name: YAML name, a Python identifier.
        cls: An ``nn.Module`` whose constructor arguments can all be given by position.

    Returns:
        ``cls``, unchanged. Nothing happens if ``YOLO_ATTN_LAYERS`` or a package gives the same class that name.

    Raises:
        RegistrationError: If the name is taken or no identifier, or the class does not fit.

    Example:
        >>> register("MyAttention", MyAttention)
    """
    from torch import nn

    if not isinstance(name, str) or not plugins.is_name(name):
        raise RegistrationError(f"register({name!r}, ...): the name must be a Python identifier")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise RegistrationError(f"register({name!r}, {cls!r}): the second argument must be a subclass of nn.Module")
    there = BY_NAME.get(name) or names().get(name)
    if there is not None and _is_same(there, cls):
        return cls
    if there is not None:
        taken = "\n".join(f"  {known:<24} {layer.path}" for known, layer in names().items())
        raise RegistrationError(f"register({name!r}, ...): the name is taken. Registered names:\n{taken}")
    arguments = plugins.arguments_of(f"register({name!r}, ...)", cls)
    path = f"{cls.__module__}:{cls.__qualname__}"
    _USER_LAYERS[name] = Layer(name, path, name.lower(), (), arguments, registered=cls, source="register()")
    try:
        for callback in _observers:
            callback()
    except YoloAttnError:
        del _USER_LAYERS[name]
        raise
    return cls


def _is_same(layer: Layer, cls: type[nn.Module]) -> bool:
    """Return whether an own layer of every process is the very class that a module registers for this one too."""
    plugin = next((plugin for plugin in _own() if plugin.name == layer.name), None)
    if plugin is None:
        return False
    file = inspect.getsourcefile(cls) if plugin.file else None
    is_here = file is not None and Path(file).resolve() == Path(plugin.file).resolve()
    return plugin.may_be(cls.__module__, cls.__qualname__) or is_here


def unregister(name: str) -> None:
    """Forget a layer that ``register`` added.

    Raises:
        UnknownLayerError: If no layer of that name was registered (built-in layers cannot be removed).
    """
    if name not in _USER_LAYERS:
        known = ", ".join(_USER_LAYERS) or "none"
        raise UnknownLayerError(f"no registered layer {name!r} (built-in layers stay). Registered: {known}")
    del _USER_LAYERS[name]
    for callback in _observers:
        callback()
