"""The memory format of maps."""

from __future__ import annotations

import torch
from torch import Tensor


def like(y: Tensor, x: Tensor) -> Tensor:
    """Return the map ``y`` in the memory format of the map ``x``: contiguous, or channels last where only that fits.

    Tokens seen as a map are channels last, and would change the format of every layer behind.
    """
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
