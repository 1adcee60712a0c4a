"""Which of our layers a pasted one is, and with which arguments: told by its name, keys, shapes and stored settings.

Nothing of it is run. Arguments are tried until a layer of ours has the same tensors; what its class kept as attributes,
and what its row says, goes first.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ... import registry
from ...errors import CheckpointError, YoloAttnError
from ...layers._keys import RenamesKeys, shape_values
from ...table import Layer
from ..shells import Shell
from .row_arguments import Source, hold, read

# What listings call a layer whose name means another one in a row.
_LISTED = {"attention": "MHSA", "globalcontext": "GC"}
# What other classes call an argument of ours.
_KEPT_AS = {
    "num_heads": ("n_heads", "heads", "nhead", "head_num", "num_head"),
    "head_num": ("num_heads", "heads"),
    "n_heads": ("num_heads", "heads"),
    "kernel_size": ("k_size", "k"),
    "kernels": ("kernel_sizes",),
    "groups": ("G",),
    "factor": ("groups",),
    "e_lambda": ("lambda_", "lamda"),
    "qk_scale": ("scale",),
    "qk_dim": (),
}
_WORDS: dict[str, tuple[Any, ...]] = {
    "combine": ("sum", "product"),
    "down_sample_mode": ("avg_pool", "max_pool"),
    "fusion_types": (["channel_add"], ["channel_mul"], ["channel_add", "channel_mul"]),
    "gate_layer": ("sigmoid", "softmax"),
    "kv_downsample_mode": ("identity", "ada_avgpool", "ada_maxpool", "avgpool", "maxpool"),
    "lepe_on": ("x", "v"),
    "param_attention": ("qkvo", "qkv"),
    "pool": ("floor", "ceil"),
    "pooling_type": ("att", "avg"),
}
# Settings of a module that its tensors do not show; those of ours must agree.
_SETTINGS = ("dilation", "groups", "num_groups", "stride")
_ROUNDS = 6
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Pasted:
    """A layer of a checkpoint: the class it names, what its row says, the width it reads."""

    shell: Shell
    name: str
    args: Sequence[Any]
    width: int
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, shell: Shell, name: str, args: Any, width: int) -> Pasted:
        """Return the layer of a row called ``name``."""
        args = [args] if isinstance(args, Mapping) else list(args) if isinstance(args, (list, tuple)) else []
        return cls(shell, name, args, width, shell.tensors())

    def attributes(self) -> dict[str, Any]:
        """Return what it and the modules in it keep besides tensors, the outer ones first."""
        found: dict[str, Any] = {}
        for path, module in self.shell.modules():
            name = path.rpartition(".")[2]
            if module.path.startswith("torch.nn.modules.dropout."):
                found.setdefault(name, vars(module).get("p"))
            if module.path.startswith("torch.nn."):
                continue
            for key, value in vars(module).items():
                if not key.startswith("_") and key != "training" and _is_plain(value):
                    found.setdefault(key, value)
        return found


@dataclass(frozen=True)
class Match:
    """A layer of ours with the tensors of a pasted one.

    Attributes:
        layer: Row of our table.
        arguments: Its arguments that are not the defaults.
        proof: What speaks for it.
        assumed: Arguments at their defaults that change what it computes and leave no trace in the checkpoint.
    """

    layer: Layer
    arguments: dict[str, Any]
    proof: str
    assumed: dict[str, Any]


def match(pasted: Pasted, chosen: Layer | None = None) -> Match:
    """Return the layer of ours that a pasted one is.

    Args:
        pasted: The pasted layer.
        chosen: What the user says it is.

    Raises:
        CheckpointError: If none fits, or several do; it lists them.
    """
    told = "--as" if chosen else "name"
    named = chosen or _by_name(pasted.shell.class_name) or _by_name(pasted.name)
    if named:
        arguments = fit(named, pasted)
        if arguments is not None:
            return Match(named, arguments, f"{told}, {_shown(pasted)}", _assumed(named, arguments, pasted))
    others = {}
    if pasted.tensors and not chosen:
        for layer in registry.layers():
            if layer is not named and _shares_keys(layer, pasted):
                arguments = fit(layer, pasted)
                if arguments is not None:
                    others[layer.name] = (layer, arguments)
    if len(others) == 1 and not named:
        ((layer, arguments),) = others.values()
        return Match(layer, arguments, _shown(pasted), _assumed(layer, arguments, pasted))
    raise CheckpointError(_refusal(pasted, named, [*others]))


def fit(layer: Layer, pasted: Pasted) -> dict[str, Any] | None:
    """Return the arguments with which a layer has the tensors and settings of a pasted one, or None."""
    parameters = {p.name: p for p in layer.parameters()}
    arguments, worst = _begin(layer, pasted, parameters)
    for _ in range(_ROUNDS):
        if worst == 0:
            break
        tried = {
            (name, number): (count, value)
            for name, p in parameters.items()
            for number, value in enumerate(_values(p, pasted))
            if (count := misfits(layer, pasted, {**arguments, name: value})) is not None
        }
        best = min(tried, key=lambda key: tried[key][0], default=None)
        if best is None or (worst is not None and tried[best][0] >= worst):
            return None
        worst, arguments[best[0]] = tried[best]
    if worst != 0:
        return None
    for name, p in parameters.items():
        fewer = {key: value for key, value in arguments.items() if key != name}
        if name in arguments and misfits(layer, pasted, fewer) == 0:
            is_default = _listed(arguments[name]) == _listed(p.default)
            if is_default or (p.default is None and _is_same(layer, pasted.width, arguments, fewer)):
                arguments = fewer
    return arguments


def _begin(
    layer: Layer, pasted: Pasted, parameters: Mapping[str, inspect.Parameter]
) -> tuple[dict[str, Any], int | None]:
    """Return the arguments that the class kept and the row gives, as far as they bring it nearer, and what misfits."""
    told = {**dict(_written(layer, pasted)), **dict(_stored(parameters, pasted))}
    for left_out in (None, *told):  # some hold only together
        arguments = {key: value for key, value in told.items() if key != left_out}
        if misfits(layer, pasted, arguments) == 0:
            return arguments, 0
    arguments = {}
    worst = misfits(layer, pasted, arguments)
    for name, value in told.items():
        count = misfits(layer, pasted, {**arguments, name: value})
        if count is not None and (worst is None or count <= worst):
            arguments[name], worst = value, count
    return arguments, worst


def misfits(layer: Layer, pasted: Pasted, arguments: Mapping[str, Any]) -> int | None:
    """Return how many tensors and settings differ between a pasted layer and ours, or None if ours cannot be built."""
    try:
        with torch.device("meta"):
            module = build(layer, pasted.width, arguments)
    except Exception:  # arguments that were tried, or a layer of the user's
        return None
    own, theirs = module.state_dict(), dict(pasted.tensors)
    names = dict(zip(theirs, theirs, strict=True))
    adopt(module, theirs, names)
    wrong = len(own.keys() ^ theirs.keys())
    wrong += sum(own[key].shape != theirs[key].shape for key in own.keys() & theirs.keys())
    shells = dict(pasted.shell.modules())
    for path, part in module.named_modules():
        shell = shells.get(names.get(f"{path}.weight", "").rpartition(".")[0])
        stored = vars(shell) if shell else {}
        wrong += sum(
            key in stored and hasattr(part, key) and stored[key] != getattr(part, key)
            for key in _SETTINGS
            if path and not isinstance(part, nn.Linear)
        )
    return wrong


def build(layer: Layer, width: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a layer of ours; what its constructor warns of is for those who write a row."""
    bound = registry.bind(layer.name, width, (), arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layer.load()(*bound).eval()


def adopt(module: nn.Module, state: dict[str, Any], names: dict[str, str] | None = None) -> None:
    """Give the entries of another version's state the names and shapes of the layers in ``module``.

    Args:
        module: A layer of ours, or a model with some.
        state: Tensors by key; changed in place.
        names: Their keys by key, changed along.
    """
    for path, part in module.named_modules():
        if isinstance(part, RenamesKeys):
            prefix = f"{path}." if path else ""
            for entries in (state, *([] if names is None else [names])):
                part.rename_keys(entries, prefix)
    shape_values(state, "", module)


def _by_name(name: str) -> Layer | None:
    folded = {_fold(known): layer for known, layer in registry.names().items()}
    word = _fold(name)
    return registry.names().get(name) or folded.get(word) or folded.get(_fold(_LISTED.get(word, "")))


def _fold(name: str) -> str:
    return name.lower().replace("_", "")


def _stored(parameters: Mapping[str, Any], pasted: Pasted) -> Iterator[tuple[str, Any]]:
    """Yield arguments that the pasted class kept as attributes."""
    kept = pasted.attributes()
    for name in parameters:
        for key in (name, *_KEPT_AS.get(name, ())):
            if key in kept:
                yield name, kept[key]
                break
        sides = [f"{name.removesuffix('_size')}_{side}" for side in "hw"]  # q_size is kept as q_h and q_w
        if name.endswith("_size") and name not in kept and all(side in kept for side in sides):
            yield name, [kept[side] for side in sides]


def _written(layer: Layer, pasted: Pasted) -> Iterator[tuple[str, Any]]:
    """Yield arguments that the row gives, if it can be read as one of ours."""
    first = next(iter(pasted.args), None)
    written = first if isinstance(first, int) and not isinstance(first, bool) and first >= pasted.width else None
    try:
        positional, keywords, _ = read(layer, layer.name, hold(pasted.args), Source(pasted.width, written, "", False))
    except (YoloAttnError, TypeError, ValueError):
        return
    yield from zip(layer.arguments, positional, strict=False)
    yield from keywords.items()


def _values(parameter: inspect.Parameter, pasted: Pasted) -> list[Any]:
    """Return what to try for an argument: numbers that the shapes show."""
    default = parameter.default
    if parameter.name in _WORDS:
        return [value for value in _WORDS[parameter.name] if value != default]
    if isinstance(default, bool):
        return [not default]
    dims = sorted({size for tensor in pasted.tensors.values() for size in tensor.shape if size})
    if isinstance(default, (list, tuple)):
        ends = [[t.shape[-1] for t in pasted.tensors.values() if t.dim() == axes] for axes in (3, 4)]
        kernels = [*ends, *([size for size in sizes if size > 1] for sizes in ends)]
        return [list(sizes) for sizes in dict.fromkeys(map(tuple, kernels)) if sizes]
    if isinstance(default, float):
        return [ratio for size in dims for ratio in (size / pasted.width, (size + 0.5) / pasted.width) if ratio <= 1]
    if isinstance(default, str):
        return []
    numbers = {*range(1, 65), *dims, *(pasted.width // size for size in dims), *(size // 2 for size in dims)}
    return sorted(number for number in numbers if number)


def _assumed(layer: Layer, arguments: Mapping[str, Any], pasted: Pasted) -> dict[str, Any]:
    """Return the arguments that the checkpoint does not show and that change what the layer computes."""
    shown = {name for name, _ in [*_stored({p.name: p for p in layer.parameters()}, pasted), *_written(layer, pasted)]}
    found = {}
    for parameter in layer.parameters():
        name, default = parameter.name, parameter.default
        if name in arguments or name in shown or layer.registered is not None:
            continue
        others = [
            value for value in _alternatives(parameter) if misfits(layer, pasted, {**arguments, name: value}) == 0
        ]
        if any(not _is_same(layer, pasted.width, arguments, {**arguments, name: value}) for value in others[:2]):
            found[name] = default
    return found


def _alternatives(parameter: inspect.Parameter) -> list[Any]:
    default = parameter.default
    if parameter.name in _WORDS:
        return [value for value in _WORDS[parameter.name] if value != default]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, float):
        return [default * 10, default / 2] if default else [0.5]
    if isinstance(default, int):
        return [default * 2, default + 1, default // 2]
    return [0.5, 3] if default is None else []


def _is_same(layer: Layer, width: int, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two sets of arguments make one function, as far as a random map and random weights show."""
    for seed in range(3):
        x = torch.randn(2, width, 15, 22, generator=torch.Generator().manual_seed(seed))
        results: list[torch.Tensor] = []
        for arguments in (one, other):
            generator = torch.Generator().manual_seed(seed)
            module = build(layer, width, arguments)
            try:
                with torch.no_grad():
                    for p in module.parameters():
                        p.normal_(std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.5, generator=generator)
                    results.append(module(x))
            except Exception:  # one that refuses this map
                return False
        if results[0].shape != results[1].shape or not torch.allclose(results[0], results[1], rtol=1e-4, atol=1e-6):
            return False
    return True


def _shares_keys(layer: Layer, pasted: Pasted) -> bool:
    """Return whether a layer at its defaults has so many of the keys that others of its arguments may give them all."""
    try:
        with torch.device("meta"):
            module = build(layer, pasted.width, {})
    except Exception:  # a width that needs other arguments, or a layer of the user's
        return True
    theirs = dict(pasted.tensors)
    adopt(module, theirs)
    own = module.state_dict().keys()
    return 8 * len(own & theirs.keys()) >= len(own | theirs.keys())


def _shown(pasted: Pasted) -> str:
    return "keys, shapes" if pasted.tensors else "no tensors"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _refusal(pasted: Pasted, named: Layer | None, others: Sequence[str]) -> str:
    name = pasted.shell.class_name
    listed = [f"{key} {tuple(value.shape)}" for key, value in pasted.tensors.items()]
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    what = f"{pasted.shell.path} ({', '.join(listed[:8]) or 'no tensors'}{more})"
    if others:
        ways = " or ".join(f"--as {name}={other}" for other in others)
        but = f" has not the tensors of {named.name}, whose name it has, but" if named else ""
        return f"{what}{but} fits {', '.join(others)}: say which it is, {ways}"
    if not pasted.tensors and not named:
        return f"{what} has nothing to tell it by: if it is a layer of yolo-attn, say which, such as --as {name}=SimAM"
    held = {module.class_name for _, module in pasted.shell.modules() if module.path.startswith("ultralytics.nn.")}
    if re.search(r"Bottleneck|C2f|C3|Block", " ".join(held)) or re.match(r"(C2f|C3|C2PSA|A2C2f|SPPF)\w*_", name):
        return (
            f"{what} is a block with attention inside, not a layer: write its row in a model YAML of yours, the block "
            "of Ultralytics and the attention, and pass it with --model; tensors are then carried by name and shape"
        )
    newer = "update Ultralytics if it is of a newer one; or " if pasted.shell.path.startswith("ultralytics.") else ""
    meant = f"has not the tensors of {named.name}" if named else "fits no layer of yolo-attn"
    own = f"My{name}" if name in registry.names() else name
    answer = "" if own == name else f", and convert with --as {name}={own}"
    return (
        f"{what} {meant} at width {pasted.width}: {newer}put its class, as {own}, into a file such as layers.py, set "
        f"YOLO_ATTN_LAYERS=layers.py:{own} here and wherever you use the new file{answer}"
    )
