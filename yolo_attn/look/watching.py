"""What a layer does while it runs: the gates it multiplies by, the weights it mixes with, the points it samples at.

The layer's code is not asked. Every call of a PyTorch function in its forward is seen: a sigmoid makes a gate, a
product of a gate and the map applies it, a softmax or a fused attention makes weights, a grid says where is sampled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_GATES = {"sigmoid", "sigmoid_", "special_expit", "expit", "hardsigmoid", "hardsigmoid_", "tanh", "tanh_", "softmax"}
_PRODUCTS = {"mul", "mul_", "multiply", "multiply_"}
_SUMS = {"add", "add_", "__radd__"}
_POOLS = {"avg_pool2d", "max_pool2d"}
# These take nothing from their other tensors but a shape or a type.
_SHAPED_LIKE = {"expand_as", "view_as", "reshape_as", "type_as"}
_COPIES = {"contiguous", "clone", "to", "float", "double", "half", "type_as", "reshape", "cat", "flatten"}


@dataclass(frozen=True)
class Applied:
    """A gate as it was multiplied onto a map.

    ``maker`` is the function that made it, "" if the layer multiplies its input by something that none of them made;
    ``root`` is the number of that call, so that gates of one softmax know each other; ``parts`` are the gates that were
    added up to it, itself alone if none were. ``inside`` tells that it is no factor between input and output, but works
    on something that the layer computes on the way.
    """

    gate: Tensor
    onto: torch.Size
    maker: str
    root: int
    parts: tuple[Tensor, ...]
    inside: bool = True


@dataclass(frozen=True)
class Softmax:
    """Weights that a softmax made, with the axis along which they sum to 1; ``root`` as in ``Applied``."""

    weights: Tensor
    root: int


@dataclass(frozen=True)
class Attention:
    """A fused attention, which holds no weights: they are computed here, for one query of each head."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float

    def row(self, query: int, batch: int = 0) -> Tensor:
        """Return the weights of a query, ``(heads, M)``."""
        q, k = self.q[batch, :, query].float(), self.k[batch].float()
        logits = torch.einsum("hd,hmd->hm", q * self.scale, k)
        if self.mask is not None:
            mask = self.mask.expand(*self.q.shape[:3], self.k.shape[2])[batch, :, query]
            logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()
        return logits.softmax(-1)


@dataclass(frozen=True)
class Sampled:
    """Positions at which a map was sampled, ``(n, h, w, 2)``: x and y, -1 to 1 as ``grid_sample`` counts them."""

    grid: Tensor
    size: torch.Size
    align_corners: bool


@dataclass(frozen=True)
class Pooled:
    """A map of ``size`` averaged or maximised over squares of ``kernel`` pixels to a map of ``result``."""

    size: torch.Size
    kernel: tuple[int, int]
    result: torch.Size


@dataclass(frozen=True)
class Chosen:
    """The indices that a ``topk`` chose."""

    index: Tensor


@dataclass
class Record:
    """A layer's input and output, and what happened between them, in order.

    ``factor`` is what the layer multiplies each element of its input by, ``(C, H, W)``, if that is all it does.
    """

    x: Tensor
    y: Tensor
    factor: Tensor | None = None
    events: list[Any] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


def watch(layer: nn.Module, x: Tensor) -> Record:
    """Run a layer on one map ``(1, C, H, W)`` by its own forward and return what it did.

    Nothing in the layer is changed; faster forms are off meanwhile.
    """
    eyes = _Eyes(x.detach().clone())
    with torch.no_grad(), _plain(), eyes:
        y = layer(eyes.x)
    record = Record(x.detach(), y.detach(), None, eyes.events)
    known = eyes.factors.get(id(y))
    if known is not None and y.shape == x.shape and y.isfinite().all():
        factor, scale = known.factor.expand(x.shape), float(y.abs().max())
        if torch.allclose(record.x * factor, y, rtol=1e-4, atol=1e-5 * scale):
            record.factor = factor[0].clone()
            for number in known.events:
                record.events[number] = replace(record.events[number], inside=False)
    return record


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    try:
        from ..fast import plain
    except ImportError:  # the folder is optional
        yield
        return
    with plain():
        yield


