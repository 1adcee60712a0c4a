"""Attention inside a built block: at the end of the residual branch of each of its bottlenecks.

The last part of the branch becomes two: ``cv2`` becomes ``nn.Sequential(cv2, layer)``. Keys of the block without
attention are those with ``.0`` behind that part's name taken out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from ... import registry
from ...blocks import HOLDERS, KEY, attention_of
from ...errors import ArgumentError, RowError
from ...layers.gated import GAIN, Gated
from ...wiring import HEADS
from .row_arguments import Source, bind_row, literal, rows_of, tell_once

# Kinds of bottlenecks of the host and the last part of their residual branch. Kinds derived from them count.
_BRANCHES = {"Bottleneck": "cv2", "ResNetBlock": "cv3", "GhostBottleneck": "conv", "CIB": "cv1"}


def attend(d: Mapping[str, Any], i: int, block: nn.Module, args: list[Any]) -> tuple[nn.Module, list[Any]]:
    """Put the attention that row ``i`` asks for into its block, if it asks for any.

    Args:
        d: The model dictionary.
        i: Index of the row.
        block: What the host built for it, changed in place.
        args: The arguments it was built with.

    Returns:
        The block and the arguments as the host's table shall show them.

    Raises:
        RowError: If the block has no bottleneck, or the layer cannot be built.
    """
    row = rows_of(d)[i]
    inside = attention_of(row)
    if inside is None:
        return block, args
    place = f"{d.get('yaml_file') or 'model'}, row {i}"
    branches = find_branches(block)
    if not branches:
        where = "after each row that it reads" if row[2] in HEADS else "after it"
        raise RowError(
            f"{place}: {row[2]} has no bottleneck inside for {{{KEY}: {inside[0]}}}; write a row of its own {where}: "
            f"[-1, 1, {inside[0]}, []]. Blocks that have bottlenecks: {', '.join(HOLDERS)}"
        )
    layer = registry.find(inside[0])
    for parent, name in branches.values():
        branch = getattr(parent, name)
        width = _width(branch)
        try:
            source = Source(width, None, str(d.get("scale") or ""), bool(d.get("scales")), is_inside=True)
            bound, gate, said = bind_row(layer, inside[0], [*map(literal, inside[1])], source)
            out = getattr(layer.load(), "out_channels", None)
            if out and out(*bound) != width:
                raise RowError(
                    f"{layer.name} turns {width} channels into {out(*bound)} and cannot stand inside a block"
                )
            inner = Gated(layer.name, *bound) if gate else layer.load()(*bound)
        except (ArgumentError, RowError, ValueError) as error:
            raise RowError(f"{place}: {row[2]} with {inside[0]} inside, {width} channels wide: {error}") from error
        tell_once(d, i, said)
        setattr(parent, name, nn.Sequential(branch, inner))
    return block, [*args, {KEY: row[3][-1][KEY]}]


def find_branches(block: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return, by its path in the block, the last part of each bottleneck's residual branch: its parent and name."""
    return {
        f"{path}.{name}".lstrip("."): (module, name)
        for path, module in block.named_modules()
        for kind, name in _BRANCHES.items()
        if any(base.__name__ == kind for base in type(module).__mro__) and hasattr(module, name)
    }


def find_attention(block: nn.Module) -> dict[str, nn.Module]:
    """Return the attention layers inside a block, gated or not, by the path of the part that they follow."""
    found = {}
    for path, (parent, name) in find_branches(block).items():
        part = getattr(parent, name)
        if type(part) is nn.Sequential and len(part) == 2 and is_layer(part[1]):
            found[path] = part[1]
    return found


def is_layer(module: nn.Module) -> bool:
    """Return whether a module is an attention layer of ours, gated or not."""
    return isinstance(module, Gated) or registry.is_layer(type(module))


def ungated(layer: nn.Module) -> nn.Module:
    """Return a layer without its gate."""
    return layer.layer if isinstance(layer, Gated) else layer


def replace_attention(block: nn.Module, path: str, layer: nn.Module) -> None:
    """Put another layer in the place of the one that follows the part at ``path``."""
    parent, name = find_branches(block)[path]
    setattr(parent, name, nn.Sequential(getattr(parent, name)[0], layer))


def plain_state(block: nn.Module, inside: bool = True) -> dict[str, Any]:
    """Return the state of a block under the keys that it has without attention, and that of the attention in it.

    The attention's keys have its class in them, and none of its gate; they are left out without ``inside``.
    """
    attention = find_attention(block)
    state = {}
    for key, value in block.state_dict().items():
        path = next((path for path in attention if key.startswith((f"{path}.0.", f"{path}.1."))), None)
        if path is None:
            state[key] = value
        elif key.startswith(f"{path}.0."):
            state[path + key[len(path) + 2 :]] = value
    for path, layer in attention.items() if inside else ():
        inner = ungated(layer)
        state.update({f"{path}.{type(inner).__name__}.{key}": value for key, value in inner.state_dict().items()})
    return state


def is_same_kind(one: nn.Module | None, other: nn.Module | None) -> bool:
    """Return whether two layers have one class and tensors of the same names and shapes, whatever their gates."""
    if one is None or other is None:
        return False
    shapes = [{k: v.shape for k, v in ungated(layer).state_dict().items()} for layer in (one, other)]
    return type(ungated(one)) is type(ungated(other)) and shapes[0] == shapes[1]


def with_gate_of(layer: nn.Module, other: nn.Module) -> nn.Module:
    """Return an attention layer with a gate if another has one and without if not; a new gate is fully open."""
    if isinstance(other, Gated) and not isinstance(layer, Gated):
        layer = Gated(layer)
        nn.init.constant_(layer.gate, 1 / GAIN)
    return layer if isinstance(other, Gated) else ungated(layer)


def like(block: nn.Module, other: nn.Module) -> nn.Module:
    """Return a view of a block with attention at the places where another has it, so that the keys are those.

    Layers that the other has not, or has as another kind, are left out. Tensors are shared.
    """
    own, theirs = find_attention(block), find_attention(other)
    if not own and not theirs:
        return block
    view = _shallow(block)
    for path, (parent, name) in find_branches(view).items():
        bare = getattr(parent, name)[0] if path in own else getattr(parent, name)
        if path not in theirs:
            setattr(parent, name, bare)
        elif path in own and type(ungated(own[path])) is type(ungated(theirs[path])):
            setattr(parent, name, nn.Sequential(bare, with_gate_of(own[path], theirs[path])))
        else:
            setattr(parent, name, nn.Sequential(bare))
    return view


def _shallow(module: nn.Module) -> nn.Module:
    """Return a copy of a module and of those in it that shares their tensors."""
    view = copy.copy(module)
    view._modules = {name: child and _shallow(child) for name, child in module._modules.items()}
    return view


def _width(branch: nn.Module) -> int:
    """Return the number of channels that the last part of a branch gives."""
    last = list(branch)[-1] if isinstance(branch, nn.Sequential) else branch
    convolutions = [module for module in last.modules() if isinstance(module, nn.Conv2d)]
    halves = 2 if type(last).__name__ == "GhostConv" else 1  # it gives its convolution's map and a copy
    return convolutions[-1].out_channels * halves
