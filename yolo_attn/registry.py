"""THE table of layers: YAML name, class path, slug, aliases, paper and the arguments in YAML order.

Importing this module loads no layer and no torch; a layer's file is imported when its class is first asked for.
"""

from __future__ import annotations

import importlib
import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError, RegistrationError, UnknownLayerError, YoloAttnError, nearest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Layer:
    """One row of the table; ``path`` is ``module:class``, ``arguments`` are those of a YAML row (no ``channels``)."""

    name: str
    path: str
    slug: str
    aliases: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    paper: str = ""
    year: int = 0
    arxiv: str = ""

    def load(self) -> type[nn.Module]:
        """Import and return the class."""
        module, _, name = self.path.partition(":")
        return _USER_CLASSES.get(self.name) or getattr(importlib.import_module(module), name)


def _layer(name: str, module: str, slug: str, aliases: str, arguments: str, paper: str, year: int, arxiv: str) -> Layer:
    path = f"yolo_attn.layers.{module}:{name}"
    return Layer(name, path, slug, tuple(aliases.split()), tuple(arguments.split()), paper, year, arxiv)


# Positional order is the order of a YAML row and so a file format: append only.
# fmt: off
TABLE: tuple[Layer, ...] = (
    _layer("SE", "se", "se", "SEAttention", "reduction bias", "Squeeze-and-Excitation Networks", 2017, "1709.01507"),
    _layer(
        "DoubleAttention", "double_attention", "a2", "A2 A2Attention", "c_m c_n reconstruct residual",
        "A^2-Nets: Double Attention Networks", 2018, "1810.11579",
    ),
    _layer(
        "BAM", "bam", "bam", "BAMBlock", "reduction dilation num_layers combine",
        "BAM: Bottleneck Attention Module", 2018, "1807.06514",
    ),
    _layer(
        "BiFormer", "biformer", "biformer", "BiLevelRoutingAttention BRA",
        "n_win num_heads qk_dim qk_scale kv_per_win kv_downsample_ratio kv_downsample_kernel kv_downsample_mode topk "
        "param_attention param_routing diff_routing soft_routing side_dwconv auto_pad mask_pad",
        "BiFormer: Vision Transformer with Bi-Level Routing Attention", 2023, "2303.08810",
    ),
    _layer(
        "MHSA", "mhsa", "mhsa", "", "num_heads qkv_bias qk_scale attn_drop proj_drop",
        "Attention Is All You Need", 2017, "1706.03762",
    ),
    _layer(
        "MHSALePE", "mhsa_lepe", "mhsa-lepe", "AttentionLePE",
        "num_heads qkv_bias qk_scale attn_drop proj_drop side_dwconv lepe_on",
        "CSWin Transformer (locally-enhanced positional encoding)", 2021, "2107.00652",
    ),
    _layer(
        "CAA", "caa", "caa", "ContextAnchorAttention", "h_kernel_size v_kernel_size gate_only",
        "Poly Kernel Inception Network for Remote Sensing Detection", 2024, "2403.06258",
    ),
    _layer(
        "CBAM", "cbam", "cbam", "CBAMBlock", "reduction kernel_size mlp_bias spatial_bn",
        "CBAM: Convolutional Block Attention Module", 2018, "1807.06521",
    ),
    _layer(
        "CloAttention", "clo_attention", "clo", "EfficientAttention",
        "num_heads group_split kernel_sizes window_size attn_drop proj_drop qkv_bias pool",
        "Rethinking Local Perception in Lightweight Vision Transformer", 2023, "2303.17803",
    ),
    _layer(
        "CrissCross", "criss_cross", "crisscross", "CrissCrossAttention CCA", "recurrence",
        "CCNet: Criss-Cross Attention for Semantic Segmentation", 2018, "1811.11721",
    ),
    _layer(
        "CoordAtt", "coord_att", "coordatt", "CoordinateAttention", "reduction",
        "Coordinate Attention for Efficient Mobile Network Design", 2021, "2103.02907",
    ),
    _layer(
        "CoT", "cot", "cot", "CoTAttention", "kernel_size",
        "Contextual Transformer Networks for Visual Recognition", 2021, "2107.12292",
    ),
    _layer(
        "CPCA", "cpca", "cpca", "", "channelAttention_reduce",
        "Channel Prior Convolutional Attention for Medical Image Segmentation", 2023, "2306.05196",
    ),
    _layer(
        "DAttention", "dattention", "dat", "DAT DeformableAttention",
        "n_heads n_groups attn_drop proj_drop stride offset_range_factor use_pe dwc_pe no_off fixed_pe ksize log_cpb "
        "kv_size q_size",
        "Vision Transformer with Deformable Attention", 2022, "2201.00520",
    ),
    _layer(
        "LSKA", "lska", "lska", "", "kernel_size",
        "Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN", 2023, "2309.01439",
    ),
    _layer(
        "LSK", "lsk", "lsk", "LSKblock LSKBlock", "",
        "Large Selective Kernel Network for Remote Sensing Object Detection", 2023, "2303.09030",
    ),
    _layer(
        "SCSA", "scsa", "scsa", "",
        "head_num window_size group_kernel_sizes qkv_bias down_sample_mode attn_drop_ratio gate_layer",
        "SCSA: Exploring the Synergistic Effects Between Spatial and Channel Attention", 2024, "2407.05128",
    ),
    _layer(
        "ELA", "ela", "ela", "EfficientLocalizationAttention", "kernel_size groups num_groups bias",
        "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024, "2403.01123",
    ),
    _layer(
        "Polarized", "polarized", "polarized", "ParallelPolarizedSelfAttention PolarizedSelfAttention", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021, "2107.00782",
    ),
    _layer(
        "PolarizedSeq", "polarized", "polarized-seq", "SequentialPolarizedSelfAttention", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021, "2107.00782",
    ),
    _layer(
        "PSA_p", "psa", "psa-p", "", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression (official code)", 2021, "2107.00782",
    ),
    _layer(
        "PSA_s", "psa", "psa-s", "", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression (official code)", 2021, "2107.00782",
    ),
    _layer(
        "GC", "gc", "gc", "ContextBlock", "ratio pooling_type fusion_types",
        "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, "1904.11492",
    ),
)
# fmt: on

