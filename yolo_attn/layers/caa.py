"""CAA gates every element by a long strip-shaped context: a local mean, then depthwise strips along width and height.

Paper: Poly Kernel Inception Network for Remote Sensing Detection, arXiv 2403.06258.
Official code: NUST-Machine-Intelligence-Laboratory/PKINet (Apache-2.0).
Differs: the gate is applied here (official: the block multiplies; ``gate_only=True`` returns the gate), batch norms
keep PyTorch's eps and momentum (official: 1e-3 and 0.03, and none inside PKINet), and the kernels do not grow from
block to block.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks as check
from ._depthwise import depthwise
from ._fast import may_be_fast
from ._layout import like
from ._norm import batch_norm, fold_norm
from ._pasted import takes_pasted


@may_be_fast
def box_mean(x: Tensor) -> Tensor:
    """Return the mean of the 7x7 pixels around each pixel, zeros outside: ``(B, C, H, W) -> (B, C, H, W)``."""
    return F.avg_pool2d(x, 7, stride=1, padding=3)


class _ConvNormAct(nn.Module):
    """1x1 convolution without bias, batch norm and SiLU: ``(B, C, H, W) -> (B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(batch_norm(self.bn, self.conv(x)))

    def fold_for_inference(self) -> None:
        """Take the batch norm into the convolution."""
        fold_norm(self, "conv", "bn")


class CAA(nn.Module):
    """Rescale every element of the map by a gate in (0, 1) that sees a strip-shaped surrounding.

    ``y = x * sigmoid(f2(v(h(f1(mean7x7(x))))))``: f1 and f2 are 1x1 convolutions with norm and SiLU, h and v depthwise
    strips along width and height.

    Paper: Poly Kernel Inception Network for Remote Sensing Detection, 2024, arXiv 2403.06258.

    Args:
        channels: Width C of the map, at least 1.
        h_kernel_size: Length of the strip along the width in pixels, odd; it may exceed the map.
        v_kernel_size: Length of the strip along the height in pixels, odd; it may exceed the map.
        gate_only: Return the gate instead of its product with the map.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory.

    Raises:
        ValueError: If ``channels`` is not a positive integer, a kernel size is not odd and positive, or ``gate_only``
            is no bool.

    Example:
        ``[-1, 1, CAA, [11, 11]]``

        >>> layer = CAA(64, h_kernel_size=11, v_kernel_size=11)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(
        self, channels: int, h_kernel_size: int = 11, v_kernel_size: int = 11, gate_only: bool = False
    ) -> None:
        super().__init__()
        self.channels = check.integer("channels", channels)
        self.h_kernel_size = a = check.odd("h_kernel_size", h_kernel_size)
        self.v_kernel_size = b = check.odd("v_kernel_size", v_kernel_size)
        self.gate_only = check.flag("gate_only", gate_only)
        self.conv1 = _ConvNormAct(channels)
        self.h_conv = nn.Conv2d(channels, channels, (1, a), padding=(0, a // 2), groups=channels)
        self.v_conv = nn.Conv2d(channels, channels, (b, 1), padding=(b // 2, 0), groups=channels)
        self.conv2 = _ConvNormAct(channels)

    def forward(self, x: Tensor) -> Tensor:
        u = self.conv1(box_mean(x))
        gate = self.conv2(depthwise(self.v_conv, depthwise(self.h_conv, u))).sigmoid().to(x.dtype)  # (B, C, H, W)
        return like(gate if self.gate_only else x * gate, x)

    extra_repr = check.arguments
