"""Which category of a COCO JSON each class of a model means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DataError
from .coco_json import Id

_SHOWN = 5


@dataclass(frozen=True)
class ClassMap:
    """The classes of a model in terms of a data set.

    Attributes:
        names: Name of each class: the model's own, then the categories it cannot predict.
        category_ids: Category id of each of them, None for a class that the data set does not have.
        of_data: Class number for each class of the data set, or None where they are the same.
        unknown: Names of categories that the model cannot predict.
        foreign: Names of classes that the data set does not have.
        renamed: ``(model's name, data set's name)`` of classes matched by position though their names differ.
    """

    names: tuple[str, ...]
    category_ids: tuple[Id | None, ...]
    of_data: tuple[int, ...] | None = None
    unknown: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    def notes(self, json_file: str, foreign_predictions: int) -> list[str]:
        """Return what the reader of the numbers must know, one sentence each.

        Args:
            json_file: The JSON file.
            foreign_predictions: Number of predictions of classes that the data set does not have.
        """
        said = []
        if self.unknown:
            said.append(f"the model cannot predict {_first(self.unknown)}: they count as AP 0 where they have objects")
        if foreign_predictions:
            said.append(
                f"{foreign_predictions} predictions are left out, of classes that {json_file} does not have "
                f"({_first(self.foreign)})"
            )
        if self.renamed:
            pairs = [f"{model!r} as {data!r}" for model, data in self.renamed]
            said.append(f"classes were matched by their position, not by name: {_first(pairs)}")
        return said


def match_classes(model: Sequence[str], data: Sequence[str], category_ids: Sequence[Id], label: str) -> ClassMap:
    """Match the classes of a model with the categories of a data set, by name where the orders differ.

    Args:
        model: Names of the model's classes.
        data: Names of the data set's classes.
        category_ids: Category id of each class of the data set.
        label: The data description, for messages.

    Raises:
        DataError: If the two have no name in common and not the same number of classes, or if a name that must decide
            is there twice.
    """
    mine, theirs = [_plain(name) for name in model], [_plain(name) for name in data]
    shared = set(mine) & set(theirs)
    if mine == theirs or (len(mine) == len(theirs) and not shared):
        renamed = tuple((model[i], data[i]) for i in range(len(mine)) if mine[i] != theirs[i])
        return ClassMap(tuple(model), tuple(category_ids), renamed=renamed)
    if not shared:
        raise DataError(
            f"the model predicts {len(model)} classes ({_first(model)}), {label} has {len(data)} ({_first(data)}), and "
            "no name is in both: validate on data with the categories the model was trained on"
        )
    twice = [name for name in shared if mine.count(name) > 1 or theirs.count(name) > 1]
    if twice:
        raise DataError(
            f"{twice[0]!r} names two classes of the model or of {label}, whose orders differ: give each its own name"
        )
    unknown = [i for i, name in enumerate(theirs) if name not in shared]
    names = [*model, *(data[i] for i in unknown)]
    id_of = {name: category_ids[i] for i, name in enumerate(theirs) if name in shared}
    number_of = {name: i for i, name in enumerate(mine) if name in shared}
    number_of |= {theirs[i]: len(model) + k for k, i in enumerate(unknown)}
    return ClassMap(
        names=tuple(names),
        category_ids=(*(id_of.get(name) for name in mine), *(category_ids[i] for i in unknown)),
        of_data=tuple(number_of[name] for name in theirs),
        unknown=tuple(data[i] for i in unknown),
        foreign=tuple(name for name, key in zip(model, mine, strict=True) if key not in shared),
    )


def _plain(name: str) -> str:
    return str(name).strip().casefold()


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
