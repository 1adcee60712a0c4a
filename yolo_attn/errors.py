"""The errors of yolo-attn. Each message quotes the user's own input, says what is allowed and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class YoloAttnError(Exception):
    """Base of every error that yolo-attn raises on purpose."""

    def __str__(self) -> str:
        # KeyError, a parent of one child, would print the repr of the message.
        return str(self.args[0]) if self.args else ""


class UnknownLayerError(YoloAttnError, KeyError):
    """A layer name that neither yolo-attn nor Ultralytics knows."""


class ArgumentError(YoloAttnError, TypeError):
    """Arguments that a layer's constructor does not take."""


class RegistrationError(YoloAttnError, ValueError):
    """A name or class that ``register`` cannot accept."""


class RowError(YoloAttnError, ValueError):
    """A row of a model YAML that cannot be built."""


class ModelNameError(YoloAttnError, FileNotFoundError):
    """A model name that looks like one of ours and stands for no model."""


class LayerFileError(YoloAttnError, ImportError):
    """A layer whose file cannot be imported."""


class ContractError(YoloAttnError, ValueError):
    """A layer that does not do what rows need."""


class HostError(YoloAttnError, RuntimeError):
    """The installed Ultralytics cannot be patched safely."""


class CheckpointError(HostError):
    """A checkpoint that cannot be opened or used, or is not to be."""


class DataError(YoloAttnError, ValueError):
    """COCO-format data that cannot be used."""


class StudyError(YoloAttnError, ValueError):
    """A study that cannot be planned, begun or gone on with, or a trial that is no pair of the others."""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, or ``""``.

    Case is ignored; ``cutoff`` in [0, 1] is the least likeness.
    """
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


_ENDINGS = ("attention", "attn", "atten", "att", "layer", "block", "module")
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def mistyped(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name that ``word`` is a slip or another spelling of, or ``""``.

    Names of layers are short, and a letter apart is another layer: ECA is not CCA. So only what fingers do counts:
    another case or ending, letters that changed places, one too many or too few, the key beside the right one.
    """
    steps = {name: _slips(str(word), name) for name in known}
    best = min(steps, key=steps.__getitem__, default="")
    return f"; did you mean {best!r}?" if best and steps[best] < _TOO_FAR else ""


_TOO_FAR = 9


def _slips(word: str, name: str) -> int:
    """Return how far ``word`` is from ``name``: 0 for another case, 1 for another ending, then slips of the finger."""
    a, b = word.lower(), name.lower()
    (core_a, end_a), (core_b, end_b) = _core(a), _core(b)
    if a == b or core_a == core_b:
        return int(a != b)
    if end_a and end_b:  # the ending is right, so the rest must be
        a, b = core_a, core_b
    shorter, longer = sorted((len(a), len(b)))
    is_acronym = word.isupper() and len(a) < 4
    if a[:1] != b[:1] or a in _ENDINGS or is_acronym or shorter < 3 or longer < 4 or longer - shorter > 2:
        return _TOO_FAR
    replaced = {x + y for x, y in zip(a, b, strict=False) if x != y} if shorter == longer < 6 else set()
    if len(replaced) == 1 and not any(pair in keys or pair[::-1] in keys for pair in replaced for keys in _KEYS):
        return _TOO_FAR
    edits = _edits(a, b)
    return 1 + edits if edits <= (2 if shorter >= 8 else 1) else _TOO_FAR


def _core(word: str) -> tuple[str, str]:
    """Split a name in lower case into what says something and its ending: ``cbam_block`` into ``cbam``, ``block``."""
    word = word.replace("_", "")
    ending = next((e for e in _ENDINGS if word.endswith(e) and word != e), "")
    return word.removesuffix(ending), ending


def _edits(a: str, b: str) -> int:
    """Return how many letters have to be added, dropped, replaced or swapped with the next."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[-1] = min(row[-1], before[j - 2] + 1)
        before = last
    return row[-1]
