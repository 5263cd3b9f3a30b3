"""The network computed in fewer bits: parameters, guesses, loss, δ and gradients stay in float32.

torch.autocast computes the layers of the forward pass in bfloat16 or float16, their tangents with them. What a guess
method does, from factorisations to its map, is left in float32, and so are the loss, whose tangent is δ, and the
products that weight gradients are made of.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Estimator, FindsFaults, Loss
from fgcli.gradient.randomness import StepRng

LOW = (torch.bfloat16, torch.float16)


class LowPrecision:
    """Any estimator with its network's layers in `dtype`. Faults are looked for in float32."""

    def __init__(self, estimator: Estimator, dtype: torch.dtype) -> None:
        self.estimator, self.dtype = estimator, dtype

    def bind(self, model: nn.Module, example: Tensor) -> Coverage:
        return self.estimator.bind(model, example)

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        def wide_loss(outputs: Tensor, targets: Tensor) -> Tensor:
            with full_precision(outputs):
                return loss(wide(outputs), targets)

        with torch.autocast(batch.inputs.device.type, self.dtype):
            estimate = self.estimator.estimate(model, wide_loss, batch, rng)
        gradients = {name: wide(gradient) for name, gradient in estimate.gradients.items()}
        return replace(estimate, losses=wide(estimate.losses), gradients=gradients)

    def find_fault(self, model: nn.Module, batch: Batch, rng: StepRng) -> str | None:
        """As FindsFaults has it; None of an estimator that finds none."""
        if not isinstance(self.estimator, FindsFaults):
            return None
        return self.estimator.find_fault(model, batch, rng)

    def state(self) -> dict[str, Tensor]:
        return self.estimator.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.estimator.load_state(state)


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Within it, all on the device of `like` is computed in the precision that it has."""
    device = like.device.type
    # Not entered for nothing: it takes 10 µs, which a small layer would feel.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def wide(values: Tensor) -> Tensor:
    """In float32, if they are in a lower precision."""
    return values.float() if values.dtype in LOW else values


def lowered(model: nn.Module, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The model's parameters and buffers, by name, and its inputs in the precision that autocast has at present.

    For what autocast itself cannot do: convolutions with several tangents of a weight.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    device = inputs.device.type
    if not torch.is_autocast_enabled(device):
        return tensors, inputs
    dtype = torch.get_autocast_dtype(device)

    def low(values: Tensor) -> Tensor:
        return values.detach().to(dtype) if values.dtype == torch.float32 else values

    return {name: low(values) for name, values in tensors.items()}, low(inputs)


def refuse_low(model: nn.Module) -> None:
    """Raises ModelRefused for weights in a low precision: guesses and gradients need float32."""
    for name, parameter in model.named_parameters():
        if parameter.dtype in LOW:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ModelRefused(
                f"parameter '{name}' is in {dtype}, in which no guess can be made: keep the model and its inputs in "
                f"float32 (model.float()), or use weight-perturbation or backprop; `fg train --precision {dtype}` "
                "computes a float32 model's layers in it"
            )


def lacks(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why layers and their tangents cannot be computed in `dtype` there; None if they can."""
    layer = nn.Linear(2, 2, device=device)
    x = torch.ones(2, 2, device=device)
    quiet = warnings.catch_warnings(action="ignore")  # autocast warns, and does nothing
    try:
        with quiet, torch.no_grad(), forward_ad.dual_level(), torch.autocast(device.type, dtype):
            outputs = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x)))
    except (RuntimeError, NotImplementedError) as cause:
        return str(cause).splitlines()[0]
    found = {one.dtype for one in outputs if one is not None}
    return None if found == {dtype} else f"torch.autocast computes in {', '.join(map(str, found))} there"
