"""The points of the contract: each tries a layer in one way and says what holds, or how to mend what does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import registry
from ..errors import ContractError
from ..table import Layer
from .checks import (
    TAKEN_TEXT,
    check_attributes,
    check_copies,
    check_map,
    check_unchanged,
    distance,
    features,
    line,
    onnx_distances,
    open_gates,
)

WIDTHS = (8, 16, 24, 32, 48, 64, 80, 128, 256)
RARE = frozenset((8, 24))  # no row of a model by name has them; inside its blocks they occur
SIZES = ((9, 13), (16, 12), (1, 1), (1, 7), (5, 1), (8, 40))
_NOISE = 1e-4  # of float32, summed in another order; relative to the whole map
_HALF = {torch.float16: 2e-2, torch.bfloat16: 1e-1}  # a few roundings: eps is 1e-3 and 8e-3


class Untried(Exception):
    """This machine cannot tell."""


class Note(Exception):
    """It does not hold, and many can live without."""


@dataclass(frozen=True)
class Case:
    """A layer under examination; ``build`` makes one of a width, ``width_of`` says what it returns for one."""

    build: Callable[[int], nn.Module]
    width_of: Callable[[int], int]

    def opened(self, width: int = 32, seed: int = 0) -> nn.Module:
        """Return a layer that hides nothing behind a closed gate."""
        torch.manual_seed(seed)
        return open_gates(self.build(width))

    def map_of(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return what a layer makes of a map, checked."""
        y = module(x)
        check_map(y, x, self.width_of(x.shape[1]))
        return y


Check = Callable[[Case], str]


def constructor(case: Case, layer: Layer) -> str:
    """Build a layer and say how its arguments go."""
    module = case.build(32)
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ContractError(f"{name} is made by the first map; make all parameters in __init__, for the optimizer")
    usage = registry.usage_of(layer.parameters())
    return f"the width first{f', then {usage}' if usage else ''}"


def _map(case: Case) -> str:
    module = case.build(32).eval()
    before = set(module.state_dict())
    case.map_of(module, features(2, 32, *SIZES[0]))
    late = sorted(set(module.state_dict()) - before)
    if late:
        raise ContractError(f"{late[0]} is made by the first map; make all parameters in __init__, for the optimizer")
    return f"32 channels give {case.width_of(32)}"


def _attributes(case: Case) -> str:
    check_attributes(case.opened())
    return f"{TAKEN_TEXT} are free for Ultralytics"


def _widths(case: Case) -> str:
    wrong: dict[int, str] = {}
    for width in WIDTHS:
        try:
            module = case.opened(width).eval()
            empty = next((name for name, p in module.named_parameters() if not p.numel()), "")
            if empty:
                raise ContractError(f"{empty} is empty")
            case.map_of(module, features(1, width, *SIZES[0]))
        except Exception as error:
            wrong[width] = line(error)
    right = " ".join(str(width) for width in WIDTHS if width not in wrong)
    if not wrong:
        return right
    (first, why), *_ = wrong.items()
    said = f"{' '.join(map(str, wrong))} do not work ({first}: {why}); max(1, channels // 16) helps where a share is 0"
    if set(wrong) <= RARE:
        raise Note(f"{right}; {said}")
    raise ContractError(f"{said}. Right: {right or 'none'}")


def _sizes(case: Case) -> str:
    module = case.opened()
    for size in SIZES:
        for train in (True, False):
            try:
                case.map_of(module.train(train), features(2, 32, *size))
            except Exception as error:
                mode = "train" if train else "eval"
                raise type(error)(f"a map of {size[0]}x{size[1]}, {mode} mode: {line(error)}") from error
    return " ".join(f"{h}x{w}" for h, w in SIZES)


def _batch_of_one(case: Case) -> str:
    case.map_of(case.opened().train(), features(1, 32, *SIZES[0]))
    return "one image in train mode"


def _input(case: Case) -> str:
    for train in (True, False):
        x = features(2, 32, *SIZES[0])
        before = x.clone()
        case.opened().train(train)(x)
        check_unchanged(x, before)
    return "forward leaves it as it is"


def _repeats(case: Case) -> str:
    module = case.opened().eval()
    small, large = features(3, 32, *SIZES[0]), features(1, 32, *SIZES[1])
    with torch.no_grad():
        first = module(small)
        module(large)
        if not torch.equal(module(small), first):
            raise ContractError("two calls on one map differ in eval mode; what is random must obey self.training")
        if distance(module(small[1:2]), first[1:2]) > _NOISE:
            raise ContractError("an image alone gives another map than in a batch; do not mix the batch in eval mode")
    return "the same map gives the same, alone or in a batch"


