"""BiFormer lets the pixels of each window attend only to the pixels of the few windows most similar to it.

Paper: BiFormer: Vision Transformer with Bi-Level Routing Attention, arXiv 2303.08810.
Official code: rayleizhu/BiFormer (MIT), the legacy operator ``BiLevelRoutingAttention``.
Differs: takes and returns NCHW; ``auto_pad`` is on (official: off); ``n_win`` stands before ``num_heads`` (official:
behind); ``topk`` beyond the number of windows means all; the ``conv`` and ``fracpool`` modes, announced in the official
code, exist; ``mask_pad``. The official NCHW flavour is another function on maps that windows do not divide.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._attention import attend
from ._depthwise import depthwise
from ._layout import like
from ._precision import no_autocast
from .regional_routing import regional_routing_attention as regional_routing_attention

_MODES = ("identity", "avgpool", "maxpool", "ada_avgpool", "ada_maxpool", "conv", "fracpool")


class BiFormer(nn.Module):
    """Replace each pixel by a mixture of values from the windows its own window is routed to, plus a depthwise branch.

    Without ``mask_pad`` padded pixels hold the projection's bias, count in the window means and are attended to.

    Paper: BiFormer, 2023, arXiv 2303.08810.

    Args:
        channels: Width C of the map, a multiple of ``num_heads``.
        n_win: Windows per side; the map is padded at the bottom and right to whole windows.
        num_heads: Number of heads, at least 1.
        qk_dim: Width of queries and keys, a multiple of ``num_heads``; None means C.
        qk_scale: Factor of query-key products, in routing too; None or 0 means ``qk_dim ** -0.5`` (the full width).
        kv_per_win: Tokens per side that the ``ada_*`` modes keep of a window, at least 1.
        kv_downsample_ratio: Stride of the ``avgpool``, ``maxpool`` (also their kernel) and ``conv`` modes, and size
            ratio of ``fracpool``; at least 1. Kernels stop at the window's size.
        kv_downsample_kernel: Kernel of ``conv`` (None: the ratio) and ``fracpool`` (None: 2) in pixels.
        kv_downsample_mode: How keys and values of a window are thinned out: ``"identity"`` (not at all), ``"avgpool"``,
            ``"maxpool"``, ``"ada_avgpool"``, ``"ada_maxpool"``, ``"conv"`` (a depthwise convolution in the window) or
            ``"fracpool"`` (fractional max pooling; one random sample per call in training, a fixed one else; has no
            ONNX form). An exported graph keeps the kernels its example allowed: export with windows as large as them.
        topk: Windows each window attends to, at least 1; more than ``n_win ** 2`` means all.
        param_attention: ``"qkvo"``, or ``"qkv"`` for no output projection.
        param_routing: Send the window means through one more linear map before routing; needs ``diff_routing``.
        diff_routing: Let gradients through the routing weights; needs ``soft_routing``.
        soft_routing: Multiply keys and values of a routed window by its routing weight.
        side_dwconv: Kernel of the depthwise branch on the values in pixels, odd; 0 or less for none.
        auto_pad: Pad maps that windows do not divide; False refuses them.
        mask_pad: Hide padded pixels from window means, routing and attention. The depthwise branch still sees them.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O((HW)^2 topk / n_win^2) time, O(HW topk) memory; for ``topk >= n_win ** 2``
        ordinary attention in O((HW)^2) time and O(HW) memory. Small maps with a large ``n_win`` are mostly padding.

    Raises:
        ValueError: If ``channels`` or ``qk_dim`` is not divisible by ``num_heads``, a routing option lacks the one it
            needs, or an argument is out of its range. In forward, with ``auto_pad=False``, if windows do not divide
            the map.

    Example:
        ``[-1, 1, BiFormer, [7, 8]]``

        >>> layer = BiFormer(64, n_win=7, num_heads=8)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    def __init__(
        self,
        channels: int,
        n_win: int = 7,
        num_heads: int = 8,
        qk_dim: int | None = None,
        qk_scale: float | None = None,
        kv_per_win: int = 4,
        kv_downsample_ratio: int = 4,
        kv_downsample_kernel: int | None = None,
        kv_downsample_mode: str = "identity",
        topk: int = 4,
        param_attention: str = "qkvo",
        param_routing: bool = False,
        diff_routing: bool = False,
        soft_routing: bool = False,
        side_dwconv: int = 3,
        auto_pad: bool = True,
        mask_pad: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.n_win = check.integer("n_win", n_win)
        self.num_heads = check.integer("num_heads", num_heads)
        self.qk_dim = channels if qk_dim is None else check.integer("qk_dim", qk_dim)
        check.divisible("channels", channels, "num_heads", num_heads)
        check.divisible("qk_dim", self.qk_dim, "num_heads", num_heads)
        self.qk_scale = qk_scale
        self.scale = check.scale("qk_scale", qk_scale, self.qk_dim**-0.5)
        self.kv_per_win = check.integer("kv_per_win", kv_per_win)
        self.kv_downsample_ratio = check.integer("kv_downsample_ratio", kv_downsample_ratio)
        self.kv_downsample_mode = check.choice("kv_downsample_mode", kv_downsample_mode, _MODES)
        kernel = 2 if kv_downsample_mode == "fracpool" else kv_downsample_ratio
        given = kv_downsample_kernel is not None
        self.kv_downsample_kernel = check.integer("kv_downsample_kernel", kv_downsample_kernel) if given else kernel
        self.topk = check.integer("topk", topk)
        self.param_attention = check.choice("param_attention", param_attention, ("qkvo", "qkv"))
        self.soft_routing = check.flag("soft_routing", soft_routing)
        self.diff_routing = check.flag("diff_routing", diff_routing)
        self.param_routing = check.flag("param_routing", param_routing)
        for name, other in (("diff_routing", "soft_routing"), ("param_routing", "diff_routing")):
            if getattr(self, name) and not getattr(self, other):
                raise ValueError(f"{name}=True needs {other}=True; the loss would not reach the routing")
        self.side_dwconv = check.odd("side_dwconv", side_dwconv, off=True)
        self.auto_pad = check.flag("auto_pad", auto_pad)
        self.mask_pad = check.flag("mask_pad", mask_pad)
        self._build()

    def _build(self) -> None:
        c, qk = self.channels, self.qk_dim
        if self.side_dwconv:
            self.lepe = nn.Conv2d(c, c, self.side_dwconv, padding=self.side_dwconv // 2, groups=c)
        if self.param_routing:
            self.router = nn.ModuleDict({"emb": nn.Linear(qk, qk)})
        self.qkv = nn.ModuleDict({"qkv": nn.Linear(c, 2 * qk + c)})
        if self.param_attention == "qkvo":
            self.wo = nn.Linear(c, c)
        if self.kv_downsample_mode == "conv":
            kernel, stride = self.kv_downsample_kernel, self.kv_downsample_ratio
            self.kv_down = nn.Conv2d(qk + c, qk + c, kernel, stride, groups=qk + c)

    def forward(self, x: Tensor) -> Tensor:
        windows, real = self._partition(x)  # (B, p^2, h, w, C), (p^2, h, w) or None
        q, kv = self.qkv["qkv"](windows).split((self.qk_dim, self.qk_dim + self.channels), -1)
        tokens, real_tokens = self._downsample(kv.flatten(0, 1), real)  # (B p^2, M, Q + C), (p^2, M) or None
        parts = tokens.split((self.qk_dim, self.channels), -1)  # before they multiply: their gradients are joined
        if self.topk < self.n_win**2 or self.soft_routing:
            index, weights = self._route(windows, real)  # 2 x (B, p^2, k)
            k, v = (self._gather(part, index, weights) for part in parts)  # (B p^2, k M, Q or C)
            if real_tokens is not None:
                real_tokens = real_tokens.index_select(0, index.flatten()).reshape(q.shape[0] * q.shape[1], 1, 1, -1)
        else:
            k, v = (part.reshape(x.shape[0], -1, part.shape[-1]) for part in parts)  # (B, p^2 M, Q or C)
            real_tokens = None if real_tokens is None else real_tokens.reshape(1, 1, 1, -1)
        y = self._to_map(self._attend(q, k, v, real_tokens), windows)  # (B, H', W', C)
        if self.side_dwconv:
            v = self._to_map(kv[..., self.qk_dim :], windows)
            y = y + depthwise(self.lepe, v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = y[:, : x.shape[2], : x.shape[3]]  # (B, H, W, C)
        if self.param_attention == "qkvo":
            y = self.wo(y)
        return like(y.permute(0, 3, 1, 2), x)  # (B, C, H, W)

    def _partition(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the windows of the padded map and, if padding is to be masked, which of their pixels are real."""
        (b, c, h, w), p = x.shape, self.n_win
        if not self.auto_pad and (h % p or w % p):
            raise ValueError(f"map {h}x{w} is not divisible by n_win={p}; auto_pad=True pads it")
        bottom, right = (p - h % p) % p, (p - w % p) % p
        # A trace has to hold the padding even where its own example needs none.
        pad = self.auto_pad and bool(torch.jit.is_tracing() or bottom or right)
        if pad:
            x = F.pad(x, (0, right, 0, bottom))
        wh, ww = x.shape[2] // p, x.shape[3] // p
        windows = x.reshape(b, c, p, wh, p, ww).permute(0, 2, 4, 3, 5, 1).reshape(b, p * p, wh, ww, c)
        if not (pad and self.mask_pad):
            return windows, None
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
        real = (rows < h)[:, None] & (columns < w)
        return windows, real.reshape(p, wh, p, ww).permute(0, 2, 1, 3).reshape(p * p, wh, ww)

    def _route(self, windows: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the windows that each window attends to and their weights, decided in float32.

        The mean of a linear map is the linear map of the mean, so the features need not be averaged. Hook-based FLOP
        counters do not see this small product.
        """
        dtype = torch.promote_types(windows.dtype, torch.float32)
        grad = self.diff_routing and torch.is_grad_enabled()
        with no_autocast(windows), torch.set_grad_enabled(grad):
            if real is None:
                means = windows.mean((2, 3), dtype=dtype)  # (B, p^2, C)
            else:
                # Padding is zero, so only the count has to leave it out.
                means = windows.sum((2, 3), dtype=dtype) / real.sum((1, 2)).clamp(min=1)[:, None]
            qkv, rows = self.qkv["qkv"], 2 * self.qk_dim
            q, k = F.linear(means, qkv.weight[:rows].to(dtype), qkv.bias[:rows].to(dtype)).chunk(2, -1)
            if self.param_routing:
                weight, bias = (t.to(dtype) for t in (self.router["emb"].weight, self.router["emb"].bias))
                q, k = F.linear(q, weight, bias), F.linear(k, weight, bias)
            logits = (q * self.scale) @ k.transpose(1, 2)  # (B, p^2, p^2)
            if real is not None:
                logits = logits.masked_fill(~real.flatten(1).any(1), float("-inf"))
            logits, index = logits.topk(min(self.topk, self.n_win**2))
            return index, logits.softmax(-1)

    def _gather(self, tokens: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Join the tokens of the windows that each window is routed to."""
        n, m, c = tokens.shape
        first = torch.arange(index.shape[0], device=index.device) * self.n_win**2
        tokens = tokens.reshape(n, m * c).index_select(0, (index + first[:, None, None]).flatten())  # (B p^2 k, M c)
        if self.soft_routing:
            tokens = tokens * weights.to(tokens.dtype).reshape(-1, 1)
        return tokens.reshape(n, -1, c)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """Attend from the queries to the tokens of the same row, and return (rows, queries, C)."""
        q = q.reshape(k.shape[0], -1, self.qk_dim)
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        # Finite, so that a row of padding alone (it is cropped, or fractional pooling met nothing else) stays finite.
        mask = None if real is None else (~real).to(q.dtype) * torch.finfo(q.dtype).min
        return attend(q, k, v, self.scale, mask).transpose(1, 2).flatten(2)

    def _to_map(self, x: Tensor, windows: Tensor) -> Tensor:
        """Undo ``_partition`` up to the order of dimensions: (B, H', W', C)."""
        (b, _, h, w, _), p = windows.shape, self.n_win
        x = x.reshape(b, p, p, h, w, x.shape[-1]).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, p * h, p * w, x.shape[-1])

    def _downsample(self, kv: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Thin out the windows' keys and values (n, h, w, c) to (n, M, c); a token is real if it saw a real pixel."""
        mode = self.kv_downsample_mode
        if mode == "identity" or (mode in ("avgpool", "maxpool") and self.kv_downsample_ratio == 1):
            return kv.flatten(1, 2), None if real is None else real.flatten(1)
        kv = kv.permute(0, 3, 1, 2)  # (n, c, h, w)
        sample = kv.new_full((1, 1, 2), 0.5)
        if mode == "fracpool" and self.training:
            sample = torch.rand_like(sample)
        if real is None:
            return self._pool(kv, sample).flatten(2).transpose(1, 2), None
        real = real.repeat(kv.shape[0] // self.n_win**2, 1, 1)[:, None]  # (n, 1, h, w)
        average = mode in ("avgpool", "ada_avgpool")
        kv = kv.masked_fill(~real, 0.0 if average or mode == "conv" else torch.finfo(kv.dtype).min)
        share = self._pool(real.to(kv.dtype), sample, features=False).flatten(2).transpose(1, 2)  # (n, M, 1)
        tokens, keep = self._pool(kv, sample).flatten(2).transpose(1, 2), share > 0
        if average:
            tokens = tokens / torch.where(keep, share, 1.0)
        return torch.where(keep, tokens, 0.0), keep[: self.n_win**2, :, 0]

    def _pool(self, x: Tensor, sample: Tensor, features: bool = True) -> Tensor:
        """Thin out ``x``; without ``features`` it is the 0/1 map of real pixels, which no weights may touch."""
        mode, kernel, ratio = self.kv_downsample_mode, self.kv_downsample_kernel, self.kv_downsample_ratio
        h, w = int(x.shape[2]), int(x.shape[3])
        if mode in ("avgpool", "maxpool"):
            pool = F.avg_pool2d if mode == "avgpool" else F.max_pool2d
            return pool(x, (min(ratio, h), min(ratio, w)))
        if mode in ("ada_avgpool", "ada_maxpool"):
            average = mode == "ada_avgpool"
            if torch.jit.is_tracing():
                return _adaptive_pool(x, self.kv_per_win, average)
            return (F.adaptive_avg_pool2d if average else F.adaptive_max_pool2d)(x, self.kv_per_win)
        if mode == "conv":
            if h < kernel or w < kernel:
                x = F.pad(x, (0, max(kernel - w, 0), 0, max(kernel - h, 0)))
            return self.kv_down(x) if features else F.max_pool2d(x, kernel, ratio)
        size = (max(1, h // ratio), max(1, w // ratio))
        kernels = tuple(min(kernel, n - m + 1) for n, m in zip((h, w), size, strict=True))
        # One sample for all channels: a token's key and value have to come from the same places.
        sample = sample.to(x.dtype).expand(x.shape[0], x.shape[1], 2)
        return F.fractional_max_pool2d(x, kernels, size, _random_samples=sample)

    def extra_repr(self) -> str:
        names = (
            "channels n_win num_heads qk_dim qk_scale kv_per_win kv_downsample_ratio kv_downsample_kernel "
            "kv_downsample_mode topk param_attention param_routing diff_routing soft_routing side_dwconv "
            "auto_pad mask_pad"
        )
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())


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
