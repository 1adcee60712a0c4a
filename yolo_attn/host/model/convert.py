"""``yolo-attn convert``: a checkpoint with pasted attention classes becomes one with ours, tensor for tensor."""

from __future__ import annotations

import copy
import datetime
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.nn import tasks

from ... import plugins, registry
from ...blocks import attention_of
from ...cache import replacing
from ...errors import CheckpointError, HostError, RowError, YoloAttnError
from ...table import Layer
from ..shells import Shell
from . import surgery
from .blocks import find_attention
from .convert_report import Row, Say, call_of, describe, say_end
from .old_checkpoint import Old, plain, read_old
from .ours import is_attention, kind_of
from .pasted import Match, Pasted, adopt, match
from .row_arguments import rows_of

_SHOWN = 12  # lines of a list
_MADE = {"yaml", "model", "save", "names", "stride", "training", "criterion"}  # of a model, made from its rows
_NORMS = ("eps", "momentum")  # settings that no tensor shows and that change the numbers


def convert(
    checkpoint: str | Path,
    output: str | Path,
    model: str | None = None,
    named: Mapping[str, str] | None = None,
    force: bool = False,
    say: Say = print,
) -> None:
    """Write a checkpoint whose pasted attention layers are ours, with every tensor of the old one, and say what it did.

    Args:
        checkpoint: A checkpoint of an edited Ultralytics, or a state dict. Nothing in it is run.
        output: File to write.
        model: Name or path of a model YAML with our rows; None builds the checkpoint's own rows with ours.
        named: Pasted class -> our layer, for classes that do not tell.
        force: Write over a file that is there.
        say: Takes one line.

    Raises:
        CheckpointError: If the checkpoint cannot be read, a layer is none of ours or could be several, or a tensor on
            either side has no counterpart. Nothing is written then.
        HostError: If the output cannot be written.
        UnknownLayerError: If ``named`` names a layer that is none.
    """
    _check_output(checkpoint, output, force)
    chosen = {cls: registry.find(name) for cls, name in (named or {}).items()}
    old = read_old(checkpoint)
    if model is None:
        config, rows = _own_rows(old, chosen)
        built = _build(old, config)
    else:
        built, scale = _given_rows(old, model)
        rows = _rows_of(old, built)
        if scale:
            say(f"{model}: scale {scale!r} fits the tensors")
    names = _carry(old, built)
    changed = _take_settings(old, built, names)
    describe(old, built, rows, say)
    for line in changed:
        say(line)
    try:
        with replacing(Path(output)) as draft:
            torch.save(_content(old, built), draft)
    except (OSError, RuntimeError) as error:  # torch's own for a folder that cannot be written to
        raise HostError(f"{output} cannot be written: {error}") from error
    say_end(old, built, output, say)


def _check_output(checkpoint: str | Path, output: str | Path, force: bool) -> None:
    if os.path.lexists(output):
        if Path(output).exists() and Path(checkpoint).exists() and Path(checkpoint).samefile(output):
            raise HostError(f"{output} is the old checkpoint itself; name another file with -o (nothing was written)")
        if Path(output).is_dir():
            raise HostError(f"{output} is a folder; name a file with -o (nothing was written)")
        if not force:
            raise HostError(f"{output} exists; name another file with -o, or --force (nothing was written)")
    if not Path(output).parent.is_dir():
        raise HostError(f"{Path(output).parent} is no folder; make it, or name another file with -o")
    if Path(output).suffix != ".pt":
        raise HostError(f"{output}: Ultralytics opens checkpoints whose name ends in .pt; name such a file with -o")


