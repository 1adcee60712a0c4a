"""BiFormer lets the pixels of each window attend only to the pixels of the few windows most similar to it.

Paper: BiFormer: Vision Transformer with Bi-Level Routing Attention, arXiv 2303.08810.
Official code: rayleizhu/BiFormer (MIT), the legacy operator ``BiLevelRoutingAttention``.
Differs: takes and returns NCHW; ``auto_pad`` is on (official: off); ``n_win`` stands before ``num_heads`` (official:
behind); ``topk`` beyond the number of windows means all; the ``conv`` and ``fracpool`` modes, announced in the official
code, exist; ``mask_pad``. The official NCHW flavour is another function on maps that windows do not divide.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from . import _checks as check
from ._attention import attend, attend_with_weights
from ._layout import like
from ._pasted import takes_pasted
from ._precision import no_autocast
from ._windows import MODES, gather_windows, merge_windows, pool_windows, split_windows, window_means
from .regional_routing import regional_routing_attention as regional_routing_attention


class BiFormer(nn.Module):
    """Replace each pixel by a mixture of values from the windows its own window is routed to, plus a depthwise branch.

    ``y_i = Wo(sum_j softmax_j(s q_i k_j) v_j + dwconv(v)_i)`` with j in the windows t of ``topk_t(s Q_r K_t)``, r the
    window of i, and Q and K the windows' mean queries and keys.
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

        ``layer(x, ret_attn_mask=True)`` gives ``(y, weights, index, attention)``, with k the smaller of ``topk`` and
        ``n_win ** 2``: ``index`` (B, n_win^2, k), the windows that each window attends to, the best first, counted in
        row order from the top left, each ``ceil(H / n_win)`` by ``ceil(W / n_win)`` pixels; ``weights`` (B, n_win^2,
        k), their softmax; ``attention`` (B n_win^2, heads, pixels of a window, k tokens of a window), in the order of
        ``index``, in O((HW)^2 topk / n_win^2) memory.

    Raises:
        ValueError: If ``channels`` or ``qk_dim`` is not divisible by ``num_heads``, a routing option lacks the one it
            needs, or an argument is out of its range. In forward, with ``auto_pad=False``, if windows do not divide
            the map.

    Example:
        ``[-1, 1, BiFormer, [7, 8]]``

        >>> layer = BiFormer(64, n_win=7, num_heads=8)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
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
        self.kv_downsample_mode = check.choice("kv_downsample_mode", kv_downsample_mode, MODES)
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
        c, qk = channels, self.qk_dim
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

    def forward(
        self, x: Tensor, ret_attn_mask: bool = False
    ) -> Tensor | tuple[Tensor, Tensor, Tensor, Tensor]:  # the flag is the listing's
        windows, real = split_windows(x, self.n_win, self.auto_pad, self.mask_pad)  # (B, p^2, h, w, C), (p^2, h, w)
        q, kv = self.qkv["qkv"](windows).split((self.qk_dim, self.qk_dim + self.channels), -1)
        tokens, is_real = self._downsample(kv.flatten(0, 1), real)  # (B p^2, M, Q + C), (p^2, M)
        if self.topk < self.n_win**2 or self.soft_routing or ret_attn_mask:
            index, weights = self._route(q, kv[..., : self.qk_dim], real)  # 2 x (B, p^2, k)
            tokens, is_real = self._follow(index, weights, tokens, is_real)  # (B, p^2, k M, Q + C), (B, p^2, k M)
        else:
            tokens = rearrange(tokens, "(b n) m c -> b 1 (n m) c", n=self.n_win**2)
            is_real = None if is_real is None else rearrange(is_real, "n m -> 1 1 (n m)")
        y, *attention = self._attend(q, tokens, is_real, ret_attn_mask)
        y = self._merge(y, kv[..., self.qk_dim :], x)
        return (y, weights, index, *attention) if ret_attn_mask else y

    def _downsample(self, kv: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Thin out the windows' keys and values (n, h, w, c) to (n, M, c); a token is real if it saw a real pixel."""
        conv = self.kv_down if self.kv_downsample_mode == "conv" else None
        sizes = self.kv_per_win, self.kv_downsample_ratio, self.kv_downsample_kernel
        return pool_windows(kv, real, self.kv_downsample_mode, *sizes, conv, self.training)

    def _route(self, q: Tensor, k: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the windows that each window attends to and their weights; means of features decide, in float32."""
        if not self.diff_routing:
            q, k = q.detach(), k.detach()
        with no_autocast(q):
            q, k = window_means(q, real), window_means(k, real)  # (B, p^2, Q)
            if self.param_routing:
                emb = self.router["emb"]
                (dtype, *_) = [*(parameter.dtype for parameter in emb.parameters()), q.dtype]
                q, k = (emb(mean.to(dtype)).to(mean.dtype) for mean in (q, k))
            logits = (q * self.scale) @ k.transpose(1, 2)  # (B, p^2, p^2)
            if real is not None:
                logits = logits.masked_fill(~real.flatten(1).any(1), float("-inf"))
            logits, index = logits.topk(min(self.topk, self.n_win**2))
            return index, logits.softmax(-1)

    def _follow(
        self, index: Tensor, weights: Tensor, tokens: Tensor, is_real: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens of the windows that each window is routed to."""
        tokens = gather_windows(tokens, index)  # (B, p^2, k, M, c)
        if self.soft_routing:
            tokens = tokens * weights.to(tokens.dtype)[..., None, None]
        return tokens.flatten(2, 3), None if is_real is None else is_real[index].flatten(2)

    def _attend(self, q: Tensor, tokens: Tensor, is_real: Tensor | None, with_weights: bool) -> tuple[Tensor, ...]:
        """Return what the queries (B, p^2, h, w, Q) find among the tokens (B, r, m, Q + C): (B, p^2, h, w, C).

        With ``with_weights`` also the weights (B p^2, heads, h w, m), which the fused computation never holds.
        """
        sizes = {"r": tokens.shape[1], "heads": self.num_heads}
        k, v = tokens.split((self.qk_dim, self.channels), -1)
        k, v = (rearrange(t, "b r m (heads d) -> (b r) heads m d", **sizes) for t in (k, v))
        # Six dimensions at most on the way: runtimes have no more.
        rows = rearrange(q.flatten(2, 3), "b (r n) m (heads d) -> (b r) heads (n m) d", **sizes)
        mask = None
        if is_real is not None:  # finite, so that a row of padding alone (it is cropped) stays finite
            mask = rearrange(~is_real, "b r m -> (b r) 1 1 m").to(q.dtype) * torch.finfo(q.dtype).min
        found = (
            attend_with_weights(rows, k, v, self.scale, mask)
            if with_weights
            else (attend(rows, k, v, self.scale, mask),)
        )
        y = rearrange(found[0], "(b r) heads (n m) d -> b (r n) m (heads d)", n=q.shape[1] // tokens.shape[1], **sizes)
        return rearrange(y, "b n (h w) c -> b n h w c", h=q.shape[2]), *found[1:]

    def _merge(self, y: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """Put the windows of the result and of the depthwise branch together to a map like ``x``."""
        y = merge_windows(y, self.n_win)  # (B, C, p h, p w)
        if self.side_dwconv:
            y = y + self.lepe(merge_windows(v, self.n_win))
        y = rearrange(y[:, :, : x.shape[2], : x.shape[3]], "b c h w -> b h w c")
        return like(rearrange(self.wo(y) if self.param_attention == "qkvo" else y, "b h w c -> b c h w"), x)

    extra_repr = check.arguments
