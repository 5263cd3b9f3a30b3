"""Directional gradient descent: the derivative along one candidate direction, an approximation of the gradient.

Silver, Goyal, Danihelka, Hessel and van Hasselt 2022, ICLR, "Learning by directional gradient descent". With u in the
space of all parameters,

    ĝ = ⟨g, u⟩ u / ‖u‖²

the projection of the batch's gradient onto u: whatever u is, it never points up the loss (⟨ĝ, g⟩ ≥ 0), and it is the
gradient itself where u points along it. The authors' directions are approximations for recurrent networks, or noise;
here they are what learned feedback predicts, or the mean of the estimates so far.

Cost: one pass with tangents of the weights, and what makes the direction: for `local` and `direct` a step of feedback.

What is not true of it: that it is unbiased. For a direction that is a function of the batch its bias is what of g is
orthogonal to u, and along `random` u its mean is g / n, n the number of weights. It corrects the length and the sign of
a prediction, never its direction. With Adam, which scales each weight, the length is nearly lost again.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.extend.options import EngineOptions
from fgcli.gradient.buffers import untouched
from fgcli.gradient.checks import FORWARD_MODE, refuse
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.feedback import Feedback
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.look import on_few
from fgcli.gradient.randomness import StepRng
from fgcli.methods.feedback import DirectFeedback, LocalFeedback
from fgcli.methods.options import DirectionalOptions
from fgcli.methods.weight_perturbation import ByHand, derivatives_along, refuse_without_formula, untrained_rows


class Directional:
    """⟨g, u⟩ u / ‖u‖² along one direction u of all parameters."""

    def __init__(self, options: DirectionalOptions) -> None:
        self.options = options
        self._mean: dict[str, Tensor] = {}
        self.predictor = None
        if rule := {"local": LocalFeedback, "direct": DirectFeedback}.get(options.direction):
            feedback = Feedback(rule(EngineOptions(feedback=options.direction)))
            self.predictor = GuessEstimator(Isotropic(), feedback=feedback)

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, FORWARD_MODE)
        untrained_rows(model, example)
        on_few(partial(refuse_without_formula, model), example)
        if self.predictor is not None:
            self.predictor.bind(model, example)
        return Coverage(sites=())

    @torch.no_grad()
    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        with untouched(model, batch.device):
            u = self.direction(model, loss, batch, rng)
        of_loss, tangents = derivatives_along(model, loss, batch, u, ByHand)
        delta = of_loss.along(tangents, 1)[:, 0]
        square = torch.stack([one.square().sum() for one in u.values()]).sum()
        # Along no direction there is no estimate.
        length = torch.where(square > 0, delta.sum() / square, 0.0)
        gradients = {name: length * one for name, one in u.items()}
        if self.options.direction == "momentum":
            decay = self.options.decay
            self._mean = {n: (1 - decay) * g + decay * self._mean.get(n, 0.0) for n, g in gradients.items()}
        return Estimate(of_loss.losses, gradients, delta)

    def direction(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> dict[str, Tensor]:
        """u by parameter."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if self.predictor is not None:
            predicted = self.predictor.estimate(model, loss, batch, rng).gradients
            return {name: predicted.get(name, torch.zeros_like(p)).to(p.dtype) for name, p in parameters.items()}
        z = {name: rng.normal("direction", name, tuple(p.shape), p) for name, p in parameters.items()}
        if self.options.direction == "random" or not self._mean:
            return z
        share = self.options.noise * _norm(self._mean) / _norm(z)
        return {name: self._mean[name] + share * one for name, one in z.items()}

    def state(self) -> dict[str, Tensor]:
        """What feedback keeps, or the mean of the estimates."""
        if self.predictor is not None:
            return self.predictor.state()
        return {f"mean/{name}": one for name, one in self._mean.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self.predictor is not None:
            self.predictor.load_state(state)
        else:
            self._mean = {name.removeprefix("mean/"): one for name, one in state.items()}


def _norm(tensors: dict[str, Tensor]) -> Tensor:
    return torch.stack([one.norm() for one in tensors.values()]).norm()
