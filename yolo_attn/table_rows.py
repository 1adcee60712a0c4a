"""A row of the table of layers, and what is known of another class of its name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import LayerFileError
from .layers._pasted import accept_width_keywords

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Namesake:
    """Another class of a layer's name and how rows give its arguments: ``values`` says how to tell, each in its turn.

    A row that has arguments of ours only is read as the namesake's. Any other is refused.
    """

    usage: str
    arguments: tuple[str, ...]
    values: tuple[Container[int], ...]
    fewest: int = 1

    def fits(self, positional: Sequence[Any]) -> bool:
        """Return whether positional arguments look like the namesake's."""
        is_long_enough = self.fewest <= len(positional) <= len(self.arguments)
        pairs = zip(positional, self.values, strict=False)
        return is_long_enough and all(isinstance(value, int) and value in meant for value, meant in pairs)


@dataclass(frozen=True)
class Layer:
    """One row of the table; ``path`` is ``module:class``, ``arguments`` are those of a YAML row (no ``channels``).

    ``registered`` is the class of a user's own layer.
    """

    name: str
    path: str
    slug: str
    aliases: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    paper: str = ""
    year: int = 0
    arxiv: str = ""
    namesake: Namesake | None = None
    registered: type[nn.Module] | None = None

    def load(self) -> type[nn.Module]:
        """Import and return the class.

        Raises:
            LayerFileError: If its file cannot be imported.
        """
        if self.registered is not None:
            return self.registered
        module, _, name = self.path.partition(":")
        try:
            cls = getattr(importlib.import_module(module), name)
        except Exception as error:  # a damaged file raises anything
            lacking = error.name if isinstance(error, ModuleNotFoundError) else None
            is_ours = not lacking or lacking.partition(".")[0] == "yolo_attn"
            mend = "--force-reinstall --no-deps yolo-attn" if is_ours else lacking
            raise LayerFileError(
                f"{self.name} cannot be used, for {module} cannot be imported: {type(error).__name__}: {error}. "
                f"Mend it: pip install {mend}"
            ) from error
        accept_width_keywords(cls)
        return cls

    def parameters(self) -> list[inspect.Parameter]:
        """Return the constructor's parameters in YAML order, without the width."""
        return list(inspect.signature(self.load()).parameters.values())[1:]
