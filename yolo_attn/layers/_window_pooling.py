"""BiFormer's summaries of a window: its mean, and the few tokens that its pixels are thinned out to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

MODES = ("identity", "avgpool", "maxpool", "ada_avgpool", "ada_maxpool", "conv", "fracpool")


def window_means(x: Tensor, real: Tensor | None) -> Tensor:
    """Return the mean of each window's real pixels (None: all are), at least in float32, zero if there is none.

    Shape:
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

    Args:
        x: The pixels of B times n windows.
        real: Which pixels of the n windows are real; None means all.
        mode: One of ``MODES``.
        per_win: Tokens per side in the adaptive modes.
        ratio: Stride of ``avgpool``, ``maxpool`` and ``conv``; size ratio of ``fracpool``.
        kernel: Kernel of ``conv`` and ``fracpool`` in pixels.
        conv: The convolution of ``conv``.
        draw: Draw the places of ``fracpool`` at random.

    Shape:
        ``(B n, h, w, c), (n, h, w) -> (B n, m, c), (n, m)``
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
