"""What is wrong with an estimate, found before it updates anything. Costs a sum over each gradient."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Estimate, Loss


def malformed(estimate: Any, parameters: Mapping[str, Tensor]) -> str | None:
    """How an estimator's answer departs from its contract, in one clause, or None. Looks at no tensor's values."""
    if not isinstance(estimate, Estimate):
        return f"estimate returned {type(estimate).__name__}; it must return an Estimate"
    for name, gradient in estimate.gradients.items():
        if name not in parameters:
            return f"it gave a gradient for {name!r}, which is no parameter of the model"
        parameter = parameters[name]
        for what in ("shape", "dtype", "device"):
            found, expected = getattr(gradient, what, None), getattr(parameter, what)
            if found != expected:
                found, expected = (list(v) if isinstance(v, torch.Size) else v for v in (found, expected))
                return f"its gradient of {name} has {what} {found}; it must have {expected}"
    return None


def not_finite(estimate: Estimate) -> str | None:
    """Which of losses, directional derivative and gradients holds a NaN or an infinity, the first one; None if none."""
    for what, values in (("loss", estimate.losses), ("directional derivative", estimate.directional_derivative)):
        if values is not None and not torch.isfinite(values).all():
            return what
    # A guess's NaN in a unit that ReLU has switched off does not reach δ.
    name = first_not_finite(estimate.gradients)
    return None if name is None else f"gradient of {name}"


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None."""
    # A sum takes a tenth of isfinite's time.
    sums = [tensor.sum().float() for tensor in tensors.values()]
    if sums and not torch.isfinite(torch.stack(sums)).all():
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():  # the sum alone may overflow
                return name
    return None


@torch.no_grad()
def finite_samples(model: nn.Module, loss: Loss, batch: Batch) -> Batch:
    """The batch without the samples whose loss is not finite."""
    finite = loss(model(batch.inputs), batch.targets).isfinite()
    if finite.all():
        return batch
    finite = finite.expand(len(batch.inputs))  # of a loss of the whole batch: none
    return Batch(batch.inputs[finite], batch.targets[finite])
