"""Classes with the keys and the functions of those that people paste into Ultralytics, for ``edited_host.py``."""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules import block


class SEAttention(nn.Module):
    def __init__(self, channel, reduction=16):
        super().__init__()
        hidden = channel // reduction
        self.fc = nn.Sequential(nn.Linear(channel, hidden, False), nn.ReLU(), nn.Linear(hidden, channel, False))

    def forward(self, x):
        return x * self.fc(x.mean((2, 3))).sigmoid()[..., None, None]


class ChannelPart(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        hidden = channels // reduction
        self.se_block = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def forward(self, x):
        return (self.se_block(x.mean((2, 3), True)) + self.se_block(x.amax((2, 3), True))).sigmoid()


class SpatialPart(nn.Module):
    def __init__(self, kernel_size):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x):
        return self.conv(torch.cat([x.amax(1, True), x.mean(1, True)], 1)).sigmoid()


class CBAMBlock(nn.Module):
    def __init__(self, channels=512, reduction=16, kernel_size=7):
        super().__init__()
        self.channel_attention, self.spatial_attention = ChannelPart(channels, reduction), SpatialPart(kernel_size)

    def forward(self, x):
        x = x * self.channel_attention(x)
        return x * self.spatial_attention(x)


class CoordAtt(nn.Module):
    def __init__(self, inp, oup, reduction=32):
        super().__init__()
        mip = max(8, inp // reduction)
        self.conv1, self.bn1, self.act = nn.Conv2d(inp, mip, 1), nn.BatchNorm2d(mip), nn.Hardswish()
        self.conv_h, self.conv_w = nn.Conv2d(mip, oup, 1), nn.Conv2d(mip, oup, 1)

    def forward(self, x):
        h, w = x.shape[2:]
        strips = torch.cat([x.mean(3, True), x.mean(2, True).transpose(2, 3)], 2)
        a, b = self.act(self.bn1(self.conv1(strips))).split([h, w], 2)
        return x * self.conv_h(a).sigmoid() * self.conv_w(b.transpose(2, 3)).sigmoid()


class EfficientChannelAttention(nn.Module):
    def __init__(self, c, k=5):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x):
        return x * self.conv1(x.mean((2, 3))[:, None])[:, 0].sigmoid()[..., None, None]


class Plane(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Module()
        self.conv.conv, self.conv.bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x):
        return x * self.conv.bn(self.conv.conv(torch.stack([x.amax(1), x.mean(1)], 1))).sigmoid()


class TripletAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cw, self.hc, self.hw = Plane(), Plane(), Plane()

    def forward(self, x):
        cw = self.cw(x.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        hc = self.hc(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        return (cw + hc + self.hw(x)) / 3


class ELA(nn.Module):
    def __init__(self, channel):
        super().__init__()
        self.conv1x1 = nn.Sequential(nn.Conv1d(channel, channel, 1), nn.GroupNorm(16, channel), nn.Sigmoid())

    def forward(self, x):
        return x * self.conv1x1(x.mean(3))[..., None] * self.conv1x1(x.mean(2))[:, :, None]


class Attention(nn.Module):
    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, False), nn.Linear(dim, dim)
        self.attn_drop = nn.Dropout(0.1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x.flatten(2).mT).view(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT * self.scale).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, h * w, c)).mT.reshape(b, c, h, w)


class BiLevelRoutingAttention(nn.Module):
    """Keeps its settings and tensors; the formula is the package's, which other tests hold against the paper's code."""

    def __init__(self, dim, num_heads=8, n_win=7, topk=4):
        super().__init__()
        self.dim, self.num_heads, self.n_win, self.topk, self.scale = dim, num_heads, n_win, topk, dim**-0.5
        self.qkv = nn.Module()
        self.qkv.qkv = nn.Linear(dim, 3 * dim)
        self.wo, self.lepe = nn.Linear(dim, dim), nn.Conv2d(dim, dim, 5, padding=2, groups=dim)

    def forward(self, x):
        from yolo_attn.layers import BiFormer

        layer = BiFormer(self.dim, n_win=self.n_win, num_heads=self.num_heads, topk=self.topk, side_dwconv=5).eval()
        layer.load_state_dict(self.state_dict())
        return layer(x)


class SimAM(nn.Module):
    def __init__(self, channels, e_lambda=1e-4):
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x):
        d = (x - x.mean((2, 3), True)) ** 2
        v = d.sum((2, 3), True) / (x.shape[2] * x.shape[3] - 1)
        return x * (d / (4 * (v + self.e_lambda)) + 0.5).sigmoid()


