"""LSKA multiplies the map by a long-range linear map of itself: depthwise strips, plain and dilated, and a 1x1 one.

Paper: Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN, arXiv 2309.01439.
Official code: StevenLauHKHK/Large-Separable-Kernel-Attention (Apache-2.0).
Differs: ``kernel_size`` has a default and is checked when the layer is built; weights start as PyTorch's do (official
network: normal, biases zero). The official network puts the layer between two 1x1 convolutions inside a residual; this
is the bare product.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import _checks as check
from ._depthwise import depthwise
from ._pasted import takes_pasted

DILATIONS = {7: 2, 11: 2, 23: 3, 35: 3, 41: 3, 53: 3}  # by reach


class LSKA(nn.Module):
    """Multiply every element of the map by a linear map of its surroundings, up to 53 pixels wide; there is no sigmoid.

    ``y = x * conv(v(h(v0(h0(x)))))``: h0 and v0 are depthwise strips along width and height, h and v dilated ones, conv
    is a 1x1 convolution; all have biases.

    Paper: Large Separable Kernel Attention, 2023, arXiv 2309.01439.

    Args:
        channels: Width C of the map, at least 1.
        kernel_size: Reach of the four strips in pixels: 7, 11, 23, 35, 41 or 53; it may exceed the map.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``; O(HW) time and memory. The output grows with the square of the input.

    Raises:
        ValueError: If ``channels`` is not a positive integer, or ``kernel_size`` none of the six.

    Example:
        ``[-1, 1, LSKA, [11]]``

        >>> layer = LSKA(64, kernel_size=11)
        >>> y = layer(torch.randn(2, 64, 20, 20))
    """

    @takes_pasted
    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.channels = c = check.integer("channels", channels)
        self.kernel_size = check.integer("kernel_size", check.choice("kernel_size", kernel_size, tuple(DILATIONS)))
        dilation = DILATIONS[kernel_size]
        near, far = 2 * dilation - 1, kernel_size // dilation
        pad, padded = near // 2, dilation * (far // 2)
        self.conv0h = nn.Conv2d(c, c, (1, near), padding=(0, pad), groups=c)
        self.conv0v = nn.Conv2d(c, c, (near, 1), padding=(pad, 0), groups=c)
        self.conv_spatial_h = nn.Conv2d(c, c, (1, far), padding=(0, padded), dilation=dilation, groups=c)
        self.conv_spatial_v = nn.Conv2d(c, c, (far, 1), padding=(padded, 0), dilation=dilation, groups=c)
        self.conv1 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        t = x
        for strip in (self.conv0h, self.conv0v, self.conv_spatial_h, self.conv_spatial_v):
            t = depthwise(strip, t)
        return x * self.conv1(t).to(x.dtype)

    extra_repr = check.arguments
