"""Goes through the contract for one layer, and prints what was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .. import registry
from ..errors import ArgumentError, ContractError
from ..table import Layer
from .checks import line
from .points import COMPARING, ESSENTIAL, POINTS, REPEATABLE, Case, Check, Note, Untried, constructor

HOLDS, FAILS, NOTE, UNTRIED = "holds", "FAILS", "note", "not tried"


@dataclass(frozen=True)
class Finding:
    """One point of the contract: ``verdict`` is ``holds``, ``FAILS``, ``note`` (it need not hold) or ``not tried``."""

    verdict: str
    point: str
    said: str


def examine(layer: Layer, args: Sequence[Any] = ()) -> Iterator[Finding]:
    """Go through the contract for one layer.

    Args:
        layer: Its row, of the table or of a user's own layer.
        args: Arguments of a YAML row; one mapping of keywords may be the last.

    Yields:
        What was found, point by point. Nothing follows on a layer that cannot be built or run.
    """
    try:
        cls = layer.load()
        keywords = dict(args[-1]) if args and isinstance(args[-1], dict) else {}
        positional = args[:-1] if keywords else args

        def bound(width: int) -> list[Any]:
            return registry.bind_to(layer, width, positional, keywords)

        out = getattr(cls, "out_channels", None)
        case = Case(lambda width: cls(*bound(width)), lambda width: out(*bound(width)) if out else width)
        yield Finding(HOLDS, "constructor", constructor(case, layer))
    except Exception as error:
        needs = " (--args '[8]' gives it 8)" if isinstance(error, ArgumentError) and " needs " in str(error) else ""
        yield Finding(FAILS, "constructor", line(error) + needs)
        return
    is_repeatable = True
    for point, (check, mend) in POINTS.items():
        if point in COMPARING and not is_repeatable:
            yield Finding(UNTRIED, point, f"two maps cannot be compared before '{REPEATABLE}' holds")
            continue
        finding = _find(point, check, mend, case)
        yield finding
        is_repeatable &= point != REPEATABLE or finding.verdict == HOLDS
        if point in ESSENTIAL and finding.verdict == FAILS:
            return


def report(layer: Layer, args: Sequence[Any] = (), say: Callable[[str], object] = print) -> bool:
    """Print what holds of the contract and what does not; return whether everything that is required holds."""
    say(f"{layer.name}, from {layer.source or 'yolo-attn'}")
    failed = total = 0
    for finding in (*_name(layer), *examine(layer, args)):
        total, failed = total + 1, failed + (finding.verdict == FAILS)
        say(f"  {finding.verdict:<9}  {finding.point:<13}  {finding.said}")
    say(f"{layer.name}: {failed} of {total} points fail" if failed else f"{layer.name}: fit for rows")
    return not failed


def _name(layer: Layer) -> list[Finding]:
    """Return why an own layer cannot have its name, if it cannot."""
    left_out = [one for one in registry.problems() if (one.name, one.source) == (layer.name, layer.source)]
    return [Finding(FAILS, "name", one.reason) for one in left_out]


def _find(point: str, check: Check, mend: str, case: Case) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Finding(HOLDS, point, check(case))
    except Untried as reason:
        return Finding(UNTRIED, point, str(reason))
    except Note as reason:
        return Finding(NOTE, point, str(reason))
    except ContractError as error:
        return Finding(FAILS, point, str(error))
    except Exception as error:  # the code of a stranger
        return Finding(FAILS, point, f"{line(error)}. {mend}" if mend else line(error))
