"""BiFormer's grid of windows: a map is cut into them, put together again, and each picks others by their number."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def split_windows(x: Tensor, n_win: int, auto_pad: bool, mask_pad: bool) -> tuple[Tensor, Tensor | None]:
    """Cut a map into windows, counted in row order, and tell which of their pixels are real.

    Args:
        x: The map.
        n_win: Windows per side, p.
        auto_pad: Pad at the bottom and right to whole windows; False refuses maps that windows do not divide.
        mask_pad: Tell padded pixels from real ones; False, or a map that needs no padding, gives None: all are real.

    Shape:
        ``(B, C, H, W) -> (B, p^2, h, w, C), (p^2, h, w)``
    """
    h, w = x.shape[2:]
    if not auto_pad and (h % n_win or w % n_win):
        raise ValueError(f"map {h}x{w} is not divisible by n_win={n_win}; auto_pad=True pads it")
    bottom, right = -h % n_win, -w % n_win
    # A trace has to hold the padding even where its own example needs none.
    pad = auto_pad and bool(torch.jit.is_tracing() or bottom or right)
    if pad:
        x = F.pad(x, (0, right, 0, bottom))
    windows = rearrange(x, "b c (j h) (i w) -> b (j i) h w c", j=n_win, i=n_win)
    if not (pad and mask_pad):
        return windows, None
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
    real = (rows < h)[:, None] & (columns < w)
    return windows, rearrange(real, "(j h) (i w) -> (j i) h w", j=n_win, i=n_win)


def merge_windows(x: Tensor, n_win: int) -> Tensor:
    """Put windows together to the padded map: ``(B, p^2, h, w, C) -> (B, C, p h, p w)``, C last in memory."""
    return rearrange(x, "b (j i) h w c -> b (j h) (i w) c", j=n_win, i=n_win).permute(0, 3, 1, 2)


def gather_windows(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens of the windows in ``index``: ``(B n, M, c), (B, n, k) -> (B, n, k, M, c)``."""
    b, n, _ = index.shape
    first = n * torch.arange(b, device=index.device)[:, None, None]
    return tokens.index_select(0, (index + first).flatten()).reshape(*index.shape, *tokens.shape[1:])
