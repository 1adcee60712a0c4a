"""MHSA lets every pixel attend to every other pixel by the similarity of their linear maps, in several heads.

Paper: Attention Is All You Need, arXiv 1706.03762.
Official code: rayleizhu/BiFormer (MIT), class ``Attention``, which is the form people place in detectors.
Differs: takes and returns NCHW (official: NHWC).
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._attention import attend
from ._layout import like
from ._pasted import takes_pasted


class MHSA(nn.Module):
    """Replace each pixel by a mixture of all pixels' values, weighted by similarity; no position, no residual, no norm.

    ``y_i = P sum_j softmax_j(scale q_i k_j) v_j`` in each head; i and j are pixels, P is the output map.

    Paper: Attention Is All You Need, 2017, arXiv 1706.03762.

    Args:
        channels: Width C of the map, a multiple of ``num_heads``.
        num_heads: Number of heads, at least 1; each is ``C / num_heads`` wide.
        qkv_bias: Give the query, key and value maps a bias. The loss does not depend on the key part of it.
        qk_scale: Factor of the query-key products; None or 0 means ``(C / num_heads) ** -0.5``.
        attn_drop: Dropout of the attention weights, in [0, 1). Needs the weights in memory, O(heads (HW)^2).
        proj_drop: Dropout of the output, in [0, 1).

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O((HW)^2) time, O(HW) memory.

    Raises:
        ValueError: If ``channels`` is not divisible by ``num_heads``, or an argument is out of its range.

    Example:
        ``[-1, 1, MHSA, [8]]``

        >>> layer = MHSA(64, num_heads=8)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.num_heads = check.integer("num_heads", num_heads)
        check.divisible("channels", channels, "num_heads", num_heads)
        self.qkv_bias = check.flag("qkv_bias", qkv_bias)
        self.qk_scale = qk_scale
        self.scale = check.scale("qk_scale", qk_scale, (channels // num_heads) ** -0.5)
        self.attn_drop = check.probability("attn_drop", attn_drop)
        self.proj_drop = check.probability("proj_drop", proj_drop)
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(rearrange(x, "b c h w -> b (h w) c"))  # (B, N, 3C)
        return self._to_map(self.proj(self._attend(qkv)), x)

    def _attend(self, qkv: Tensor) -> Tensor:
        q, k, v = (rearrange(t, "b n (heads d) -> b heads n d", heads=self.num_heads) for t in qkv.chunk(3, -1))
        dropout = self.attn_drop if self.training else 0.0
        y = attend(q, k, v, self.scale, dropout=dropout)  # (B, heads, N, d)
        return rearrange(y, "b heads n d -> b n (heads d)")

    def _to_map(self, y: Tensor, x: Tensor) -> Tensor:
        y = F.dropout(y, self.proj_drop, self.training)
        return like(rearrange(y, "b (h w) c -> b c h w", h=x.shape[2]), x)

    extra_repr = check.arguments
