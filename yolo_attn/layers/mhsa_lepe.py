"""MHSALePE adds a depthwise convolution of the map, as position information, to multi-head self-attention.

Paper: CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows, arXiv 2107.00652.
Official code: rayleizhu/BiFormer (MIT), class ``AttentionLePE``.
Differs: takes and returns NCHW (official: NHWC); attention is global, not in cross-shaped stripes; the convolution sees
the layer's input, as in the official NHWC class, where the paper convolves the values (``lepe_on="v"`` does).
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from . import _checks as check
from ._pasted import takes_pasted
from .mhsa import MHSA


class MHSALePE(MHSA):
    """Replace each pixel by a mixture of all pixels' values plus a depthwise convolution around it.

    ``y_i = P (sum_j softmax_j(scale q_i k_j) v_j + lepe(x)_i)`` in each head; P is the output map.

    Paper: CSWin Transformer, 2021, arXiv 2107.00652.

    Args:
        channels: Width C of the map, a multiple of ``num_heads``.
        num_heads: Number of heads, at least 1; each is ``C / num_heads`` wide.
        qkv_bias: Give the query, key and value maps a bias. The loss does not depend on the key part of it.
        qk_scale: Factor of the query-key products; None or 0 means ``(C / num_heads) ** -0.5``.
        attn_drop: Dropout of the attention weights, in [0, 1). Needs the weights in memory, O(heads (HW)^2).
        proj_drop: Dropout of the output, in [0, 1).
        side_dwconv: Kernel of the depthwise convolution in pixels, odd; 0 or less for none.
        lepe_on: What is convolved: ``"x"``, the layer's input, or ``"v"``, the values, as in the paper.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O((HW)^2) time, O(HW) memory.

    Raises:
        ValueError: If ``channels`` is not divisible by ``num_heads``, or an argument is out of its range.

    Example:
        ``[-1, 1, MHSALePE, [8]]``

        >>> layer = MHSALePE(64, num_heads=8, side_dwconv=5)
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
        side_dwconv: int = 5,
        lepe_on: str = "x",
    ) -> None:
        super().__init__(channels, num_heads, qkv_bias, qk_scale, attn_drop, proj_drop)
        self.side_dwconv = check.odd("side_dwconv", side_dwconv, off=True)
        self.lepe_on = check.choice("lepe_on", lepe_on, ("x", "v"))
        if self.side_dwconv:
            self.lepe = nn.Conv2d(channels, channels, side_dwconv, padding=side_dwconv // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(rearrange(x, "b c h w -> b (h w) c"))  # (B, N, 3C)
        y, v = self._attend(qkv), qkv[..., -self.channels :]  # (B, N, C)
        if self.side_dwconv:
            source = x if self.lepe_on == "x" else rearrange(v, "b (h w) c -> b c h w", h=x.shape[2])
            y = y + rearrange(self.lepe(source), "b c h w -> b (h w) c")
        return self._to_map(self.proj(y), x)