_USER_LAYERS: dict[str, Layer] = {}
_USER_CLASSES: dict[str, type[nn.Module]] = {}
_observers: list[Callable[[], None]] = []


def observe(callback: Callable[[], None]) -> None:
    """Call ``callback`` after every change of the table (the host joint keeps its names in step)."""
    if callback not in _observers:
        _observers.append(callback)


def layers() -> tuple[Layer, ...]:
    """Return all rows: the built-in ones, then the user's in order of registration."""
    return TABLE + tuple(_USER_LAYERS.values())


def names() -> dict[str, Layer]:
    """Map every YAML name and alias to its row."""
    return {name: layer for layer in layers() for name in (layer.name, *layer.aliases)}


def list_layers() -> list[str]:
    """Return the YAML names of all layers, built-in and registered."""
    return [layer.name for layer in layers()]


def find(name: str) -> Layer:
    """Return the row of a YAML name or alias.

    Raises:
        UnknownLayerError: If no layer has that name; the message lists the names and the nearest one.
    """
    known = names()
    if name not in known:
        raise UnknownLayerError(f"unknown layer {name!r}{nearest(name, known)} Known: {', '.join(list_layers())}")
    return known[name]


def bind(name: str, channels: int, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> list[Any]:
    """Return the positional arguments of a layer's constructor, trailing defaults left out.

    Args:
        name: YAML name or alias.
        channels: Width of the map the layer is placed on.
        args: Positional arguments after ``channels``.
        kwargs: Keyword arguments.

    Raises:
        UnknownLayerError: If no layer has that name.
        ArgumentError: If the arguments do not fit the constructor.
    """
    layer = find(name)
    parameters = list(inspect.signature(layer.load()).parameters.values())[1:]
    usage = f"{layer.name}({_usage(parameters)})"
    if len(args) > len(parameters):
        raise ArgumentError(f"{usage} takes at most {len(parameters)} arguments; got {len(args)}: {list(args)}")
    given = dict(zip((p.name for p in parameters), args, strict=False))
    for key, value in (kwargs or {}).items():
        if key == "channels":
            raise ArgumentError(f"{usage}: 'channels' is taken from the row it reads; leave it out")
        if key not in [p.name for p in parameters]:
            raise ArgumentError(f"{usage} has no argument {key!r}{nearest(str(key), [p.name for p in parameters])}")
        if key in given:
            raise ArgumentError(f"{usage}: {key!r} is given twice, as {given[key]!r} and as {value!r}")
        given[key] = value
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        raise ArgumentError(f"{usage} needs {', '.join(map(repr, missing))}")
    last = max((i for i, p in enumerate(parameters) if p.name in given), default=-1)
    return [channels, *(given.get(p.name, p.default) for p in parameters[: last + 1])]


def _usage(parameters: Sequence[inspect.Parameter]) -> str:
    return ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)


