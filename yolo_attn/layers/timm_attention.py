"""TimmAttention is a layer of timm, built by the name that ``timm.layers.create_attn`` knows it by.

Paper: each layer's own; timm (PyTorch Image Models), huggingface/pytorch-image-models (Apache-2.0), cites it.
Differs: unknown arguments are refused (timm drops some in silence), a name must be a string, and one image of one pixel
is trained with the running statistics of a batch norm (timm: an error). ``ge`` has no MLP unless it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import traceback
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, LayerFileError, nearest
from . import _checks as check
from ._layout import like
from ._norm import Norm, fold_norm
from ._pasted import takes_pasted
from ._timm import ACTIVATIONS, NAMES, OPTIONS, SAID, STARTS_AS_IDENTITY, UNUSED, checked, timm_name

_SIZES = ((1, 1), (5, 7), (16, 8))
# A convolution and the batch norm right behind it, by the names that timm's modules give them.
_FOLDED = (("conv", "bn"), ("conv1", "bn1"), ("z", "norm"))


class TimmAttention(nn.Module):
    """Apply the attention layer that ``timm.layers.create_attn`` builds for a name; the map keeps its shape.

    ``y = create_attn(name, C, **options)(x)``. Parameters have timm's names behind ``layer.``: they load no checkpoint
    of the layer's other versions.

    Paper: that of the layer; timm names it.

    Args:
        channels: Width C of the map, at least 1.
        name: Timm's name of the layer, in any case: ``se``, ``ese``, ``eca``, ``ecam``, ``ceca``, ``ge``, ``gc``,
            ``gca``, ``cbam``, ``lcbam``, ``coord``, ``scoord``, ``ela``, ``strip``, ``splat``, ``lambda`` or ``nl``.
        options: Arguments of timm's constructor. Classes go by timm's names, such as ``act_layer="silu"``.
        **keywords: The same, one by one.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; the layer's cost: ``nl`` O((HW)^2) time and memory, the others O(HW).

    Raises:
        ValueError: If ``channels`` is not a positive integer, there is no such layer, it is one that fails on some map
            or batch, or a value makes no sense or has this effect.
        ArgumentError: If timm's constructor has no such argument.

    Example:
        ``[-1, 1, TimmAttention, [eca]]``, ``[-1, 1, TimmAttention, [se, {rd_ratio: 0.25}]]``

        >>> layer = TimmAttention(64, "se", rd_ratio=0.25)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self, channels: int, name: str | None = None, options: Mapping[str, Any] | None = None, **keywords: Any
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.name = timm_name(name)
        self.starts_as_identity = self.name in STARTS_AS_IDENTITY
        self.options = _options(self.name, options, keywords)
        with torch.device("meta"), torch.no_grad():  # what cannot work says so before it fills the memory
            self.layer = self._build()
            self._try()
        self.layer = self._build()

    def forward(self, x: Tensor) -> Tensor:
        alone = self.training and x.numel() == x.shape[1]
        norms = [m for m in self.layer.modules() if isinstance(m, Norm) and m.training] if alone else []
        for norm in norms:  # the variance of a single value is undefined: the running statistics stand in
            norm.eval()
        try:
            return like(self.layer(x), x)
        finally:
            for norm in norms:
                norm.train()

    def fold_for_inference(self) -> None:
        """Take the batch norms into the convolutions before them."""
        for module in self.layer.modules():
            for linear, norm in _FOLDED:
                act = getattr(getattr(module, norm, None), "act", None)  # some of timm's norms have one
                if hasattr(module, linear) and hasattr(module, norm) and isinstance(act, (type(None), nn.Identity)):
                    fold_norm(module, linear, norm)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # Channels last knows four axes; the kernel of ``lambda`` has a fifth, of length 1.
        return super()._apply(lambda t: fn(t[..., 0])[..., None] if t.shape[4:] == (1,) else fn(t), recurse)

    def extra_repr(self) -> str:
        said = "".join(f", {key}={value!r}" for key, value in (self.options or {}).items())
        return f"channels={self.channels!r}, name={self.name!r}{said}"

    def _build(self) -> nn.Module:
        timm = _timm()
        classes = {"act_layer": timm.get_act_layer, "norm_layer": timm.get_norm_layer}
        given = {**SAID.get(self.name, {}), **(self.options or {})}
        given = {key: classes[key](value) if key in classes else value for key, value in given.items()}
        try:
            return timm.create_attn(self.name, self.channels, **given)
        except Exception as error:  # timm asserts, mostly without words
            raise ValueError(f"{self._said()} cannot be built: {_text(error)}") from error

    def _try(self) -> None:
        """Raise unless the layer takes any map and trains on one image."""
        for train, (h, w) in itertools.product((False, True), _SIZES):
            self.train(train)
            x = torch.empty(1, self.channels, h, w)
            try:
                shape = self(x).shape
            except Exception as error:  # as above
                what = "train on one image" if train else "take a map"
                raise ValueError(f"{self._said()} cannot {what} of {h}x{w}: {_text(error)}") from error
            if shape != x.shape:
                kept = "x".join(map(str, x.shape[1:]))
                raise ValueError(
                    f"{self._said()} makes {'x'.join(map(str, shape[1:]))} of {kept}; it must keep the shape"
                )

    def _said(self) -> str:
        return f"TimmAttention({self.extra_repr()})"


