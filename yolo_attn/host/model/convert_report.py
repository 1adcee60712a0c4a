"""What ``yolo-attn convert`` says of what it did: row by row, then what was assumed, and what is not proven."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .old_checkpoint import Old

Say = Callable[[str], object]


@dataclass(frozen=True)
class Row:
    """A row of the new model that stands for a pasted one."""

    pasted: str
    ours: str
    proof: str
    assumed: Mapping[str, Any]


def describe(old: Old, built: Any, rows: Mapping[int, Row], say: Say) -> None:
    """Say what each pasted row became and how that was told, and what was assumed."""
    lines = [("row", "in the checkpoint", "now", "tensors", "told by")]
    for index, row in rows.items():
        count = len(built.model[index].state_dict())
        lines.append((str(index), row.pasted, row.ours, str(count), row.proof))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    say(f"{old.file}:")
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    assumed = {f"{row.ours.partition('(')[0]}: {_given(row.assumed)}" for row in rows.values() if row.assumed}
    for text in sorted(assumed):
        say(f"assumed, for nothing in the checkpoint shows it: {text}")


def say_end(old: Old, built: Any, output: str | Path, say: Say) -> None:
    """Say that all tensors arrived, what did not come along, and what nobody has proven."""
    total = len(built.state_dict())
    say(f"{total} of {total} tensors carried, names and shapes equal, none left over")
    if old.model is not None:
        say("not carried: the state of the optimizer. The new file starts a new training (pretrained=), resumes none")
    metrics = old.content.get("train_metrics")
    known = {key: value for key, value in (metrics or {}).items() if "mAP50-95" in str(key)}
    then = f" and compare with what the old file says: {_given(known)}" if known else " and compare with what you know"
    say(
        f"wrote {output}. Not proven: that the pasted classes computed what these layers compute, for their code is "
        f"not in the file. Run yolo val model={output} data=<your data>{then}"
    )


def call_of(name: str, arguments: Any) -> str:
    """Return a layer and its arguments, those of a row or by keyword, as a call."""
    given = _given(arguments) if isinstance(arguments, Mapping) else ", ".join(map(str, arguments))
    return f"{name}({given})"


def _given(arguments: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in arguments.items()
    )
