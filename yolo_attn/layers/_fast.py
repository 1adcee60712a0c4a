"""The one place where a faster form may stand in for a layer or for a function that layers share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

try:
    from ..fast import find
except ModuleNotFoundError as error:  # the folder is optional: without it the plain forms serve
    if error.name != f"{__package__.rpartition('.')[0]}.fast":
        raise
    find = None  # type: ignore[assignment]


def may_be_fast(plain: Function) -> Function:
    """Let a form listed in ``yolo_attn.fast`` stand in for ``plain``, a function or a method of a layer.

    The form gets the same arguments. It answers ``NotImplemented`` where it does not apply; ``plain`` serves then.
    """
    if find is None:
        return plain
    name = f"{plain.__module__.rpartition('.')[2]}.{plain.__qualname__}"

    @functools.wraps(plain)
    def choose(*args: Any, **kwargs: Any) -> Any:
        form = find(name, args)
        y = NotImplemented if form is None else form(*args, **kwargs)
        return plain(*args, **kwargs) if y is NotImplemented else y

    return choose  # type: ignore[return-value]
