"""BiFormer's windows: a map is cut into them and put together again, and each is summed up by a few tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from ._recording import is_recorded

MODES = ("identity", "avgpool", "maxpool", "ada_avgpool", "ada_maxpool", "conv", "fracpool")


def split_windows(x: Tensor, n_win: int, auto_pad: bool, mask_pad: bool) -> tuple[Tensor, Tensor | None]:
    """Cut a map into windows in row order, and tell which of their pixels are real, None for all (or not asked for).

    ``(B, C, H, W) -> (B, p^2, h, w, C), (p^2, h, w)``
    """
    h, w = x.shape[2:]
    if not auto_pad and (h % n_win or w % n_win):
        raise ValueError(f"map {h}x{w} is not divisible by n_win={n_win}; auto_pad=True pads it")
    bottom, right = (n_win * ((n + n_win - 1) // n_win) - n for n in (h, w))
    # A recorded graph has to hold the padding even where its own example needs none.
    pad = auto_pad and (is_recorded() or bool(bottom or right))
    if pad and torch.jit.is_tracing():
        x = _pad_by_joining(x, bottom, right)
    elif pad:
        x = F.pad(x, (0, right, 0, bottom))
    windows = rearrange(x, "b c (j h) (i w) -> b (j i) h w c", j=n_win, i=n_win)
    if not (pad and mask_pad):
        return windows, None
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
    real = (rows < h)[:, None] & (columns < w)
    return windows, rearrange(real, "(j h) (i w) -> (j i) h w", j=n_win, i=n_win)


def _pad_by_joining(x: Tensor, bottom: int, right: int) -> Tensor:
    """Pad a map with zeros. onnxslim gets the ONNX form of ``F.pad`` wrong where two maps of one size are padded."""
    x = torch.cat([x, x.new_zeros((*x.shape[:3], right))], 3)
    return torch.cat([x, x.new_zeros((*x.shape[:2], bottom, x.shape[3]))], 2)


def merge_windows(x: Tensor, n_win: int) -> Tensor:
    """Put windows together to the padded map: ``(B, p^2, h, w, C) -> (B, C, p h, p w)``, C last in memory."""
    return rearrange(x, "b (j i) h w c -> b (j h) (i w) c", j=n_win, i=n_win).permute(0, 3, 1, 2)


def gather_windows(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens of the windows in ``index``: ``(B n, M, c), (B, n, k) -> (B, n, k, M, c)``."""
    b, n, _ = index.shape
    first = n * torch.arange(b, device=index.device)[:, None, None]
    return tokens.index_select(0, (index + first).flatten()).reshape(*index.shape, *tokens.shape[1:])


def window_means(x: Tensor, real: Tensor | None) -> Tensor:
    """Return the mean of each window's real pixels, at least in float32, zero if there is none.

    ``(B, n, h, w, c), (n, h, w) -> (B, n, c)``
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if real is None:
        return reduce(x, "b n h w c -> b n c", "mean")
    share = real.to(x.dtype) / real.sum((1, 2), keepdim=True).clamp(min=1)
    return reduce(x * share[..., None], "b n h w c -> b n c", "sum")


def pool_windows(
    x: Tensor, real: Tensor | None, mode: str, per_win: int, ratio: int, kernel: int, conv: nn.Module | None, draw: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the tokens of each window, made of real pixels alone, and which of them saw one.

    ``(B n, h, w, c), (n, h, w) -> (B n, m, c), (n, m)``; sizes as in ``BiFormer``; ``draw`` makes ``fracpool`` random.
    """
    if mode == "identity" or (mode in ("avgpool", "maxpool") and ratio == 1):
        return x.flatten(1, 2), None if real is None else real.flatten(1)
    h, w = int(x.shape[1]), int(x.shape[2])
    pool = _choose_pool(mode, x, per_win, ratio, kernel, draw)
    features = conv if conv is not None else pool
    if mode == "conv" and (h < kernel or w < kernel):
        padding = (0, max(kernel - w, 0), 0, max(kernel - h, 0))
        x = F.pad(x, (0, 0, *padding))
        real = None if real is None else F.pad(real, padding)
    if real is None:
        return _tokens(features(rearrange(x, "n h w c -> n c h w"))), None
    average = mode in ("avgpool", "ada_avgpool")
    hidden = 0.0 if average or mode == "conv" else torch.finfo(x.dtype).min
    x = rearrange(x, "(b n) h w c -> b n c h w", n=real.shape[0]).masked_fill(~real[:, None], hidden)
    share = _tokens(pool(real[:, None].to(x.dtype)))  # (n, m, 1)
    tokens = rearrange(_tokens(features(x.flatten(0, 1))), "(b n) m c -> b n m c", n=real.shape[0])
    if average:
        tokens = tokens / torch.where(share > 0, share, 1.0)
    return torch.where(share > 0, tokens, 0.0).flatten(0, 1), share[..., 0] > 0


def _tokens(x: Tensor) -> Tensor:
    return rearrange(x, "n c h w -> n (h w) c")


def _choose_pool(mode: str, x: Tensor, per_win: int, ratio: int, kernel: int, draw: bool) -> Callable[[Tensor], Tensor]:
    """Return what pools windows as large as ``x``; for ``conv``, what finds the tokens that see a marked pixel."""
    h, w = int(x.shape[1]), int(x.shape[2])
    if mode in ("avgpool", "maxpool"):
        return partial(F.avg_pool2d if mode == "avgpool" else F.max_pool2d, kernel_size=(min(ratio, h), min(ratio, w)))
    if mode in ("ada_avgpool", "ada_maxpool"):
        average = mode == "ada_avgpool"
        if torch.jit.is_tracing():
            return partial(_adaptive_pool, size=per_win, average=average)
        return partial(F.adaptive_avg_pool2d if average else F.adaptive_max_pool2d, output_size=per_win)
    if mode == "conv":
        return partial(F.max_pool2d, kernel_size=kernel, stride=ratio)
    size = (max(1, h // ratio), max(1, w // ratio))
    kernels = tuple(min(kernel, n - m + 1) for n, m in zip((h, w), size, strict=True))
    # One sample for all windows and channels: a token's key and value have to come from the same places.
    sample = x.new_full((2,), 0.5)
    sample = torch.rand_like(sample) if draw else sample
    return lambda x: F.fractional_max_pool2d(x, kernels, size, _random_samples=sample.expand(*x.shape[:2], 2))


def _adaptive_pool(x: Tensor, size: int, average: bool) -> Tensor:
    """Pool ``(n, c, h, w)`` to ``(n, c, size, size)`` as adaptive pooling does; that one has no ONNX form here."""
    cells = torch.arange(size, device=x.device)[:, None]
    for _ in range(2):  # the last axis each time, then the axes change places
        n = x.shape[3]
        index = torch.arange(n, device=x.device)
        inside = (index >= cells * n // size) & (index < ((cells + 1) * n + size - 1) // size)  # (size, n)
        if average:
            share = inside.to(x.dtype)
            x = x @ (share / share.sum(1, keepdim=True)).T
        else:
            x = x[:, :, :, None].masked_fill(~inside, float("-inf")).max(-1).values
        x = x.transpose(2, 3)
    return x
