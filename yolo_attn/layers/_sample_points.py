"""DAttention's positions on a map: even grids, grids moved by offsets, and what lies there.

Positions are rows and columns; -1 and 1 are the centres of the first and the last pixel.
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F


def even_axis(n: int, shift: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return n evenly spaced coordinates from -1 to 1, moved by ``shift`` spacings, and half a spacing.

    A lone one is at 0. All is computed from the index tensor, so that an exported graph follows the map's size.
    """
    index = torch.arange(n, dtype=like.dtype, device=like.device)
    last = index[-1:]
    half = 1 / last.clamp(min=1)
    return (2 * (index + shift) * half - 1) * (last > 0).to(like.dtype), half


def even_grid(h: int, w: int, like: Tensor) -> Tensor:
    """Return the positions of the pixels of a map, ``(H W, 2)``."""
    rows, columns = even_axis(h, 0.0, like)[0], even_axis(w, 0.0, like)[0]
    return torch.stack((repeat(rows, "h -> (h w)", w=w), repeat(columns, "w -> (h w)", h=h)), -1)


def move_grid(offsets: Tensor, limit: float) -> Tensor:
    """Return an even grid, half a spacing below and to the right of its place, moved by offsets.

    ``limit`` is the farthest that a point may move, in half spacings; negative: anywhere within the map.
    """
    (rows, dy), (columns, dx) = (even_axis(n, 0.5, offsets) for n in offsets.shape[2:])
    grid = torch.stack(torch.broadcast_tensors(rows[:, None], columns))  # (2, h, w)
    if limit < 0:
        return (grid + offsets).clamp(-1, 1)
    return grid + offsets.tanh() * limit * torch.stack((dy, dx))[..., None]


def sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return what lies there, zero outside: ``(n, c, H, W), (n, h, w), (n, h, w) -> (n, c, h, w)``, bilinearly."""
    return F.grid_sample(x, torch.stack((columns, rows), -1), align_corners=True)
