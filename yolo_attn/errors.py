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


class LayerFileError(YoloAttnError, ImportError):
    """A layer whose file cannot be imported."""


class HostError(YoloAttnError, RuntimeError):
    """The installed Ultralytics cannot be patched safely."""


class CheckpointError(HostError):
    """A checkpoint that cannot be opened, or is not to be."""


class DataError(YoloAttnError, ValueError):
    """COCO-format data that cannot be used."""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, or ``""``.

    Case is ignored; ``cutoff`` in [0, 1] is the least likeness.
    """
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""