def _own_rows(old: Old, chosen: Mapping[str, Layer]) -> tuple[dict[str, Any], dict[int, Row]]:
    """Return the checkpoint's model dictionary with our rows in the place of pasted ones, and what they stand for."""
    if old.model is None:
        raise CheckpointError(
            f"{old.file} is a bare state dict, which does not say what its layers are: give the YAML of its model, "
            "with rows of yolo-attn, by --model my.yaml"
        )
    for _, part in old.model.modules():
        module, _, name = part.path.rpartition(".")
        if plugins.is_own(module) and not plugins.file_of(module):
            raise CheckpointError(f"{old.file}: {plugins.lost(module, name)}. Nothing was written")
    config = old.config
    foreign = {index: shell for index in range(len(rows_of(config))) if (shell := _pasted_part(old, index)) is not None}
    unused = chosen.keys() - {shell.class_name for shell in foreign.values()}
    if unused:
        there = ", ".join(sorted({shell.class_name for shell in foreign.values()})) or "none"
        raise CheckpointError(f"--as {min(unused)}=...: {old.file} has no pasted class of that name; it has: {there}")
    if not foreign:
        raise CheckpointError(
            f"{old.file} has no pasted class: all its layers are Ultralytics' or yolo-attn's, so there is nothing to "
            "convert (nothing was written)"
        )
    widths = _widths(old.file, config, foreign)
    found: dict[int, Match] = {}
    problems: dict[str, list[str]] = {}
    for index, shell in foreign.items():
        try:
            found[index] = _identify(old, config, index, shell, widths[index], chosen.get(shell.class_name))
        except CheckpointError as error:
            problems.setdefault(str(error), []).append(str(index))
    if problems:
        listed = "; ".join(f"row {', '.join(indices)}: {text}" for text, indices in problems.items())
        raise CheckpointError(f"{old.file}, {listed}. Nothing was written")
    rows = {}
    for index, it in found.items():
        rows_of(config)[index][2:] = [it.layer.name, [it.arguments] if it.arguments else []]
        rows[index] = Row(foreign[index].path, call_of(it.layer.name, it.arguments), it.proof, it.assumed)
    return config, rows


def _identify(old: Old, config: Mapping[str, Any], index: int, shell: Shell, width: int, chosen: Layer | None) -> Match:
    source, _, name, args = rows_of(config)[index]
    row = old.row(index)
    if row is not None and row is not shell and not _repeats(row, shell):
        raise CheckpointError(
            f"{row.path} holds {shell.path}, attention inside a block: write its row in a model YAML of yours, such as "
            "[-1, 3, C2f, [128, True, {attention: SE}]] for one in each bottleneck, and pass that with --model; "
            "tensors are then carried by name and shape"
        )
    if _is_of_host(shell):
        raise CheckpointError(
            f"{shell.path} is Ultralytics' own class, another function than yolo-attn's {shell.class_name}, which "
            "cannot take its weights. The installed Ultralytics runs it as it is"
        )
    if not isinstance(source, int):
        raise CheckpointError(f"{shell.path} reads several rows, {source}; a layer of yolo-attn reads one")
    return match(Pasted.of(shell, str(name), args, width), chosen)


def _repeats(row: Shell, shell: Shell) -> bool:
    """Return whether a row is a stack of one class."""
    kinds = {child.path for child in row.children().values()}
    return row.path == "torch.nn.modules.container.Sequential" and kinds == {shell.path}


def _pasted_part(old: Old, index: int) -> Shell | None:
    """Return the first module of a row whose class is neither Ultralytics' nor PyTorch's nor ours."""
    row = old.row(index)
    if row is None:
        return None
    parts = [*row.children().values()] if row.path.startswith("torch.nn.") else [row]
    for part in parts:  # a class of ours by name alone: Ultralytics' own CBAM
        if part.class_name in registry.names() and not part.path.startswith("yolo_attn."):
            return part
    return next((module for _, module in row.modules() if not _is_known(module)), None)


def _is_known(module: Shell) -> bool:
    return module.path.startswith(("torch.nn.", "torchvision.", "yolo_attn.")) or _is_of_host(module)


def _is_of_host(module: Shell) -> bool:
    """Return whether the installed Ultralytics has a class, under its path or where older ones had it."""
    if not module.path.startswith("ultralytics."):
        return False
    places = (module.path.rpartition(".")[0], "ultralytics.nn.modules", "ultralytics.nn.tasks")
    found = (getattr(sys.modules.get(place), module.class_name, None) for place in places)
    return any(str(getattr(cls, "__module__", "")).startswith("ultralytics.") for cls in found)


