"""``freeze=`` on models with inserted rows: a number counts the rows of the base, and ``backbone`` is a value.

The host freezes rows by their number in the model: inserted layers within it would keep their start for ever, and rows
of the base would train that should not. While a training is set up, the trainer's ``freeze`` is the list of rows that
was meant; what the user wrote is what checkpoints and ``args.yaml`` keep, so a resumed run means the same.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from torch import nn

from ...errors import RowError, nearest
from ...layers.gated import Gated
from ..model.blocks import find_attention, ungated
from ..model.ours import has_attention, is_attention, kind_of

Function = Callable[..., Any]
BACKBONE = "backbone"
# What each trainer was asked to freeze and which rows that is, for its record.
frozen: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def setup_train_joint(original: Function) -> Function:
    """Return ``BaseTrainer._setup_train`` after which ``freeze`` is again what the user wrote."""

    @functools.wraps(original)
    def _setup_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = self.args.freeze
        try:
            return original(self, *args, **kwargs)
        finally:
            self.args.freeze = asked

    return _setup_train


def setup_model_joint(original: Function) -> Function:
    """Return ``BaseTrainer.setup_model`` after which ``freeze`` is the list of rows that is meant.

    The joint raises RowError if the host would ignore the value in silence.
    """

    @functools.wraps(original)
    def setup_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        asked = self.args.freeze
        is_word = isinstance(asked, str) and asked.strip().lower() not in ("", "none")
        if is_word or (type(asked) is int and asked > 0):
            model = _of_rows(self.model)
            rows = _translate(asked, model)
            frozen[self] = {"asked": asked, "rows": rows}
            if is_word or any(map(has_attention, model.model)):
                self.args.freeze = _parts_of(rows, model.model)
                _log().info(f"freeze={asked} counts rows of the base: {_describe(rows, list(model.model))}")
        elif isinstance(asked, list) and asked:
            frozen[self] = {"asked": asked, "rows": asked}
            _warn_of_list(asked, _of_rows(self.model))
        return result

    return setup_model


def _of_rows(model: Any) -> Any:
    """Return the model whose rows are frozen: the one that learns, where another teaches it."""
    return getattr(model, "student_model", model)


def _translate(asked: str | int, model: Any) -> list[int]:
    """Return the rows that a number or a word means: rows of the base only."""
    config = getattr(model, "yaml", None)
    layers = getattr(model, "model", None)
    if isinstance(asked, str) and asked.strip().lower() != BACKBONE:
        raise RowError(
            f"freeze={asked!r}{nearest(asked, [BACKBONE]) or ':'} give a number of rows of the base (freeze=10), "
            f"a list of rows (freeze=[0,1,2]) or freeze={BACKBONE}"
        )
    if not isinstance(config, Mapping) or not isinstance(layers, nn.Sequential):
        raise RowError(f"freeze={asked}: this model has no rows of a model YAML")
    base = [index for index, layer in enumerate(layers) if not is_attention(layer)]
    if isinstance(asked, int):
        return base[:asked]
    return [index for index in base if index < len(config["backbone"])]


def _parts_of(rows: Sequence[int], layers: Sequence[nn.Module]) -> list[Any]:
    """Return what the host has to freeze for these rows: a row with attention inside is all its other parts."""
    parts: list[Any] = []
    for row in rows:
        ours = {*find_attention(layers[row]).values()}
        parts += _parts_without(layers[row], ours, str(row)) if ours else [row]
    return parts


def _parts_without(module: nn.Module, ours: Set[nn.Module], path: str) -> list[str]:
    """Return the paths of the largest parts of a module that have none of our layers inside."""
    if module in ours:
        return []
    if ours.isdisjoint(module.modules()):
        return [path]
    return [part for name, child in module.named_children() for part in _parts_without(child, ours, f"{path}.{name}")]


def _describe(rows: Sequence[int], layers: Sequence[nn.Module]) -> str:
    """Say which rows are frozen and which of ours among them learn."""
    near = enumerate(layers[: max(rows, default=-1) + 2])
    ours = [f"{index} {kind_of(layer)[0]}" for index, layer in near if is_attention(layer)]
    ours += [
        f"{type(ungated(layer)).__name__} inside {row}"
        for row in rows
        for layer in [*find_attention(layers[row]).values()][:1]
    ]
    others = f"; {', '.join(ours)} {'is' if len(ours) == 1 else 'are'} not" if ours else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {_ranges(rows)} {'is' if len(rows) == 1 else 'are'} frozen{others}"


def _ranges(rows: Sequence[int]) -> str:
    """Return numbers in short: ``0-4, 6``."""
    starts = [row for row in rows if row - 1 not in rows]
    ends = [row for row in rows if row + 1 not in rows]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _warn_of_list(asked: Sequence[Any], model: Any) -> None:
    """Warn of entries that freeze nothing, and of layers of ours frozen at gate 0: without effect for ever."""
    layers = list(getattr(model, "model", ()))
    names = [name for name, _ in model.named_parameters()]
    rows = range(len(layers))
    unknown = [entry for entry in asked if entry not in rows and not any(f"model.{entry}." in name for name in names)]
    if unknown:
        _log().warning(f"freeze={list(asked)}: {', '.join(map(repr, unknown))} names no row of 0 to {len(layers) - 1}")
    closed = [
        f"{index} {kind_of(layer)[0]}"
        for index, layer in enumerate(layers)
        for name, part in layer.named_modules(prefix=f"model.{index}")
        if isinstance(part, Gated) and not part.openness() and any(f"model.{e}." in f"{name}.gate" for e in asked)
    ]
    if closed:
        _log().warning(
            f"freeze={list(asked)} freezes {', '.join(dict.fromkeys(closed))} at gate 0: they stay without effect. "
            f"A number, or freeze={BACKBONE}, freezes rows of the base alone"
        )


def _log() -> Any:
    from ultralytics.utils import LOGGER  # not while the host is still importing itself

    return LOGGER
