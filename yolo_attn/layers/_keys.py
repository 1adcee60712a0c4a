"""Parameters' names in checkpoints of other versions of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def rename_keys(state: dict[str, Any], prefix: str, names: Mapping[str, str]) -> None:
    """Give entries of a state that is being loaded the names that the layer uses; call it before the layer loads.

    An entry stays where the other name is taken too: loading then reports it.

    Args:
        state: The state dict, changed in place.
        prefix: What stands before the layer's own keys.
        names: The start of a key elsewhere -> here.
    """
    for theirs, ours in names.items():
        for key in [key for key in state if key.startswith(prefix + theirs)]:
            name = prefix + ours + key[len(prefix + theirs) :]
            if name not in state:
                state[name] = state.pop(key)