def _widths(file: Path, config: Mapping[str, Any], foreign: Mapping[int, Shell]) -> dict[int, int]:
    """Return the width that each pasted row reads: one layer of ours that takes any width stands in its place."""
    trial = copy.deepcopy(dict(config))
    for index in foreign:
        row = rows_of(trial)[index]
        if isinstance(row[0], int):
            row[1:] = [1, "SimAM", []]
        else:
            row[:] = [row[0][0], 1, "SimAM", []]
    with surgery.silence(), _building(file), torch.device("meta"):
        layers, _ = tasks.parse_model(trial, _channels(config), verbose=False)
    return {index: layers[index].channels for index in foreign}


def _build(old: Old, config: Mapping[str, Any]) -> Any:
    """Return the model of a dictionary in the class that the checkpoint names, or that its rows ask for."""
    name = old.model.class_name if old.model else ""
    cls = getattr(tasks, name, None)
    with surgery.silence(), _building(old.file):
        if isinstance(cls, type) and issubclass(cls, tasks.BaseModel):
            return cls(copy.deepcopy(dict(config)), ch=_channels(config), nc=config.get("nc"), verbose=False)
        return surgery.build(dict(config))


@contextmanager
def _building(file: Path) -> Iterator[None]:
    """Say which file it was whose model cannot be built."""
    try:
        yield
    except YoloAttnError:
        raise
    except Exception as error:  # rows of another version of the host raise anything
        raise CheckpointError(
            f"{file}: its model cannot be built by Ultralytics {ultralytics.__version__}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _given_rows(old: Old, model: str) -> tuple[Any, str]:
    """Return the model of a YAML at the scale and number of classes that fit, and the scale if it was searched for."""
    if Path(model).suffix not in (".yaml", ".yml"):
        raise RowError(f"--model {model}: give a model YAML")
    config = tasks.yaml_model_load(model)
    own = old.config
    for key in ("nc", "kpt_shape", "channels", "ch"):
        if own.get(key) is not None:
            config[key] = own[key]
    written = tasks.guess_model_scale(model) or own.get("scale")
    scales = [written] if written else [*(config.get("scales") or {"": None})]
    fitting = [{**config, "scale": scale} if scale else config for scale in scales]
    best = min(fitting, key=lambda trial: _distance(old, trial))
    if old.model is None:  # the width of the last row's tensors may be the number of classes
        last = f"model.{len(rows_of(config)) - 1}."
        sizes = {value.shape[0] for key, value in old.tensors.items() if key.startswith(last) and value.dim()}
        best = min([best, *({**best, "nc": nc} for nc in sorted(sizes))], key=lambda trial: _distance(old, trial))
    return _build(old, best), str(best["scale"]) if len(scales) > 1 else ""


def _distance(old: Old, config: Mapping[str, Any]) -> int:
    with surgery.silence(), torch.device("meta"):
        try:
            layers, _ = tasks.parse_model(copy.deepcopy(dict(config)), _channels(config), verbose=False)
        except YoloAttnError:
            raise
        except Exception:  # a number of classes that was tried
            return len(old.tensors) + 1
    own = {f"model.{key}": value.shape for key, value in layers.state_dict().items()}
    return sum(own.get(key) != value.shape for key, value in old.tensors.items())


def _rows_of(old: Old, built: Any) -> dict[int, Row]:
    """Return the attention rows of a model that the user gave."""
    found = {}
    for index, layer in enumerate(built.model):
        row, was = rows_of(built.yaml)[index], old.row(index)
        inside = attention_of(row) if find_attention(layer) else None
        if not inside and not is_attention(layer):
            continue
        name, arguments = inside or (kind_of(layer)[0], row[3])
        call = call_of(name, arguments[0] if arguments and isinstance(arguments[0], Mapping) else arguments)
        pasted = was.path if was else "unknown (a state dict)"
        found[index] = Row(pasted, f"{row[2]} with {call} inside" if inside else call, "--model, keys, shapes", {})
    return found


def _carry(old: Old, built: Any) -> dict[str, str]:
    """Load all tensors of the old model; return the old key of each new one.

    Raises:
        CheckpointError: If one has no counterpart or another shape.
    """
    state, names = dict(old.tensors), dict(zip(old.tensors, old.tensors, strict=True))
    _move_into_blocks(built, state, names)
    adopt(built, state, names)
    own = built.state_dict()
    wrong = [f"{key} {tuple(state[key].shape)}: not in the new model" for key in state.keys() - own.keys()]
    wrong += [f"{key} {tuple(own[key].shape)}: not in the checkpoint" for key in own.keys() - state.keys()]
    wrong += [
        f"{key}: {tuple(state[key].shape)} in the checkpoint, {tuple(own[key].shape)} in the new model"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if wrong:
        wrong.sort(key=lambda line: [(len(part), part) for part in line.split(".")])
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        listed = "\n  ".join([*wrong[:_SHOWN], *more])
        raise CheckpointError(
            f"{old.file}: {len(wrong)} tensors have no counterpart, so nothing was written:\n  {listed}\n"
            "A row that differs needs other arguments, or a block of its Ultralytics was edited: give a model YAML "
            "that has these tensors by --model"
        )
    floats = [value.dtype for value in state.values() if value.is_floating_point()]
    built.to(max(set(floats), key=floats.count) if floats else torch.float32)
    built.load_state_dict(state)
    return names


def _move_into_blocks(built: Any, state: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tensors of bottlenecks that had attention beside the last part of their branch: ours has it behind that.

    ``cv2`` becomes ``cv2.0``, and the only other part that the new model has not becomes ``cv2.1``.
    """
    own = built.state_dict().keys()
    for index, row in enumerate(built.model):
        for path in find_attention(row):
            branch = f"model.{index}.{path}."
            bottleneck = branch[:-1].rpartition(".")[0] + "."
            if any(key.startswith(branch) and key not in own for key in state):
                _rename(state, names, branch, f"{branch}0.")
            others = [key for key in state if key.startswith(bottleneck) and key not in own]
            parts = {key[len(bottleneck) :].partition(".")[0] for key in others}
            if len(parts) == 1:
                _rename(state, names, f"{bottleneck}{parts.pop()}.", f"{branch}1.")


def _rename(state: dict[str, Any], names: dict[str, str], old: str, new: str) -> None:
    for entries in (state, names):
        for key in [key for key in entries if key.startswith(old)]:
            entries[new + key[len(old) :]] = entries.pop(key)


def _take_settings(old: Old, built: Any, names: Mapping[str, str]) -> list[str]:
    """Give norms the settings of the old ones, which no tensor shows; say where a model built anew has others."""
    shells = dict(old.model.modules()) if old.model else {}
    said: dict[str, list[str]] = {}
    for path, module in built.named_modules():
        shell = shells.get(names.get(f"{path}.weight", "").rpartition(".")[0])
        for key in _NORMS:
            stored = vars(shell).get(key) if shell else None
            if isinstance(stored, float) and isinstance(own := getattr(module, key, None), float) and own != stored:
                setattr(module, key, stored)
                said.setdefault(f"{key}={stored:g}, where yolo-attn's has {own:g}", []).append(path)
    return [
        f"{', '.join(paths[:3])}{f' and {len(paths) - 3} more' if len(paths) > 3 else ''}: {text}. It is kept; a "
        "training that starts from the new file builds the model anew and takes the other"
        for text, paths in said.items()
    ]


def _content(old: Old, built: Any) -> dict[str, Any]:
    """Return what is saved: the host's form after a training, with the old one's data and without an optimizer."""
    content = {key: value for key, value in old.content.items() if value is not None}
    shell = vars(old.model) if old.model else {}
    names = plain(shell.get("names"))
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if isinstance(names, dict) and len(names) == len(built.names):
        built.names = names
    for key in vars(built).keys() - _MADE:  # such as the text features of a World model
        if (value := plain(shell.get(key))) is not None and not key.startswith("_"):
            setattr(built, key, value)
    arguments = content.get("train_args") or plain(shell.get("args")) or {}
    task = plain(shell.get("task")) or arguments.get("task") or tasks.guess_model_task(built)
    built.task, built.args = task, {**arguments, "task": task}
    for parameter in built.parameters():
        parameter.requires_grad = False
    dropped = dict.fromkeys(("ema", "optimizer", "scaler", "updates"))
    now = {"date": datetime.datetime.now().astimezone().isoformat(), "version": ultralytics.__version__}
    return {**now, **content, **dropped, "epoch": -1, "model": built.eval(), "train_args": built.args}


def _channels(config: Mapping[str, Any]) -> int:
    return int(config.get("channels") or config.get("ch") or 3)
