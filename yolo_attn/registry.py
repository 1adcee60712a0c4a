"""Layers by name: the rows of the table and of users' own layers, their arguments, and building one."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import (
    ArgumentError,
    LayerFileError,
    RegistrationError,
    UnknownLayerError,
    YoloAttnError,
    mistyped,
    nearest,
)
from .layers._checks import plain
from .layers._pasted import WIDTHS
from .table import TABLE, TIMM, TIMM_SLUGS, Layer

if TYPE_CHECKING:
    from torch import nn


# Names that are neither ours nor slips of ours, and what to say to them.
_ELSEWHERE = {
    "attention": (
        "; the layer listed elsewhere as Attention is MHSA here (Ultralytics has an Attention of its own, "
        "another function that rows cannot name)."
    ),
}
# A layer with more parameters than this (2 GiB in float32) is a slip in a row.
_MOST_PARAMETERS = 2**29

BUILT_IN = (*TABLE, TIMM)
_USER_LAYERS: dict[str, Layer] = {}
_observers: list[Callable[[], None]] = []


def observe(callback: Callable[[], None]) -> None:
    """Call ``callback`` after every change of the table (the host joint keeps its names in step)."""
    if callback not in _observers:
        _observers.append(callback)


def layers() -> tuple[Layer, ...]:
    """Return all rows: the built-in ones, then the user's in order of registration."""
    return BUILT_IN + tuple(_USER_LAYERS.values())


def names() -> dict[str, Layer]:
    """Map every YAML name and alias to its row."""
    return {name: layer for layer in layers() for name in (layer.name, *layer.aliases)}


def classes() -> dict[str, type[nn.Module]]:
    """Map every YAML name and alias to its class, but for layers whose file cannot be imported."""
    gone = broken()
    return {name: layer.load() for name, layer in names().items() if layer.name not in gone}


def broken() -> dict[str, LayerFileError]:
    """Return the layers whose file cannot be imported, each with its error."""
    found = {}
    for layer in layers():
        try:
            layer.load()
        except LayerFileError as error:
            found[layer.name] = error
    return found


def list_layers() -> list[str]:
    """Return the YAML names of all layers, built-in and registered."""
    return [layer.name for layer in layers()]


def slugs() -> dict[str, Layer]:
    """Map everything that stands for a layer in a model's name, in lower case, to its row."""
    rows = [layer for layer in (*layers(), *TIMM_SLUGS) if layer is not TIMM]  # which needs a name
    found = {name.lower(): layer for name, layer in names().items() if layer is not TIMM}
    return {**found, **{layer.slug: layer for layer in reversed(rows)}}


def find(name: str) -> Layer:
    """Return the row of a YAML name or alias.

    Raises:
        UnknownLayerError: If no layer has that name; the message lists the names and what may be meant.
    """
    known = names()
    if name not in known:
        raise UnknownLayerError(f"unknown layer {name!r}{hint(name)}")
    return known[name]


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
    timm = next((f"; write TimmAttention, {[*row.given]}." for row in TIMM_SLUGS if row.slug == word.lower()), "")
    meant = timm or _ELSEWHERE.get(word.lower()) or mistyped(word, [*names(), *others]) or "."
    own = word if word.isidentifier() else "MyLayer"
    return (
        f"{meant} Layers of yolo-attn: {', '.join(list_layers())}. For a layer of your own, call "
        f"yolo_attn.register({own!r}, {own}) in a module that is imported before the model is built."
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
    layer = find(name)
    parameters = layer.parameters()
    usage = f"{layer.name}({usage_of(parameters)})"
    if len(args) > len(parameters):
        raise ArgumentError(f"{usage} takes at most {len(parameters)} arguments; got {len(args)}: {list(args)}")
    given = dict(zip((p.name for p in parameters), args, strict=False))
    gathered: dict[str, Any] = {}
    for key, value in without_widths(layer, kwargs or {}, (channels,)).items():
        if key == "channels":
            raise ArgumentError(f"{usage}: 'channels' is taken from the row it reads; leave it out")
        if key not in [p.name for p in parameters]:
            if layer.gathers:
                gathered[key] = value
                continue
            raise ArgumentError(f"{usage} has no argument {key!r}{nearest(str(key), [p.name for p in parameters])}")
        if key in given:
            raise ArgumentError(f"{usage}: {key!r} is given twice, as {given[key]!r} and as {value!r}")
        given[key] = value
    if gathered:
        given[layer.gathers] = _joined(usage, given.get(layer.gathers), gathered)
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        raise ArgumentError(f"{usage} needs {', '.join(map(repr, missing))}")
    last = max((i for i, p in enumerate(parameters) if p.name in given), default=-1)
    return [channels, *(plain(given.get(p.name, p.default)) for p in parameters[: last + 1])]


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
    pasted = {key: kwargs[key] for key in kwargs if key in WIDTHS and key not in layer.arguments}
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
    if layer.registered is not None:
        return
    import torch

    with torch.device("meta"):  # holds shapes and no numbers
        count = sum(parameter.numel() for parameter in layer.load()(*arguments).parameters())
    if count > _MOST_PARAMETERS:
        given = ", ".join(map(str, arguments))
        raise ArgumentError(f"{layer.name}({given}) has {count:,} parameters; {_MOST_PARAMETERS:,} are allowed")


def usage_of(parameters: Sequence[inspect.Parameter]) -> str:
    """Return parameters with their defaults, as a call would give them."""
    return ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)


def create(layer: str | None = None, /, channels: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a layer by name.

    Args:
        layer: YAML name or alias, such as ``"CBAM"``; ``name=`` may say it.
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
    arguments = bind(row.name, channels, args, kwargs)
    refuse_giants(row, arguments)
    return row.load()(*arguments)


def register(name: str, cls: type[nn.Module]) -> type[nn.Module]:
    """Make a layer of your own usable in model YAMLs and in ``create``.

    The class takes the width first and returns a map of the same shape (or names its output width in a static method
    ``out_channels(channels, *args)``). Put class and ``register`` call into one importable module, and import that
    module wherever a model with its rows is built: registration holds for the process it happens in.

    Args:
        name: YAML name, a Python identifier.
        cls: An ``nn.Module`` whose constructor arguments can all be given by position.

    Returns:
        ``cls``, unchanged.

    Raises:
        RegistrationError: If the name is taken or no identifier, or the class does not fit.

    Example:
        >>> register("MyAttention", MyAttention)
    """
    from torch import nn

    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise RegistrationError(f"register({name!r}, ...): the name must be a Python identifier")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise RegistrationError(f"register({name!r}, {cls!r}): the second argument must be a subclass of nn.Module")
    if name in names():
        taken = "\n".join(f"  {known:<24} {layer.path}" for known, layer in names().items())
        raise RegistrationError(f"register({name!r}, ...): the name is taken. Registered names:\n{taken}")
    parameters = list(inspect.signature(cls).parameters.values())
    usage = f"{cls.__name__}({usage_of(parameters)})"
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or any(p.kind not in positional for p in parameters):
        raise RegistrationError(
            f"register({name!r}, ...): {usage} must take the width first and every argument by position "
            "(no keyword-only arguments, no *args or **kwargs): YAML rows are positional"
        )
    arguments = tuple(p.name for p in parameters[1:])
    path = f"{cls.__module__}:{cls.__qualname__}"
    _USER_LAYERS[name] = Layer(name, path, name.lower(), (), arguments, registered=cls)
    try:
        for callback in _observers:
            callback()
    except YoloAttnError:
        del _USER_LAYERS[name]
        raise
    return cls


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
