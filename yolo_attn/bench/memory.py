"""Peak memory of a model: every tensor alive at one time, counted operation by operation."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from .measure import peak_bytes


class AliveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive in a block, each storage once.

    What a kernel takes for itself while it runs is not seen, nor what the allocator holds back.

    Attributes:
        peak: The most bytes so far.
    """

    def __init__(self, own: Iterable[Tensor]) -> None:
        """Begin with the tensors that are there before the block."""
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()
        for tensor in own:
            self._add(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        y = function(*args, **(kwargs or {}))
        for tensor in tensors_in(y):
            self._add(tensor)
        return y

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def of_training(model: nn.Module, images: Tensor) -> int:
    """Return the peak bytes of one forward and backward pass: weights, gradients and what backward needs.

    Loss and optimiser are not in it. On a GPU the pass runs under autocast, as the host trains, and PyTorch's allocator
    says its peak. Elsewhere it is simulated: shapes are computed, numbers are not.
    """
    own = [*model.parameters(), *model.buffers()]
    if images.is_cuda:
        return _bytes(own) + _bytes([images]) + peak_bytes(lambda _: _pass_under_autocast(model, images))
    twin = copy.deepcopy(model)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            return _count(_fake(twin, mode), mode.from_tensor(images))
    except RuntimeError:  # a layer that looks at values cannot be simulated
        return _count(copy.deepcopy(model), images)


def of_inference(call: Callable[[], Any], own: Sequence[Tensor]) -> int:
    """Return the peak bytes of a call without gradients.

    Args:
        call: Predicts once.
        own: Weights and input.
    """
    if own[-1].is_cuda:
        return _bytes(own) + peak_bytes(lambda _: call())
    with AliveBytes(own) as alive:
        call()
    return alive.peak


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors in what an operation or a model returns."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def _fake(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Give a model weights that have shapes and no numbers."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                faked = mode.from_tensor(parameter.detach())
                module._parameters[name] = nn.Parameter(faked, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer)
    return model


def _count(model: nn.Module, images: Tensor) -> int:
    with AliveBytes([*model.parameters(), *model.buffers(), images]) as alive:
        _pass(model, images)
    return alive.peak


def _pass(model: nn.Module, images: Tensor) -> None:
    outputs = [y for y in tensors_in(model(images)) if y.requires_grad]
    torch.autograd.backward([y.sum() for y in outputs])


def _pass_under_autocast(model: nn.Module, images: Tensor) -> None:
    with torch.autocast("cuda", torch.float16):
        outputs = [y for y in tensors_in(model(images)) if y.requires_grad]
        total = [y.float().sum() for y in outputs]
    torch.autograd.backward(total)
    model.zero_grad(set_to_none=True)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
