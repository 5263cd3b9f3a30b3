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


def refuse_transformed(name: str) -> None:
    """ModelRefused for a parameter that is used within a transform of the forward's own."""
    raise ModelRefused(
        f"parameter '{name}' is used within torch.func (vmap, grad, ...) or torch.vmap, which no pass can look into: "
        "write it out with a batch axis, or use backprop"
    )


def refuse_changed(name: str) -> None:
    """ModelRefused for what stands in for a tensor that was changed in place after it had been made of a parameter."""
    raise ModelRefused(
        f"what is made of parameter '{name}' is changed in place, which this method cannot follow: make a new tensor "
        "of it (torch.where, torch.cat, w * mask), or use activation-perturbation, where a layer uses it, or backprop"
    )
