"""Weights of a base model arrive wherever rows were inserted, and layers inserted into them start as the identity.

The host matches tensors by keys that hold a layer's number. The joint with ``BaseModel.load`` shows it a base whose
layers stand at the numbers of the layers they correspond to; everything else the host does there stays its own.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...blocks import attention_of, with_attention
from ...graft import set_gate, split_arguments
from ...layers.gated import Gated
from . import blocks, foreign
from .align import Pairs, align
from .ours import has_attention, is_attention, kind_of, plain_state, repeats


def load_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``BaseModel.load`` that matches layers by what they are and in what order, not by number."""

    @functools.wraps(original)
    def load(self: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        base = _base_of(weights)
        if base is None or not isinstance(getattr(self, "model", None), nn.Sequential):
            return original(self, weights, *args, **kwargs)
        source, target = list(base.model), list(self.model)
        if not any(has_attention(layer) for layer in (*source, *target)):
            return original(self, weights, *args, **kwargs)
        pairs = align(source, target)
        taken = _judge_foreign(base, self, pairs)
        _match_gates(self, source, pairs)
        result = original(self, _replace(weights, _renumbered(base, self, pairs)), *args, **kwargs)
        new = _open_identity(self, source, pairs)
        report = reports[self] = _compare(base, self, pairs, new, taken)
        if report.complete and _placeholder_names(self) and len(getattr(base, "names", ())) == len(self.names):
            self.names = dict(base.names)
        if kwargs.get("verbose", args[0] if args else True):
            report.log()
        return result

    return load


def model_load_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``Model.load`` after which ``train`` keeps weights that came as an object, as newer hosts do."""

    @functools.wraps(original)
    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if not self.ckpt:
            self.ckpt = {"model": self.model}
        return result

    return load


def _base_of(weights: Any) -> Any:
    """Return the model that the host will take from what ``load`` was given, if it is one of rows."""
    if isinstance(weights, dict):
        weights = weights.get("ema") or weights.get("model")
    return weights if isinstance(getattr(weights, "model", None), nn.Sequential) else None


def _replace(weights: Any, base: Any) -> Any:
    """Return ``weights`` with another model in it."""
    if not isinstance(weights, dict):
        return base
    return {**weights, **{key: base for key in ("ema", "model") if weights.get(key) is not None}}


def _judge_foreign(base: Any, model: Any, pairs: Pairs) -> list[str]:
    """Drop the pairs of a foreign layer and one of ours that computes something else; describe those that stay."""
    taken = []
    for i in foreign.foreign_layers(base):
        if i not in pairs or not is_attention(model.model[pairs[i]]):
            continue
        found = foreign.difference(base.model[i], model.model[pairs[i]])
        if foreign.is_same(found):
            taken.append(f"{i} {_name(base.model[i])} is {foreign.judged(base.model[i], found)}")
        else:
            del pairs[i]
    return taken


def _renumbered(base: Any, model: Any, pairs: Pairs) -> Any:
    """Return a view of the base whose layers stand where the model's corresponding layers do. Tensors are shared."""
    layers: list[nn.Module] = [nn.Identity() for _ in model.model]
    for i, j in pairs.items():
        parts = []
        for own, other in zip(repeats(base.model[i]), repeats(model.model[j]), strict=False):
            parts.append(blocks.with_gate_of(own, other) if is_attention(own) else blocks.like(own, other))
        layers[j] = nn.Sequential(*parts) if type(base.model[i]) is nn.Sequential else parts[0]
    view = copy.copy(base)
    view._modules = {**base._modules, "model": nn.Sequential(*layers)}
    return view


def _match_gates(model: Any, source: Sequence[nn.Module], pairs: Pairs) -> None:
    """Gate the layers whose counterpart is gated, unless their row says ``gate: false``."""
    for i, j in pairs.items():
        if isinstance(repeats(source[i])[0], Gated) and not isinstance(repeats(model.model[j])[0], Gated):
            _gate_row(model, j)
        theirs = blocks.find_attention(source[i])
        own = blocks.find_attention(model.model[j])
        carried = [theirs[path] for path, layer in own.items() if blocks.is_same_kind(theirs.get(path), layer)]
        if any(isinstance(layer, Gated) for layer in carried):
            _gate_inside(model, j, [*own.values()])


def _open_identity(model: Any, source: Sequence[nn.Module], pairs: Pairs) -> list[int]:
    """Gate the new attention layers that read trained features; return all new layers."""
    arrived = {j for i, j in pairs.items() if _fits(source[i], model.model[j])}
    new = [j for j in range(len(model.model)) if j not in pairs.values()]
    for j in new:
        layer = model.model[j]
        reads = j + layer.f if isinstance(layer.f, int) and layer.f < 0 else layer.f
        if is_attention(layer) and reads in arrived:
            if not isinstance(repeats(layer)[0], Gated):
                _gate_row(model, j)
            arrived.add(j)  # the next new layer in a row of them reads the same features
    for i, j in pairs.items():
        if j in arrived and (fresh := _new_inside(source[i], model.model[j])):
            _gate_inside(model, j, fresh)
    return new


def _new_inside(source: nn.Module, target: nn.Module) -> list[nn.Module]:
    """Return the attention layers inside a block that its counterpart in the base has not."""
    theirs = blocks.find_attention(source)
    own = blocks.find_attention(target)
    return [layer for path, layer in own.items() if not blocks.is_same_kind(theirs.get(path), layer)]


def _fits(source: nn.Module, target: nn.Module) -> bool:
    """Return whether all tensors of a layer fit another, but for attention inside, which may be another one."""
    theirs = plain_state(target)
    state = plain_state(source, inside=False)
    return all(key in theirs and theirs[key].shape == value.shape for key, value in state.items())


def _gate_row(model: Any, j: int) -> None:
    """Put a gate at 0 around layer ``j`` and say so in its row of the model's YAML; ``gate: false`` keeps it out."""
    layer = model.model[j]
    source, n, name, args = _row(model, j)
    if split_arguments(args)[1].get("gate") is False or not _can_be_gated(repeats(layer)[0]):
        return
    gated = [Gated(part) for part in repeats(layer)]
    replacement = nn.Sequential(*gated) if type(layer) is nn.Sequential else gated[0]
    replacement.to(next(model.parameters()).device).train(layer.training)
    marks = {"i": layer.i, "f": layer.f, "type": f"{Gated.__module__}.{Gated.__name__}"}
    marks["np"] = _count(replacement)
    vars(replacement).update(marks)  # what the host writes on every layer
    model.model[j] = replacement
    model.yaml = copy.deepcopy(model.yaml)
    _row(model, j)[:] = [source, n, name, set_gate(args, True)]


def _gate_inside(model: Any, j: int, fresh: Sequence[nn.Module]) -> None:
    """Put gates around the attention inside block ``j``, as ``_gate_row`` does: at 0 around ``fresh`` ones alone."""
    block, row = model.model[j], _row(model, j)
    inside = attention_of(row)
    if inside is None or split_arguments(inside[1])[1].get("gate") is False:
        return
    for path, layer in blocks.find_attention(block).items():
        if isinstance(layer, Gated) or not _can_be_gated(layer):
            continue
        gated = Gated(layer) if any(layer is other for other in fresh) else blocks.with_gate_of(layer, Gated(layer))
        blocks.replace_attention(block, path, gated.to(next(model.parameters()).device).train(layer.training))
    if any(isinstance(layer, Gated) for layer in blocks.find_attention(block).values()):
        block.np = _count(block)
        model.yaml = copy.deepcopy(model.yaml)
        row = _row(model, j)
        row[:] = with_attention(row, inside[0], set_gate(inside[1], True))


def _row(model: Any, j: int) -> list[Any]:
    """Return row ``j`` of the model's YAML."""
    first = len(model.yaml["backbone"])
    return model.yaml["backbone"][j] if j < first else model.yaml["head"][j - first]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _can_be_gated(layer: nn.Module) -> bool:
    """Return whether a layer surely keeps its width and does not start as the identity itself."""
    if getattr(layer, "starts_as_identity", False):
        return False
    out = getattr(layer, "out_channels", None)
    if out is None:
        return True
    names = list(inspect.signature(out).parameters)
    if not all(hasattr(layer, name) for name in names):
        return False  # a layer of the user's that may change the width and does not keep its arguments
    given = [getattr(layer, name) for name in names]
    return out(*given) == given[0]


def _placeholder_names(model: Any) -> bool:
    names = getattr(model, "names", None)
    return isinstance(names, dict) and all(str(key) == str(name) for key, name in names.items())


@dataclass
class Report:
    """What arrived of a base.

    Attributes:
        arrived: Number of tensors of the base that fit.
        total: Number of tensors of the base.
        new: Layers of the model without a counterpart, as text.
        lost: Other layers of the base without a counterpart, as text.
        foreign: Layers of the base that bear a name of ours and compute something else, as text.
        taken: Layers of the base of another class than ours whose weights ours took over, as text.
        misfits: Tensors of another shape, as text.
        hint: What would fit.
    """

    arrived: int
    total: int
    new: list[str]
    lost: list[str]
    foreign: list[str]
    taken: list[str]
    misfits: list[str]
    hint: str

    @property
    def complete(self) -> bool:
        """Whether every tensor of the base arrived."""
        return self.arrived == self.total

    def log(self) -> None:
        """Tell the user."""
        from ultralytics.utils import LOGGER  # older hosts import all of themselves with this, and so the patches

        line = f"Transferred {self.arrived}/{self.total} tensors of the base"
        if self.new:
            line += f"; new: {', '.join(self.new)}"
        LOGGER.info(line)
        for text in self.taken:
            LOGGER.info(f"Its weights are carried over: {text}")
        for text in self.foreign:
            LOGGER.warning(f"Not carried over: {text}")
        if self.lost:
            LOGGER.warning(f"Layers of the base that this model has not: {', '.join(self.lost)}")
        if self.misfits:
            shown = ", ".join(self.misfits[:6]) + (
                f" and {len(self.misfits) - 6} more" if len(self.misfits) > 6 else ""
            )
            LOGGER.warning(f"Tensors of another shape: {shown}. {self.hint}".rstrip())


# What arrived in each model that is alive, for the record of its training.
reports: weakref.WeakKeyDictionary[nn.Module, Report] = weakref.WeakKeyDictionary()


def _compare(base: Any, model: Any, pairs: Pairs, new: Sequence[int], taken: Sequence[str] = ()) -> Report:
    arrived, misfits, lost, others = 0, [], [], []
    foreigners = foreign.foreign_layers(base)
    for i, layer in enumerate(base.model):
        if i not in pairs:
            if i in foreigners:
                others.append(f"layer {i}, {_name(layer)}, is {foreign.path_of(layer)}, another function than ours")
            else:
                lost.append(f"{i} {_name(layer)}")
            continue
        j, gated = pairs[i], [isinstance(part, Gated) for part in repeats(layer)]
        theirs = plain_state(model.model[j])
        for key, value in plain_state(layer).items():
            if key in theirs and theirs[key].shape == value.shape:
                arrived += 1
            else:
                other = tuple(theirs[key].shape) if key in theirs else "none"
                misfits.append(f"{j} {_name(layer)} {key.partition('.')[2]} {tuple(value.shape)} -> {other}")
        if isinstance(repeats(model.model[j])[0], Gated):
            arrived += sum(gated)
        elif any(gated):
            misfits.append(f"{j} {_name(layer)} gate (its row says 'gate: false', so the layer is fully open)")
        there = blocks.find_attention(model.model[j])
        for path, inner in blocks.find_attention(layer).items():
            if (
                isinstance(inner, Gated)
                and isinstance(there.get(path), Gated)
                and blocks.is_same_kind(inner, there[path])
            ):
                arrived += 1
            elif isinstance(inner, Gated):
                misfits.append(f"{j} {_name(layer)} {path} gate (none here)")
    total = len(base.model.state_dict())
    described = [f"{j} {_name(model.model[j])}{_start(model.model[j])}" for j in new if is_attention(model.model[j])]
    described += [f"{j} {_name(model.model[j])}" for j in new if not is_attention(model.model[j])]
    described += _describe_inside(base, model, pairs)
    return Report(arrived, total, described, lost, others, [*taken], misfits, _hint(base, model, len(misfits), total))


def _describe_inside(base: Any, model: Any, pairs: Pairs) -> list[str]:
    """Return in words the attention inside blocks that is new, one text for all blocks that have the same."""
    where: dict[tuple[str, str], list[str]] = {}
    for i, j in pairs.items():
        for layer in _new_inside(base.model[i], model.model[j])[:1]:
            kind = type(blocks.ungated(layer)).__name__
            where.setdefault((kind, _start(layer)), []).append(f"{j} {_name(model.model[j])}")
    return [f"{kind} inside {', '.join(rows)}{start}" for (kind, start), rows in where.items()]


def _name(layer: nn.Module) -> str:
    return kind_of(layer)[0]


def _start(layer: nn.Module) -> str:
    part = repeats(layer)[0]
    identity = isinstance(part, Gated) or getattr(part, "starts_as_identity", False)
    return " (starts as the identity)" if identity else " (starts as in its paper)"


def _hint(base: Any, model: Any, misfits: int, total: int) -> str:
    """Say what would fit."""
    theirs, ours = (getattr(m, "yaml", None) or {} for m in (base, model))
    if misfits * 4 > total and theirs.get("scale") != ours.get("scale"):
        name = re.sub(r"\.ya?ml$", "", str(theirs.get("yaml_file", "the base")).rpartition("/")[2])
        fitting = re.sub(r"(\d)[nsmlx](?=-|$)", rf"\g<1>{ours.get('scale')}", name)
        return f"The base has scale {theirs.get('scale')!r}, this model {ours.get('scale')!r}: {fitting}.pt would fit"
    if theirs.get("nc") != ours.get("nc"):
        return f"The base has {theirs.get('nc')} classes, this model {ours.get('nc')}: the class outputs start anew"
    return ""
