"""Training on several machines: ``torchrun`` knows how many ranks there are, the host only counts its own devices."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from ...errors import HostError


def do_train_joint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``BaseTrainer._do_train`` that takes the number of ranks from the launcher.

    On one machine that is the number of devices, as the host has it.
    """

    @functools.wraps(original)
    def _do_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        ranks, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if "RANK" in os.environ and ranks > here:
            if "LOCAL_RANK" not in type(self)._setup_ddp.__code__.co_names:
                raise HostError(
                    f"{ranks} ranks, {here} of them on this machine: this Ultralytics takes the rank for the number "
                    "of the device and cannot train on several machines; update it: pip install -U ultralytics"
                )
            self.world_size = ranks
        return original(self, *args, **kwargs)

    return _do_train
