"""Commands: an error of ours ends them with its one message, not with a traceback."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

from ..errors import ModelNameError, YoloAttnError


def entrypoint_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command's ``entrypoint`` that reports our errors as one line and exits with 1."""

    @functools.wraps(original)
    def entrypoint(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            found = ours(error) or _named(error)
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


def _named(error: Exception) -> YoloAttnError | None:
    """Return an error of ours for one of the host's or of a layer that we can say more about."""
    if isinstance(error, ValueError):
        from .model.forward_errors import name_row

        return name_row(error)
    missing = r"'([\w-]+?)(?:\.pt)?'(?: does not exist|$)"
    found = re.search(missing, str(error)) if isinstance(error, FileNotFoundError) else None
    if found is None:
        return None
    from ultralytics.nn.tasks import yaml_model_load

    from .model.model_names import explain, is_built

    load = getattr(yaml_model_load, "__wrapped__", yaml_model_load)
    name = f"{found[1]}.yaml"
    said = f"; did you mean {name!r}?" if is_built(found[1], load) else explain(name, load)
    return ModelNameError(f"{error}{said}") if said else None
