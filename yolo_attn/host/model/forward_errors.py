"""Errors in a model's forward whose cause is a row of ours: they name the row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ... import registry
from ...errors import RowError, YoloAttnError
from .blocks import find_attention
from .ours import is_attention
from .row_arguments import rows_of


def detection_model_joint(original: Callable[..., None]) -> Callable[..., None]:
    """Return ``DetectionModel.__init__``, which runs a forward for the strides, with our rows named in its errors."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, *args, **kwargs)
        except YoloAttnError:
            raise
        except Exception as error:
            named = name_row(error)
            if named is None:
                raise
            raise named from error

    return __init__


def name_row(error: BaseException) -> RowError | None:
    """Return an error that names the row if a layer of ours, or a Concat behind one, failed in a model's forward."""
    found: tuple[Any, Any, Any] | None = None
    trace = error.__traceback__
    while trace is not None:
        values = trace.tb_frame.f_locals
        model, layer = values.get("self"), values.get("m")
        if isinstance(model, nn.Module) and isinstance(layer, nn.Module) and isinstance(getattr(layer, "i", None), int):
            found = model, layer, values.get("x")
        trace = trace.tb_next
    if found is None:
        return None
    model, layer, x = found
    config = getattr(model, "yaml", None)
    if not isinstance(config, Mapping) or layer.i >= len(rows_of(config)):
        return None
    name = rows_of(config)[layer.i][2]
    place = f"{config.get('yaml_file') or 'model'}, row {layer.i}: {name}"
    if is_attention(layer) or find_attention(layer):
        return RowError(f"{place}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    ours = [f"row {i}, {row[2]}" for i, row in enumerate(rows_of(config)) if row[2] in registry.names()]
    if name != "Concat" or not ours or not isinstance(x, list) or not all(isinstance(t, Tensor) for t in x):
        return None
    sources = [layer.i + f if f < 0 else f for f in layer.f]
    sizes = ", ".join(f"row {f} gives {t.shape[2]} x {t.shape[3]}" for f, t in zip(sources, x, strict=True))
    return RowError(
        f"{place} joins maps of different sizes: {sizes}. Was {ours[0]}, inserted and an index behind it not moved?"
    )
