"""What tests of layers against slow formulas share: random layers, the comparison, the operations by definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LIMIT = 1e-11  # float64 noise of other summation orders, relative to the largest entry; a mistake moves 1e-4 and more
State = Mapping[str, Tensor]


def randomise(layer: nn.Module) -> nn.Module:
    """Give every parameter and statistic a random value, so that nothing hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(3)
    layer.double()
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.5)
    return layer


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def distance(actual: Tensor, expected: Tensor | None, scale: float = 0.0) -> float:
    if expected is None:
        expected = torch.zeros(())
    return (actual - expected).abs().max().item() / (max(expected.abs().max().item(), scale) or 1.0)


def agree(layer: nn.Module, oracle: Callable[[Tensor, State], Tensor], x: Tensor) -> None:
    """Compare outputs and all gradients of the layer and of the formula fed with the layer's own tensors."""
    parameters = dict(layer.named_parameters())
    state = {**parameters, **{k: b.clone() for k, b in layer.named_buffers()}}
    a, b = (x.clone().requires_grad_() for _ in range(2))
    expected = oracle(b, state)
    y = layer(a)
    assert y.shape == expected.shape
    assert distance(y, expected) < LIMIT
    w = features(*y.shape).flip(0, 1)
    wanted = torch.autograd.grad((expected * w).sum(), [b, *parameters.values()], allow_unused=True)
    got = torch.autograd.grad((y * w).sum(), [a, *parameters.values()])
    assert distance(got[0], wanted[0]) < LIMIT
    # A parameter that a norm or a softmax hides has only noise for a gradient: the largest gradient is its scale.
    largest = max(g.abs().max().item() for g in wanted if g is not None)
    for name, actual, reference in zip(parameters, got[1:], wanted[1:], strict=True):
        assert distance(actual, reference, largest) < LIMIT, name


def half_precision_error(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> float:
    """Return the error of the layer in ``dtype``, relative to the largest entry, against itself in float64."""
    with torch.no_grad():
        half = layer.to(dtype)(x.to(dtype))
        assert half.dtype == dtype
        return distance(half.double(), layer.double()(x.to(dtype).double()))


def pointwise(x: Tensor, p: State, name: str) -> Tensor:
    """1x1 convolution as a sum over the input channels."""
    y = torch.einsum("bchw,oc->bohw", x, p[f"{name}.weight"][:, :, 0, 0])
    return y + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else y


def depthwise(x: Tensor, p: State, name: str, dilation: int = 1) -> Tensor:
    """Depthwise convolution as a sum of shifted maps."""
    weight = p[f"{name}.weight"]
    kh, kw = weight.shape[2:]
    h, w = x.shape[2:]
    above, before = dilation * (kh // 2), dilation * (kw // 2)
    padded = F.pad(x, (before, before, above, above))
    y = p[f"{name}.bias"][:, None, None].expand_as(x)
    for r in range(kh):
        for s in range(kw):
            top, left = r * dilation, s * dilation
            y = y + weight[:, 0, r, s, None, None] * padded[:, :, top : top + h, left : left + w]
    return y


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Dense convolution with zeros around the map as a sum of shifted maps."""
    kh, kw = weight.shape[2:]
    h, w = x.shape[2:]
    padded = F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2))
    y = 0.0 if bias is None else bias[:, None, None]
    for r in range(kh):
        for s in range(kw):
            y = y + torch.einsum("bchw,oc->bohw", padded[:, :, r : r + h, s : s + w], weight[:, :, r, s])
    return y


def group_norm(x: Tensor, p: State, name: str, groups: int) -> Tensor:
    """Group norm by its definition."""
    b, c = x.shape[:2]
    t = x.reshape(b, groups, -1)
    mean = t.sum(2, keepdim=True) / t.shape[2]
    var = (t - mean).square().sum(2, keepdim=True) / t.shape[2]
    shape = (1, c, *[1] * (x.ndim - 2))
    t = ((t - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
    return t * p[f"{name}.weight"].reshape(shape) + p[f"{name}.bias"].reshape(shape)


def layer_norm(t: Tensor, p: State, name: str) -> Tensor:
    """Norm over the channels of ``(B, C)`` by its definition."""
    mean = t.sum(1, keepdim=True) / t.shape[1]
    var = (t - mean).square().sum(1, keepdim=True) / t.shape[1]
    return (t - mean) / (var + 1e-5).sqrt() * p[f"{name}.weight"].flatten() + p[f"{name}.bias"].flatten()


def softmax(t: Tensor, dim: int) -> Tensor:
    e = (t - t.detach().amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)
