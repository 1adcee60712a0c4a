"""Parameters' names in checkpoints of other versions of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn


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


def shape_values(state: dict[str, Any], prefix: str, layer: nn.Module) -> None:
    """Give tensors of a state that differ from the layer's in axes of length 1 alone the layer's shape.

    A linear map of a vector and a convolution of one pixel are the same numbers.
    """
    for name, own in layer.state_dict().items():
        value = state.get(prefix + name)
        if value is not None and _long_axes(value) == _long_axes(own):
            state[prefix + name] = value.reshape(own.shape)


def _long_axes(value: Tensor) -> list[int]:
    return [size for size in value.shape if size != 1]


class RenamesKeys:
    """Part of a layer whose other versions name their parameters otherwise; states of those load too."""

    other_keys: ClassVar[Mapping[str, str]] = {}

    def rename_keys(self, state: dict[str, Any], prefix: str = "") -> None:
        """Give entries of another version's state the names of this layer."""
        rename_keys(state, prefix, self.other_keys)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        assert isinstance(self, nn.Module)
        self.rename_keys(state_dict, prefix)
        shape_values(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args)
