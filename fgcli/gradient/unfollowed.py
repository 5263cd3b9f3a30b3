"""What a forward may do that no pass follows, and that would be missing in silence."""

from typing import Any

import torch
from torch import Tensor

from fgcli.gradient.errors import ModelRefused

_TAKES = "the forward takes a gradient itself, of values without a graph here: write its formula out, or use backprop"
_UNFOLLOWED: dict[Any, str] = {
    Tensor.register_hook: "the forward registers a hook on a gradient (register_hook), which `backward` alone calls: "
    "leave it out, or use backprop",
    torch.autograd.grad: _TAKES,
    torch.autograd.backward: _TAKES,
    Tensor.backward: _TAKES,
}


def refuse_unfollowed(func: Any) -> None:
    """ModelRefused for what `backward` alone sees of a forward."""
    if func in _UNFOLLOWED:
        raise ModelRefused(_UNFOLLOWED[func])


def transforms() -> int:
    """How many transforms of torch.func the present call is within."""
    functorch: Any = torch._C
    return len(functorch._functorch.get_interpreter_stack() or ())
