"""The forward pass with dual numbers through the user's own modules: real forward-mode AD, without a recorded graph."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.sites import SiteModule, linear_part
from fgcli.gradient.upstream import math_attention

Perturb = Callable[[str, Tensor, Tensor], Tensor]
"""(site, its input x [batch, ...], its output s [batch, ...]) -> what is added to the tangent of s.

In full precision, but for x, whatever the model is computed in."""


def dual_forward(
    model: nn.Module,
    inputs: Tensor,
    sites: Mapping[str, SiteModule],
    perturb: Perturb,
    directions: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The model's output as a dual number: its tangent is the derivative along the perturbations.

    inputs [batch, ...]; `directions` are tangents of parameters that no site covers, by name. Call it inside a dual
    level and under no_grad.
    """
    arriving: dict[str, Tensor | None] = {}

    def split(name: str, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        x, arriving[name] = forward_ad.unpack_dual(arguments[0])
        return (x,)

    def join(name: str, module: SiteModule, arguments: tuple[Tensor, ...], s: Tensor) -> Tensor:
        with full_precision(s):
            added = perturb(name, arguments[0], wide(s)).to(s.dtype)
        tangent = arriving.pop(name)
        # A tensor of its own in both cases: what the model does in place to s must not reach what `perturb` keeps.
        tangent = added.clone() if tangent is None else linear_part(module, tangent, module.weight).add_(added)
        return forward_ad.make_dual(s, tangent)

    with math_attention(), hooks(sites, split, nn.Module.register_forward_pre_hook), hooks(sites, join):
        if not directions:
            return model(inputs)
        parameters = dict(model.named_parameters())
        duals = {name: forward_ad.make_dual(parameters[name].detach(), v) for name, v in directions.items()}
        return torch.func.functional_call(model, duals, (inputs,))


@contextmanager
def hooks(
    modules: Mapping[str, nn.Module],
    hook: Callable[..., Any],
    register: Callable[..., Any] = nn.Module.register_forward_hook,
) -> Iterator[None]:
    """Within the context every module calls hook(its name, ...)."""
    handles = [register(module, partial(hook, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def directional_derivative(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample losses [batch] and δ [batch], the derivative of each sample's share of the mean loss."""
    primal, tangent = forward_ad.unpack_dual(losses)
    return primal, torch.zeros_like(primal) if tangent is None else tangent / len(primal)


def lacks_layer_formulas(device: torch.device) -> bool:
    """Whether `linear` and the convolutions have no forward-mode formula there."""
    return device.type == "mps"