@dataclass(frozen=True)
class _Gate:
    gate: Tensor
    maker: str
    root: int
    parts: tuple[Tensor, ...]
    source: int  # what the function was applied to


@dataclass(frozen=True)
class _Known:
    """The input, rearranged, times a factor; ``events`` are the numbers of the gates in it."""

    tensor: Tensor
    factor: Tensor
    events: tuple[int, ...] = ()


class _Eyes(TorchFunctionMode):
    """Follows three kinds of tensors by identity: what depends on the map, gates, and the map times known factors."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.events: list[Any] = []
        self.features: dict[int, Tensor] = {id(x): x}  # holding them keeps identities apart
        self.gates: dict[int, _Gate] = {}
        self.factors: dict[int, _Known] = {id(x): _Known(x, x.new_ones(1, 1, 1, 1))}
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            return self._multi_head(func, args, kwargs)
        before = [*_tensors((args, kwargs))]
        # In-place products would overwrite what is recorded of their operands.
        saved = [t.clone() if name.endswith("_") and i == 0 else t for i, t in enumerate(before)]
        result = func(*args, **kwargs)
        made = [*_tensors(result)]
        if made and not name.startswith("new_") and not name.endswith("_like"):
            self._follow(name, func, args, kwargs, before, saved, made)
        return result

    def _follow(
        self,
        name: str,
        func: Any,
        args: Any,
        kwargs: Any,
        operands: list[Tensor],
        saved: list[Tensor],
        made: list[Tensor],
    ) -> None:
        self.calls += 1
        self._note(name, args, kwargs, operands, made)
        carried = operands[:1] if name in _SHAPED_LIKE else operands
        gates = [self.gates[id(t)] for t in carried if id(t) in self.gates]
        features = [t for t in carried if id(t) in self.features]
        known = [self.factors[id(t)] for t in operands if id(t) in self.factors]
        factors = self._factors(name, func, args, kwargs, operands, made) if known else []
        events = {number for each in known for number in each.events}
        if name in _PRODUCTS and len(carried) == 2 and features and self._apply(carried, saved):
            events.add(len(self.events) - 1)
        for t in made:
            self.gates.pop(id(t), None)
            self.factors.pop(id(t), None)
            self.features.pop(id(t), None)
            if name in _GATES and operands:
                self.gates[id(t)] = _Gate(t, name.strip("_"), self.calls, (t,), id(operands[0]))
            elif gates and not features:
                self.gates[id(t)] = self._combine(name, gates, t)
            elif features:
                self.features[id(t)] = t
        for t, factor in zip(made, factors, strict=False):
            self.factors[id(t)] = _Known(t, factor, tuple(sorted(events)))
            self.features[id(t)] = t

    @staticmethod
    def _combine(name: str, gates: list[_Gate], t: Tensor) -> _Gate:
        """Return the gate that an operation made of gates and of nothing of the map."""
        first = gates[0]
        if name in _SUMS and len(gates) == 2:
            return _Gate(t, first.maker, first.root, (*gates[0].parts, *gates[1].parts), 0)
        parts = first.parts if len(first.parts) > 1 and name in {*_PRODUCTS, "div"} else (t,)
        return _Gate(t, first.maker, first.root, parts, first.source)

    def _apply(self, operands: list[Tensor], saved: list[Tensor]) -> bool:
        """Note a gate that is multiplied onto a map of the layer's height and width, and tell whether there is one."""
        for (a, b), onto in zip((operands, operands[::-1]), saved, strict=True):
            gate = self.gates.get(id(b))
            if gate is not None and id(a) in self.features:
                if gate.source == id(a) or not self._is_map(onto):  # t * sigmoid(t) is an activation
                    return False
                parts = tuple(_small(part) for part in gate.parts)
                self.events.append(Applied(_small(b), onto.shape, gate.maker, gate.root, parts))
                return True
        for a, b in (operands, operands[::-1]):
            is_input = id(a) in self.factors and a.data_ptr() == self.x.data_ptr()
            if is_input and id(b) not in self.factors and self._is_map(a):
                self.events.append(Applied(_small(b), a.shape, "", self.calls, (_small(b),)))
                return True
        return False

    def _is_map(self, t: Tensor) -> bool:
        return t.dim() >= 4 and t.shape[-2:] == self.x.shape[-2:]

    def _factors(
        self, name: str, func: Any, args: Any, kwargs: Any, operands: list[Tensor], made: list[Tensor]
    ) -> list[Tensor]:
        """Return the factors of what was made, if that is the input, rearranged, times something that is known."""
        known = [t for t in operands if id(t) in self.factors]
        factors = [self.factors[id(t)].factor for t in known]
        if name in _PRODUCTS and len(known) == 1:
            if len(operands) == 1:
                return [factors[0] * next(a for a in (*args, *kwargs.values()) if not isinstance(a, Tensor))]
            other = operands[1] if operands[0] is known[0] else operands[0]
            return [factors[0] * other] if self._is_map(made[0]) else []
        if name in _SUMS and len(known) == 2 and known[0].shape == known[1].shape:
            return [factors[0] + factors[1]]
        memory = {t.untyped_storage().data_ptr() for t in known}
        is_rearranged = name in _COPIES or all(t.untyped_storage().data_ptr() in memory for t in made)
        if len(known) != len(operands) or not is_rearranged or name.endswith("_"):
            return []
        if len(known) == 1 and factors[0].numel() == 1:
            return [factors[0].reshape([1] * t.dim()) for t in made]
        stand_ins = {id(t): factor.expand(t.shape) for t, factor in zip(known, factors, strict=True)}
        return [*_tensors(func(*_replaced(args, stand_ins), **_replaced(kwargs, stand_ins)))]

    def _note(self, name: str, args: Any, kwargs: Any, operands: list[Tensor], made: list[Tensor]) -> None:
        """Note weights, points, squares and choices."""
        if name == "softmax":
            axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            if axis is not None and made[0].dim():
                self.events.append(Softmax(made[0].movedim(axis, -1), self.calls))
        elif name == "scaled_dot_product_attention":
            self._note_attention(args, kwargs)
        elif name == "grid_sample":
            align = kwargs.get("align_corners", args[4] if len(args) > 4 else False)
            grid = kwargs.get("grid", args[1] if len(args) > 1 else None)
            self.events.append(Sampled(grid.float(), operands[0].shape, bool(align)))
        elif name in _POOLS:
            kernel = kwargs.get("kernel_size", args[1] if len(args) > 1 else 1)
            kernel = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
            self.events.append(Pooled(operands[0].shape, (kernel * 2)[:2], made[0].shape))
        elif name == "topk":
            self.events.append(Chosen(made[-1]))

    def _note_attention(self, args: Any, kwargs: Any) -> None:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        q, k, v = (given[name] for name in names[:3])
        mask = given.get("attn_mask")
        if q.dim() != 4 or k.dim() != 4 or k.shape[1] != q.shape[1]:
            return
        if given.get("is_causal"):
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        scale = given.get("scale")
        self.events.append(Attention(q, k, v, mask, q.shape[-1] ** -0.5 if scale is None else scale))

    def _multi_head(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run ``nn.MultiheadAttention``, which does all in one call, and note the weights that it can return."""
        wanted = {**kwargs, "need_weights": True, "average_attn_weights": False}
        y, weights = func(*args, **wanted)
        self.calls += 1
        self.events.append(Softmax(weights if weights.dim() == 4 else weights[None], self.calls))
        self.features[id(y)] = y
        if not kwargs.get("need_weights", True):
            return y, None
        return y, weights.mean(-3) if kwargs.get("average_attn_weights", True) else weights


def _small(t: Tensor) -> Tensor:
    """Return a copy of a tensor without what ``expand`` repeats in it."""
    for axis, (length, stride) in enumerate(zip(t.shape, t.stride(), strict=True)):
        if length > 1 and stride == 0:
            t = t.narrow(axis, 0, 1)
    return t.clone()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)


def _replaced(value: Any, stand_ins: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return stand_ins.get(id(value), value)
    if isinstance(value, dict):
        return {key: _replaced(each, stand_ins) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(each, stand_ins) for each in value)
    return value
