"""Gated blends an attention layer into a trained network: at gate 0 it is the identity, at gate 1 the layer itself.

Paper: the learned scalar that starts at zero is that of ReZero is All You Need, arXiv 2003.04887, and the ``gamma`` of
Criss-Cross attention, arXiv 1811.11721.
Differs: the gate scales the change that the layer makes, ``A(x) - x``, since most layers here replace their input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# An optimiser moves a scalar by about its learning rate a step, which is made for weights of a hundredth; the gate has
# to get to 1. A power of two, so that a gate of exactly 1 exists in every precision.
GAIN = 8


class Gated(nn.Module):
    """Compute ``x + g * (A(x) - x)`` for an attention layer A, with ``g = GAIN * gate`` and ``gate`` a learned scalar.

    A fresh gate is 0: outputs are those of the network without the layer, bit for bit. The gate's gradient is there at
    once, the layer's from the second step on.

    Paper: ReZero is All You Need: Fast Convergence at Large Depth, 2020, arXiv 2003.04887.

    Args:
        layer: YAML name of the attention layer, or a layer that keeps the shape of its input.
        *args: Arguments of its constructor, the width first; none with a layer.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; the layer's cost and one pass over the map.

    Raises:
        ValueError: If arguments are given for a layer that is built already, or the layer starts as the identity itself
            (two zeros in a product get no gradient).

    Example:
        ``[-1, 1, CBAM, [{gate: true}]]``

        >>> layer = Gated("CBAM", 64)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    def __init__(self, layer: str | nn.Module, *args: Any) -> None:
        super().__init__()
        if isinstance(layer, str):
            from ..registry import find

            layer = find(layer).load()(*args)
        elif args:
            raise ValueError(f"{type(layer).__name__} is built already; its arguments {args} do nothing")
        if getattr(layer, "starts_as_identity", False):
            raise ValueError(
                f"{type(layer).__name__} starts as the identity itself; with a gate at 0 it would never move"
            )
        self.layer = layer
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Identity):
            return x
        return x + (GAIN * self.gate).to(x.dtype) * (self.layer(x) - x)

    def fold_for_inference(self) -> None:
        """Drop a layer whose gate is 0."""
        if self.gate.item() == 0:
            self.layer = nn.Identity()

    def openness(self) -> float:
        """Return ``g``: 0 is the identity, 1 the layer itself."""
        return GAIN * self.gate.item()
