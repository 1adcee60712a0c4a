"""The gating layers (BAM, CAA, CBAM, CoordAtt, CPCA, SE) against slow formulas, where no golden file can speak."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from oracles import LIMIT, State, agree, depthwise, distance, features, pointwise, randomise
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_attn import registry
from yolo_attn.layers import BAM, CAA, CBAM, CPCA, SE, CoordAtt

pytestmark = pytest.mark.usefixtures("form")


def batch_norm(x: Tensor, p: State, name: str, train: bool, eps: float = 1e-5) -> Tensor:
    """Batch norm by its definition; one value per channel takes the running statistics."""
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
    if train and x.numel() > x.shape[1]:
        mean = x.mean(dims)
        var = (x - mean.reshape(shape)).square().mean(dims)
    z = (x - mean.reshape(shape)) / (var.reshape(shape) + eps).sqrt()
    return z * p[f"{name}.weight"].reshape(shape) + p[f"{name}.bias"].reshape(shape)


def buffers(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


# --------------------------------------------------------------------------------------------------------------- SE


@pytest.mark.parametrize(("width", "hidden"), [(32, 2), (16, 1), (5, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_se(width: int, hidden: int, bias: bool) -> None:
    layer = randomise(SE(width, 16, bias))
    assert layer.fc[0].weight.shape == (hidden, width)
    assert ("fc.0.bias" in layer.state_dict()) is bias

    def oracle(x: Tensor, p: State) -> Tensor:
        s = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        s = (s @ p["fc.0.weight"].T + p.get("fc.0.bias", 0)).clamp(min=0)
        return x * torch.sigmoid(s @ p["fc.2.weight"].T + p.get("fc.2.bias", 0))[:, :, None, None]

    agree(layer, oracle, features(3, width, 4, 7))


# -------------------------------------------------------------------------------------------------------------- BAM


def bam_oracle(train: bool, dilation: int, num_layers: int, product: bool, eps: float = 1e-5) -> Callable:
    def oracle(x: Tensor, p: State) -> Tensor:
        a = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        for j in range(num_layers):
            a = a @ p[f"ca.ca.fc_{j}.weight"].T + p[f"ca.ca.fc_{j}.bias"]
            a = batch_norm(a, p, f"ca.ca.bn_{j}", train, eps).clamp(min=0)
        c = (a @ p["ca.ca.last_fc.weight"].T + p["ca.ca.last_fc.bias"])[:, :, None, None]
        t = batch_norm(pointwise(x, p, "sa.sa.conv_reduce"), p, "sa.sa.bn_reduce", train, eps).clamp(min=0)
        for j in range(num_layers):
            weight, bias = p[f"sa.sa.conv_{j}.weight"], p[f"sa.sa.conv_{j}.bias"]
            h, w = t.shape[2:]
            padded = F.pad(t, [dilation] * 4)
            t = bias[:, None, None]
            for r in range(3):
                for s in range(3):
                    cut = padded[:, :, r * dilation : r * dilation + h, s * dilation : s * dilation + w]
                    t = t + torch.einsum("bchw,oc->bohw", cut, weight[:, :, r, s])
            t = batch_norm(t, p, f"sa.sa.bn_{j}", train, eps).clamp(min=0)
        s = pointwise(t, p, "sa.sa.last_conv")
        return x * (1 + torch.sigmoid(c * s if product else c + s))

    return oracle


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize(("num_layers", "dilation"), [(1, 4), (2, 1), (3, 2)])
def test_bam(train: bool, combine: str, num_layers: int, dilation: int) -> None:
    layer = randomise(BAM(12, 4, dilation, num_layers, combine)).train(train)
    assert sum(name.startswith("ca.ca.fc_") for name in layer.state_dict()) == 2 * num_layers
    agree(layer, bam_oracle(train, dilation, num_layers, combine == "product"), features(4, 12, 3, 5))


def test_bam_defaults_are_three_layers_dilation_two_and_the_sum() -> None:
    agree(randomise(BAM(33)).eval(), bam_oracle(False, 2, 3, False), features(2, 33, 6, 5))


def test_bam_reads_eps_at_run_time() -> None:
    layer = randomise(BAM(12, 4)).train()
    for module in layer.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.eps = 1e-1
    agree(layer, bam_oracle(True, 2, 3, False, eps=1e-1), features(4, 12, 3, 5))


@pytest.mark.parametrize("size", [(4, 5), (1, 1)], ids=["4x5", "1x1"])
def test_bam_trains_on_one_image(size: tuple[int, int]) -> None:
    layer = randomise(BAM(12, 4)).train()
    before = buffers(layer)
    agree(layer, bam_oracle(True, 2, 3, False), features(1, 12, *size))
    for name, buffer in layer.named_buffers():
        has_one_value = name.startswith("ca.") or size == (1, 1)
        assert torch.equal(buffer, before[name]) is has_one_value, name


def test_bam_below_the_reduction_has_one_hidden_channel() -> None:
    layer = randomise(BAM(5, 16)).train()
    assert layer.sa.sa["conv_reduce"].weight.shape == (1, 5, 1, 1)
    agree(layer, bam_oracle(True, 2, 3, False), features(4, 5, 3, 4))


# -------------------------------------------------------------------------------------------------------------- CAA


def caa_oracle(train: bool, gate_only: bool, eps: float = 1e-5) -> Callable:
    def oracle(x: Tensor, p: State) -> Tensor:
        h, w = x.shape[2:]
        padded = F.pad(x, [3] * 4)
        u = sum(padded[:, :, r : r + h, s : s + w] for r in range(7) for s in range(7)) / 49
        u = batch_norm(pointwise(u, p, "conv1.conv"), p, "conv1.bn", train, eps)
        u = depthwise(depthwise(u * torch.sigmoid(u), p, "h_conv"), p, "v_conv")
        z = batch_norm(pointwise(u, p, "conv2.conv"), p, "conv2.bn", train, eps)
        gate = torch.sigmoid(z * torch.sigmoid(z))
        return gate if gate_only else x * gate

    return oracle


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate_only", [False, True])
@pytest.mark.parametrize(("kernels", "size"), [((11, 11), (9, 4)), ((3, 1), (8, 9)), ((5, 21), (1, 6))])
def test_caa(train: bool, gate_only: bool, kernels: tuple[int, int], size: tuple[int, int]) -> None:
    layer = randomise(CAA(6, *kernels, gate_only)).train(train)
    assert layer.h_conv.weight.shape == (6, 1, 1, kernels[0])
    assert layer.v_conv.weight.shape == (6, 1, kernels[1], 1)
    agree(layer, caa_oracle(train, gate_only), features(2, 6, *size))


def test_caa_reads_eps_at_run_time() -> None:
    layer = randomise(CAA(6)).eval()
    layer.conv1.bn.eps = layer.conv2.bn.eps = 1e-1
    agree(layer, caa_oracle(False, False, eps=1e-1), features(2, 6, 5, 5))


def test_caa_trains_on_one_pixel_with_the_running_statistics() -> None:
    layer = randomise(CAA(6)).train()
    before = buffers(layer)
    agree(layer, caa_oracle(False, False), features(1, 6, 1, 1))
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())


# ------------------------------------------------------------------------------------------------------------- CBAM


def cbam_oracle(train: bool, eps: float = 1e-5) -> Callable:
    def mlp(t: Tensor, p: State) -> Tensor:
        name = "channel_attention.se_block"
        return pointwise(pointwise(t[:, :, None, None], p, f"{name}.0").clamp(min=0), p, f"{name}.2")

    def oracle(x: Tensor, p: State) -> Tensor:
        flat = x.flatten(2)
        u = x * torch.sigmoid(mlp(flat.max(2).values, p) + mlp(flat.mean(2), p))
        maps = torch.stack([u.max(1).values, u.mean(1)], 1)
        weight = p["spatial_attention.conv.weight"]
        k = weight.shape[2]
        h, w = x.shape[2:]
        padded = F.pad(maps, [k // 2] * 4)
        s = p["spatial_attention.conv.bias"] if "spatial_attention.conv.bias" in p else torch.zeros(1).double()
        for r in range(k):
            for t in range(k):
                s = s + (padded[:, :, r : r + h, t : t + w] * weight[:, :, r, t, None, None]).sum(1, keepdim=True)
        if "spatial_attention.bn.weight" in p:
            s = batch_norm(s, p, "spatial_attention.bn", train, eps)
        return u * torch.sigmoid(s)

    return oracle


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("mlp_bias", [False, True])
@pytest.mark.parametrize("spatial_bn", [False, True])
@pytest.mark.parametrize(("width", "reduction", "kernel"), [(12, 4, 7), (5, 16, 5), (8, 2, 1)])
def test_cbam(train: bool, mlp_bias: bool, spatial_bn: bool, width: int, reduction: int, kernel: int) -> None:
    layer = randomise(CBAM(width, reduction, kernel, mlp_bias, spatial_bn)).train(train)
    keys = set(layer.state_dict())
    assert ({"channel_attention.se_block.0.bias", "channel_attention.se_block.2.bias"} <= keys) is mlp_bias
    assert ("spatial_attention.bn.weight" in keys) is spatial_bn
    assert ("spatial_attention.conv.bias" in keys) is not spatial_bn
    agree(layer, cbam_oracle(train), features(3, width, 3, 4))


def test_cbam_with_a_norm_trains_on_one_pixel_with_the_running_statistics() -> None:
    layer = randomise(CBAM(8, 2, spatial_bn=True)).train()
    before = buffers(layer)
    agree(layer, cbam_oracle(False), features(1, 8, 1, 1))
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())


# --------------------------------------------------------------------------------------------------------- CoordAtt


def coord_att_oracle(train: bool, eps: float = 1e-5) -> Callable:
    def oracle(x: Tensor, p: State) -> Tensor:
        h, w = x.shape[2:]
        strips = torch.cat([x.sum(3) / w, x.sum(2) / h], 2)[..., None]
        t = batch_norm(pointwise(strips, p, "conv1"), p, "bn1", train, eps)
        t = t * (t + 3).clamp(0, 6) / 6
        rows = torch.sigmoid(pointwise(t[:, :, :h], p, "conv_h"))
        columns = torch.sigmoid(pointwise(t[:, :, h:], p, "conv_w")).reshape(x.shape[0], -1, 1, w)
        return x * rows * columns

    return oracle


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(2, 4, 3, 6), (3, 4, 1, 1), (1, 4, 5, 1), (1, 4, 1, 1)])
def test_coord_att(train: bool, shape: tuple[int, ...]) -> None:
    layer = randomise(CoordAtt(4)).train(train)
    before = buffers(layer)
    agree(layer, coord_att_oracle(train), features(*shape))
    assert torch.equal(layer.bn1.running_mean, before["bn1.running_mean"]) is not train


@pytest.mark.parametrize(("width", "reduction", "hidden"), [(4, 32, 8), (64, 4, 16), (60, 4, 15), (512, 32, 16)])
def test_coord_att_hidden_width(width: int, reduction: int, hidden: int) -> None:
    assert CoordAtt(width, reduction).conv1.weight.shape == (hidden, width, 1, 1)


def test_coord_att_reads_eps_at_run_time() -> None:
    layer = randomise(CoordAtt(4)).train()
    layer.bn1.eps = 1e-1
    agree(layer, coord_att_oracle(True, eps=1e-1), features(2, 4, 3, 6))


# ------------------------------------------------------------------------------------------------------------- CPCA


def cpca_oracle(x: Tensor, p: State) -> Tensor:
    def gate(t: Tensor) -> Tensor:
        return torch.sigmoid(pointwise(pointwise(t[:, :, None, None], p, "ca.fc1").clamp(min=0), p, "ca.fc2"))

    u = pointwise(x, p, "conv")
    u = u * (1 + torch.erf(u / 2**0.5)) / 2
    flat = u.flatten(2)
    u = u * (gate(flat.mean(2)) + gate(flat.max(2).values))
    z = z0 = depthwise(u, p, "dconv5_5")
    for k in (7, 11, 21):
        z = z + depthwise(depthwise(z0, p, f"dconv1_{k}"), p, f"dconv{k}_1")
    return pointwise(pointwise(z, p, "conv") * u, p, "conv")


@pytest.mark.parametrize(("width", "reduce", "hidden"), [(8, 4, 2), (3, 4, 1), (6, 1, 6)])
@pytest.mark.parametrize("size", [(3, 2), (1, 1), (12, 5)], ids=["3x2", "1x1", "12x5"])
def test_cpca(width: int, reduce: int, hidden: int, size: tuple[int, int]) -> None:
    layer = randomise(CPCA(width, reduce))
    assert layer.ca.fc1.weight.shape == (hidden, width, 1, 1)
    agree(layer, cpca_oracle, features(2, width, *size))


# ----------------------------------------------------------------------------------------------------------- maxima


@pytest.mark.parametrize("layer", [CBAM(6, 2).channel_attention, CPCA(6, 2).ca], ids=["CBAM", "CPCA"])
def test_a_channel_gate_prefers_one_of_equal_pixels(layer: nn.Module) -> None:
    x = torch.ones(1, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    (randomise(layer)(x) * features(1, 6, 1, 1)).sum().backward()
    for grad in x.grad[0]:
        values, counts = grad.unique(return_counts=True)
        assert counts.tolist() in ([1, 11], [11, 1]), values


def test_a_spatial_gate_prefers_one_of_equal_channels() -> None:
    x = torch.ones(1, 6, 1, 1, dtype=torch.float64, requires_grad=True)
    randomise(CBAM(6).spatial_attention)(x).sum().backward()
    assert sorted(x.grad.unique(return_counts=True)[1].tolist()) == [1, 5]


COMPILED = ["SE", "CBAM", "BAM", "CoordAtt", "CAA", "CPCA", "CrissCross", "LSKA", "LSK", "SCSA", "ELA"]
COMPILED += ["Polarized", "PolarizedSeq", "PSA_p", "PSA_s"]


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_layer_is_one_graph_and_agrees(name: str) -> None:
    layer = registry.create(name, 8).double().eval()
    x = features(1, 8, 33, 34).requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    one, other = ((y, *torch.autograd.grad(y.sum(), x)) for y in (compiled(x), layer(x)))
    for actual, expected in zip(one, other, strict=True):
        assert distance(actual, expected) < LIMIT


# -------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SE(0), "channels=0 must be an integer >= 1"),
        (lambda: SE("64"), "channels='64' must be an integer >= 1"),
        (lambda: SE(64, 0), "reduction=0 must be an integer >= 1"),
        (lambda: SE(64, 16, 2), "bias=2 must be True or False"),
        (lambda: BAM(-1), "channels=-1 must be an integer >= 1"),
        (lambda: BAM(64, 2.0), "reduction=2.0 must be an integer >= 1"),
        (lambda: BAM(64, 16, 0), "dilation=0 must be an integer >= 1"),
        (lambda: BAM(64, 16, 2, 0), "num_layers=0 must be an integer >= 1"),
        (lambda: BAM(64, 16, 2, 3, "add"), "combine='add' must be one of 'sum', 'product'"),
        (lambda: CAA(True), "channels=True must be an integer >= 1"),
        (lambda: CAA(64, 10), "h_kernel_size=10 must be an odd integer >= 1"),
        (lambda: CAA(64, 11, 0), "v_kernel_size=0 must be an odd integer >= 1"),
        (lambda: CAA(64, 11, 11, "yes"), "gate_only='yes' must be True or False"),
        (lambda: CBAM(None), "channels=None must be an integer >= 1"),
        (lambda: CBAM(64, "16"), "reduction='16' must be an integer >= 1"),
        (lambda: CBAM(64, 16, 6), "kernel_size=6 must be an odd integer >= 1"),
        (lambda: CBAM(64, 16, 7, None), "mlp_bias=None must be True or False"),
        (lambda: CBAM(64, 16, 7, False, 2), "spatial_bn=2 must be True or False"),
        (lambda: CoordAtt(0), "channels=0 must be an integer >= 1"),
        (lambda: CoordAtt(64, -4), "reduction=-4 must be an integer >= 1"),
        (lambda: CPCA([64]), "channels=[64] must be an integer >= 1"),
        (lambda: CPCA(64, 0), "channelAttention_reduce=0 must be an integer >= 1"),
    ],
)
def test_bad_arguments(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
