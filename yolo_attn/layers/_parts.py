"""What may be computed from a part's tensors instead of calling the part."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as hooks

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(hooks, f"_global{name}") for name in _HOOKS]


def is_bare(part: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    """Tell whether a call of ``part`` does what its class does and nothing more.

    Not so if somebody wrapped, subclassed, patched, pruned or hooked it: adapters, quantisers and counters want calls.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(part) not in kinds or "forward" in vars(part):
        return False
    return not (any(vars(part)[name] for name in _HOOKS) or any(_GLOBAL_HOOKS))