class Bottle(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Conv2d(channels, hidden, 1), Norm(hidden), nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        return self.fc2(self.norm(self.fc1(x)).relu())


class Norm(nn.LayerNorm):
    def __init__(self, width):
        super().__init__(width, eps=1e-6)

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GlobalContext(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_attn, self.mlp_scale = nn.Conv2d(channels, 1, 1), Bottle(channels, channels // 8)

    def forward(self, x):
        z = (x.flatten(2) * self.conv_attn(x).flatten(2).softmax(-1)).sum(-1)[..., None, None]
        return x * self.mlp_scale(z).sigmoid()


class GAM(nn.Module):
    """Whether its channel gate ends in a sigmoid, no tensor shows."""

    def __init__(self, channels, rate=4):
        super().__init__()
        k = channels // rate
        self.channel_attention = nn.Sequential(nn.Linear(channels, k), nn.ReLU(), nn.Linear(k, channels))
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(channels, k, 7, padding=3), nn.BatchNorm2d(k), nn.ReLU(),
            nn.Conv2d(k, channels, 7, padding=3), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x):
        x = x * self.channel_attention(x.movedim(1, -1)).movedim(-1, 1).sigmoid()
        return x * self.spatial_attention(x).sigmoid()


class SpatialBranch(nn.Module):
    def __init__(self, channels, k, dilation):
        super().__init__()
        self.sa = nn.Sequential()
        self.sa.add_module("conv_reduce", nn.Conv2d(channels, k, 1))
        self.sa.add_module("bn_reduce", nn.BatchNorm2d(k))
        self.sa.add_module("relu_reduce", nn.ReLU())
        for i in range(3):
            self.sa.add_module(f"conv_{i}", nn.Conv2d(k, k, 3, padding=dilation, dilation=dilation))
            self.sa.add_module(f"bn_{i}", nn.BatchNorm2d(k))
            self.sa.add_module(f"relu_{i}", nn.ReLU())
        self.sa.add_module("last_conv", nn.Conv2d(k, 1, 1))

    def forward(self, x):
        return self.sa(x)


class ChannelBranch(nn.Module):
    def __init__(self, channels, k):
        super().__init__()
        self.ca = nn.Sequential()
        for i in range(3):
            self.ca.add_module(f"fc_{i}", nn.Linear(k if i else channels, k))
            self.ca.add_module(f"bn_{i}", nn.BatchNorm1d(k))
            self.ca.add_module(f"relu_{i}", nn.ReLU())
        self.ca.add_module("last_fc", nn.Linear(k, channels))

    def forward(self, x):
        return self.ca(x.mean((2, 3)))[..., None, None]


class BAMBlock(nn.Module):
    """Its dilation is no attribute of it; its convolutions know it."""

    def __init__(self, channels, reduction=16, dilation=4):
        super().__init__()
        self.ca = ChannelBranch(channels, channels // reduction)
        self.sa = SpatialBranch(channels, channels // reduction, dilation)

    def forward(self, x):
        return x * (1 + (self.ca(x) + self.sa(x)).sigmoid())


class Focus2(nn.Module):
    """Fits two layers, and its name says nothing."""

    def __init__(self, channel):
        super().__init__()
        h = channel // 2
        self.ch_wv, self.ch_wq, self.ch_wz = (
            nn.Conv2d(channel, h, 1),
            nn.Conv2d(channel, 1, 1),
            nn.Conv2d(h, channel, 1),
        )
        self.ln = nn.LayerNorm(channel)
        self.sp_wv, self.sp_wq = nn.Conv2d(channel, h, 1), nn.Conv2d(channel, h, 1)

    def forward(self, x):
        return x


class Nothing(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x


class Own(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.alpha, self.mix = nn.Parameter(torch.rand(3)), nn.Linear(channels, 2 * channels)

    def forward(self, x):
        return x


class DAttention(nn.Module):
    """Keeps the size of its table as two numbers; the formula is the package's, as in ``BiLevelRoutingAttention``."""

    def __init__(self, channel, q_h, q_w):
        super().__init__()
        self.n_heads, self.n_groups, self.stride, self.ksize, self.offset_range_factor = 4, 2, 1, 3, -1
        self.q_h, self.q_w, self.use_pe, self.dwc_pe, self.no_off, self.log_cpb = q_h, q_w, True, False, False, False
        half = channel // 2
        norm = nn.Module()
        norm.norm = nn.LayerNorm(half)
        self.conv_offset = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, groups=half), norm, nn.GELU(), nn.Conv2d(half, 2, 1, bias=False)
        )
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Conv2d(channel, channel, 1) for _ in range(4))
        self.rpe_table = nn.Parameter(torch.rand(4, 2 * q_h - 1, 2 * q_w - 1))

    def forward(self, x):
        from yolo_attn.layers import DAttention as Ours

        layer = Ours(x.shape[1], n_heads=4, n_groups=2, offset_range_factor=-1, dwc_pe=False, q_size=(6, 8)).eval()
        layer.load_state_dict(self.state_dict())
        return layer(x)


class C2f_SE(block.C2f):
    def __init__(self, c1, c2, n=1, shortcut=False):
        super().__init__(c1, c2, n, shortcut)
        self.att = SEAttention(c2)

    def forward(self, x):
        return self.att(super().forward(x))


class BottleneckSE(block.Bottleneck):
    def __init__(self, c1, c2, shortcut=True):
        super().__init__(c1, c2, shortcut, k=(3, 3), e=1.0)
        self.se = SEAttention(c2, 4)

    def forward(self, x):
        return x + self.se(self.cv2(self.cv1(x)))


class C2fInside(block.C2f):
    def __init__(self, c1, c2, n=1):
        super().__init__(c1, c2, n, True)
        self.m = nn.ModuleList(BottleneckSE(self.c, self.c) for _ in range(n))