def _gradients(case: Case) -> str:
    torch.manual_seed(0)
    module = case.build(128).train()
    start = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1) if start else None
    x = features(4, 128, *SIZES[0]).requires_grad_()
    for _ in range(2):
        x.grad = None
        y = module(x)
        (y * features(*y.shape, seed=2)).sum().backward()
        if x.grad is None or not torch.isfinite(x.grad).all():
            raise ContractError(f"the gradient of the input is {'missing' if x.grad is None else 'not finite'}")
        for name, p in module.named_parameters():
            if p.requires_grad and p.grad is None:
                raise ContractError(f"{name} takes no part in the output, so it gets no gradient; use or delete it")
            if p.grad is not None and not torch.isfinite(p.grad).all():
                raise ContractError(f"the gradient of {name} is not finite")
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
    still = [name for name, p in module.named_parameters() if name in start and torch.equal(p, start[name])]
    if still:
        raise Note(f"finite, but {', '.join(still)} did not move in two steps: zero by algebra, or behind a zero?")
    return f"finite; all {len(start)} parameters move"


def _copies(case: Case) -> str:
    check_copies(case.opened().eval(), case.opened(seed=9).eval(), features(2, 32, *SIZES[0]))
    return "deepcopy, pickle and state_dict compute the same"


def _half(dtype: torch.dtype) -> Check:
    def check(case: Case) -> str:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        half = case.opened().eval().to(device, dtype)
        full = copy.deepcopy(half).float()
        x = features(2, 32, *SIZES[0]).to(device, dtype)
        with torch.no_grad():
            try:
                y = case.map_of(half, x.clone())
            except (RuntimeError, NotImplementedError) as error:
                if device == "cpu" and "not implemented for" in str(error):
                    raise Untried(f"this CPU lacks an operation in it: {line(error)}") from error
                raise
            found = distance(y, full(x.float()))
        if found > _HALF[dtype]:
            raise ContractError(f"far from float32 ({found:.0e}); compute sums and softmax in x.float() and go back")
        return f"{found:.0e} from float32"

    return check


def _mixed(case: Case) -> str:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = case.opened().train().to(device)
    x = features(2, 32, *SIZES[0]).to(device).requires_grad_()
    with torch.autocast(device, torch.bfloat16 if device == "cpu" else torch.float16):
        y = module(x)
    y.float().mean().backward()
    for name, p in module.named_parameters():
        if p.grad is not None and not torch.isfinite(p.grad).all():
            raise ContractError(f"the gradient of {name} is not finite")
    return "trains under autocast"


def _channels_last(case: Case) -> str:
    module = case.opened().eval()
    x = features(2, 32, *SIZES[1])
    with torch.no_grad():
        expected = module(x.clone())
        y = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    if distance(y, expected) > _NOISE:
        raise ContractError("another memory layout gives another map")
    return "the same in this memory layout"


def _onnx(case: Case) -> str:
    maps = (features(1, 32, *SIZES[0]), features(2, 32, *SIZES[1]), features(1, 32, 20, 20))
    try:
        found = max(onnx_distances(case.opened().eval(), *maps))
    except ImportError as error:
        raise Untried(f"{error}: pip install onnx onnxruntime") from error
    except Exception as error:
        raise Note(f"it cannot be exported: {line(error)}") from error
    if found > _NOISE:
        raise Note(f"other sizes than the exported one are wrong ({found:.0e}); no Python numbers of x.shape in it")
    return f"with dynamic axes, {found:.0e} from PyTorch"


def _program(case: Case) -> str:
    module, x = case.opened().eval(), features(2, 32, *SIZES[1])
    sizes = {axis: torch.export.Dim(name, max=4096) for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    try:
        torch.export.export(module, (x,), dynamic_shapes=(sizes,))
        return "with dynamic sizes"
    except Exception as error:
        dynamic = line(error)
    try:
        torch.export.export(module, (x,))
    except Exception as error:
        raise Note(f"it cannot be exported: {line(error)}") from error
    raise Note(f"at one size only: {dynamic}")


# What each point tries, and what to do about an error in it.
POINTS: dict[str, tuple[Check, str]] = {
    "map": (_map, "Rows see maps of any size, on any device"),
    "attributes": (_attributes, ""),
    "widths": (_widths, ""),
    "map sizes": (_sizes, "Rows see maps of any size; pad and crop, or pool adaptively"),
    "batch 1": (_batch_of_one, "The last batch may have one image; after global pooling use GroupNorm, not BatchNorm"),
    "input": (_input, ""),
    "eval mode": (_repeats, ""),
    "gradients": (_gradients, "Nothing in place, and no detach() or .data on the way"),
    "copies": (_copies, "Keep no lambdas, generators or tensors with a history on the layer"),
    "fp16": (_half(torch.float16), "Make new tensors with dtype=x.dtype, device=x.device"),
    "bf16": (_half(torch.bfloat16), "Make new tensors with dtype=x.dtype, device=x.device"),
    "autocast": (_mixed, "Cast what autocast keeps in float32: softmax(...).to(x.dtype)"),
    "channels_last": (_channels_last, "Write reshape for view, or x.contiguous() before it"),
    "onnx": (_onnx, ""),
    "torch.export": (_program, ""),
}
# Nothing can be said of the points behind these, or of those that compare two maps, where they fail.
ESSENTIAL = frozenset(("map",))
REPEATABLE = "eval mode"
COMPARING = frozenset(("copies", "fp16", "bf16", "channels_last", "onnx"))
