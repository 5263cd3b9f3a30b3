"""What a forward computes within torch.no_grad() and uses outside.

`backward` stops there. A tangent does not: it goes on, and with it what is no part of the gradient. It is stopped by
detaching, which both ways of differentiating respect.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fgcli.gradient.dual import lacks_layer_formulas
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.probe import WITHIN_INFERENCE
from fgcli.gradient.upstream import math_attention


def refuse_no_grad(model: nn.Module, example: Tensor) -> None:
    """Raises ModelRefused, naming layer and operation, where the forward uses what it has computed within
    torch.no_grad() from parameters that are trained, and where its output has no tangent, for inference mode.

    One pass with tangents on all of these. A forward that is within no_grad as a whole has nothing outside.
    """
    if lacks_layer_formulas(example.device):
        return
    watched = _Watched({id(module): name for name, module in model.named_modules()})
    with torch.enable_grad(), forward_ad.dual_level(), math_attention(), watched:
        # None requires a gradient: no graph is recorded.
        parameters = {
            name: forward_ad.make_dual(p.detach(), _ramp(p)) if p.requires_grad else p.detach()
            for name, p in model.named_parameters()
        }
        outputs = torch.func.functional_call(model, parameters, (example[:2],))
    if outputs.is_inference():
        raise ModelRefused(f"the model's output {WITHIN_INFERENCE}")


def _ramp(like: Tensor) -> Tensor:
    """A direction that no norm flattens."""
    return torch.linspace(-1, 2, like.numel(), device=like.device).view_as(like).to(like.dtype)


class _Watched(TorchFunctionMode):
    """Looks at each operation. The forward of a torch.autograd.Function, whose tangent has a formula, is no such place:
    what it turns off does not pass through here."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.layer: str | None = None
        """Where gradients were turned off, within that."""
        self.made: dict[int, tuple[Tensor, str, str]] = {}
        """By id: what was made there and has a tangent; by which operation, and where."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            self.layer = None if args[0] else self._layer()
            return func(*args)
        result = func(*args, **(kwargs or {}))
        changed = list(_moving(result if isinstance(result, Tensor | tuple | list) else args[:1]))
        if self.layer is not None:
            for tensor in changed:
                self.made[id(tensor)] = tensor, func.__name__, self.layer
        elif changed:
            for argument in tree_leaves((args, kwargs)):
                if id(argument) in self.made:
                    _, operation, layer = self.made[id(argument)]
                    raise ModelRefused(
                        f"{layer} computes '{operation}' within torch.no_grad() and its result is used outside: that "
                        "stops backpropagation, but no tangent; use .detach() on the result, or the method backprop"
                    )
        return result

    def _layer(self) -> str:
        """The innermost layer whose forward is on the stack."""
        frame = sys._getframe(2)
        while frame is not None:
            one = frame.f_locals.get("self")
            if isinstance(one, nn.Module) and id(one) in self.names:
                name = self.names[id(one)]
                return f"layer '{name}' ({type(one).__name__})" if name else f"the model ({type(one).__name__})"
            frame = frame.f_back
        return "the model"


def _moving(values: Any) -> Iterator[Tensor]:
    """Tensors that a tangent has reached."""
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.is_floating_point():
            tangent = forward_ad.unpack_dual(value).tangent
            if tangent is not None and bool((tangent != 0).any()):
                yield value