def _timm() -> ModuleType:
    """Import and return ``timm.layers``, which takes a second or two.

    Raises:
        LayerFileError: If it cannot be imported.
    """
    try:
        return importlib.import_module("timm.layers")
    except Exception as error:  # a damaged installation raises anything
        raise LayerFileError(
            f"TimmAttention needs timm, which cannot be imported: {type(error).__name__}: {error}. "
            "Mend it: pip install --upgrade timm"
        ) from error


def parts() -> set[type[nn.Module]]:
    """Return timm's classes that layers are built of, whatever their arguments."""
    with torch.device("meta"):
        built = [TimmAttention(8, name) for name in NAMES] + [_timm().create_act_layer(name) for name in ACTIVATIONS]
    built = [*built, TimmAttention(8, "ela", norm_layer="layernorm2d")]
    return {type(m) for module in built for m in module.modules() if type(m).__module__.startswith("timm.")}


def _options(name: str, options: Any, keywords: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments for timm's constructor, or None if there are none.

    Raises:
        ArgumentError: If it has no such argument, or one is given twice.
        ValueError: If a value makes no sense.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"options={options!r} must be a mapping of arguments, such as {{rd_ratio: 0.25}}")
    given = {**(options or {}), **keywords}
    defaults = _defaults(name) if given else {}
    shown = {k: v.__name__.lower() if isinstance(v, type) else v for k, v in defaults.items() if k in OPTIONS}
    usage = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in shown.items())])
    for key, value in given.items():
        if key not in defaults:
            raise ArgumentError(f"TimmAttention({usage}) has no argument {key!r}{nearest(str(key), shown)}")
        if key in keywords and key in (options or {}):
            raise ArgumentError(
                f"TimmAttention({name!r}): {key!r} is given twice, as {options[key]!r} and as {value!r}"
            )
        if key in UNUSED.get("ecam" if given.get("use_mlp") else name, ()):
            warnings.warn(f"TimmAttention({name!r}): timm does nothing with {key}={value!r}", stacklevel=4)
    return checked(given, defaults) or None


def _defaults(name: str) -> dict[str, Any]:
    """Return the arguments of timm's constructor, but for the width, with what they are if nobody says them."""
    found = _timm().get_attn(name)  # a class, or a partial of one
    parameters = [*inspect.signature(getattr(found, "func", found)).parameters.values()][1:]
    said = {**getattr(found, "keywords", {}), **SAID.get(name, {})}
    return {p.name: said.get(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD}


def _text(error: Exception) -> str:
    """Return what an error says, or the line it comes from if it says nothing."""
    return str(error).strip() or f"{type(error).__name__}: {traceback.extract_tb(error.__traceback__)[-1].line}"
