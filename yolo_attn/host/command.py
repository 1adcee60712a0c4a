"""Commands: an error of ours ends them with its one message, not with a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from ..errors import YoloAttnError


def entrypoint_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command's ``entrypoint`` that reports our errors as one line and exits with 1."""

    @functools.wraps(original)
    def entrypoint(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            found = ours(error)
            if found is None:
                raise
        print(f"error: {found}", file=sys.stderr)
        raise SystemExit(1)

    return entrypoint


def ours(error: BaseException | None) -> YoloAttnError | None:
    """Return the error of ours that the host wrapped in its own, if there is one."""
    while error is not None and not isinstance(error, YoloAttnError):
        error = error.__cause__
    return error
