"""Backpropagation, the reference: reverse-mode AD through the whole network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from fgcli.extend.options import Options
from fgcli.gradient.checks import ANY_METHOD, refuse
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.loss import differentiable
from fgcli.gradient.processes import ALONE, Processes, TakesRows
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.uses import call


class Backprop(TakesRows, Stateless):
    """The exact gradient of the mean loss."""

    def __init__(self, options: Options) -> None:
        pass

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, ANY_METHOD)
        self.processes.refuse_unsplittable(model, example)
        return Coverage(sites=())

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        return exact(model, partial(call, model), loss, batch, self.processes)


def exact(
    model: nn.Module, forward: Callable[[Any], Any], loss: Loss, whole: Batch, processes: Processes = ALONE
) -> Estimate:
    """The gradient of the mean loss by reverse mode; `forward` gives the model's outputs of a batch's inputs."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batch, loss = processes.own(whole), processes.loss(loss)
    with torch.enable_grad():
        losses = differentiable(loss(forward(batch.inputs), batch.targets))
        gradients = torch.autograd.grad(losses.mean(), list(parameters.values()), materialize_grads=True)
    sums = dict(zip(parameters, gradients, strict=True))
    if batch is not whole:
        sums = {name: gradient * (batch.size / whole.size) for name, gradient in sums.items()}
    processes.add(sums, told=[losses.detach()])
    return Estimate(losses.detach(), sums)