def create(name: str, channels: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a layer by name.

    Args:
        name: YAML name or alias, such as ``"CBAM"``.
        channels: Width C of the map the layer will see.
        *args: The layer's other arguments in YAML order.
        **kwargs: The same by keyword.

    Returns:
        The layer, a map ``(B, C, H, W) -> (B, C, H, W)``.

    Raises:
        UnknownLayerError: If no layer has that name.
        ArgumentError: If the arguments do not fit the constructor.
        ValueError: If the constructor refuses a value.

    Example:
        >>> layer = create("CBAM", 256, kernel_size=5)
    """
    return find(name).load()(*bind(name, channels, args, kwargs))


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
    usage = f"{cls.__name__}({_usage(parameters)})"
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or any(p.kind not in positional for p in parameters):
        raise RegistrationError(
            f"register({name!r}, ...): {usage} must take the width first and every argument by position "
            "(no keyword-only arguments, no *args or **kwargs): YAML rows are positional"
        )
    _USER_CLASSES[name] = cls
    arguments = tuple(p.name for p in parameters[1:])
    _USER_LAYERS[name] = Layer(name, f"{cls.__module__}:{cls.__qualname__}", name.lower(), (), arguments)
    try:
        for callback in _observers:
            callback()
    except YoloAttnError:
        del _USER_LAYERS[name], _USER_CLASSES[name]
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
    del _USER_LAYERS[name], _USER_CLASSES[name]
    for callback in _observers:
        callback()


def text() -> str:
    """Return the table for a terminal: name, aliases and arguments of every layer."""
    rows = []
    for layer in layers():
        parameters = list(inspect.signature(layer.load()).parameters.values())[1:]
        rows.append(f"{layer.name:<16} [-1, 1, {layer.name}, [{_usage(parameters)}]]")
        if layer.aliases:
            rows.append(f"{'':<16} also {', '.join(layer.aliases)}")
    return "\n".join(rows)


def markdown() -> str:
    """Return the table of docs/layers.md."""
    rows = [
        "| YAML name | also | in model names | paper | arguments with defaults |",
        "|---|---|---|---|---|",
    ]
    for layer in TABLE:
        parameters = list(inspect.signature(layer.load()).parameters.values())[1:]
        aliases = ", ".join(f"`{alias}`" for alias in layer.aliases) or "-"
        paper = f"[{layer.paper}](https://arxiv.org/abs/{layer.arxiv}), {layer.year}"
        rows.append(f"| `{layer.name}` | {aliases} | `{layer.slug}` | {paper} | `{_usage(parameters)}` |")
    return "\n".join(rows)
