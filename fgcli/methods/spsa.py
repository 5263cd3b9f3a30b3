"""Zero-order estimates: differences of the loss along random directions of the weights (Spall 1992).

two-sided    δ_k = (L(W + ε z_k) - L(W - ε z_k)) / 2ε, the estimate is the mean of δ_k z_k; 2K forward passes.
one-sided    δ_k = (L(W + ε z_k) - L(W)) / ε; K + 1 forward passes, off by ε/2 z_kᵀHz_k where the two-sided one is not.
normalised   Σ_k (L_k - L_0) z_k / (K std_k(L_k)) of one-sided differences: FZOO's step (Dang et al. 2025,
             arXiv:2506.09034) as its code has it. Its length is no longer the gradient's: the deviation of the losses
             takes the place of ε ‖∇L‖.

For ε → 0 the two-sided estimate is weight perturbation's, of the same directions; its error is of order ε². MeZO
(Malladi et al. 2023, arXiv:2305.17333) is the two-sided one with Gaussian directions, drawn again from a key in place
of being kept. Here every use of a weight sees W ± ε z made on the fly and let go of again. The weights themselves
are never written to, so that an interruption leaves them as they are. Beside what a forward takes and the gradient that
the optimiser is given, the noise of one layer is all that is held.

The loss needs no derivative.

What is not true of them: that they are cheaper than forward mode, which has the exact derivative along z for one dual
pass; that a small ε is best, since rounding is divided by it; that the normalised one is unbiased. As of weight
perturbation the variance grows with the number of weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.buffers import state_of
from fgcli.gradient.checks import GUESSES, refuse
from fgcli.gradient.checks.unsteady import refuse_unsteady
from fgcli.gradient.errors import LossRefused, OptionRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.loss import refuse_others
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.processes import TakesRows
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.uses import Outputs, Pass, Use, run
from fgcli.methods.options import SpsaOptions
from fgcli.methods.weight_noise import WeightNoise
from fgcli.methods.weight_perturbation import untrained_rows


class Spsa(TakesRows, Stateless):
    """Differences of the loss along directions z of all parameters together, the same for the whole batch.

    All that is added up over processes are the differences, one a direction.
    """

    needs_derivative = False
    """Of the loss."""

    def __init__(self, options: SpsaOptions) -> None:
        self.epsilon, self.two_sided, self.normalise = options.epsilon, options.sides == "two", options.normalise
        self.number = options.tangents
        self.noise = WeightNoise(options, Tangents(options.tangents, draws=options.draws))

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, GUESSES)
        for dtype in {one.dtype for one in model.parameters() if one.requires_grad}:
            least = torch.finfo(dtype).eps
            if self.epsilon < least:
                raise OptionRefused(
                    f"epsilon is {self.epsilon:g}; weights in {str(dtype).removeprefix('torch.')} would not be moved "
                    f"by it: set epsilon to at least {least:.2g}, better the default"
                )
        self.noise.untrained = untrained_rows(model, example)
        refuse_unsteady(model, example)
        self.processes.refuse_unsplittable(model, example)
        return Coverage(sites=())

    def refuse_precision(self, dtype: torch.dtype) -> None:
        """OptionRefused where rounding to `dtype` would be as large as the difference of the losses."""
        least = torch.finfo(dtype).eps ** 0.5
        if self.epsilon < least:
            raise OptionRefused(
                f"epsilon is {self.epsilon:g}; in {str(dtype).removeprefix('torch.')} rounding is as large as such a "
                f"difference: set epsilon to at least {least:.2g}, or use precision float32"
            )

    @torch.no_grad()
    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        """As Estimator has it. The losses are those at W, of the two-sided difference within O(ε²): the pair's mean.

        δ [batch], or [batch, K] of several directions; None where it is normalised.
        """
        samples, batch, loss = batch.size, self.processes.own(batch), self.processes.loss(loss)
        share = batch.size / samples
        back = state_of(model, None, batch.device)

        def losses_at(k: int, distance: float) -> Tensor:
            back()  # buffers are those of one forward, of the last
            moved = _Moved(partial(self.noise.draw, rng), range(k, k + 1), distance)
            outputs = run(model, batch.inputs, moved)
            with full_precision(batch.device), torch.enable_grad():
                return _losses(loss(rebuilt(outputs, [wide(one) for one in leaves(outputs)]), batch.targets))

        if self.two_sided:
            pairs = [(losses_at(k, self.epsilon), losses_at(k, -self.epsilon)) for k in range(self.number)]
            losses = torch.stack([(up + down) / 2 for up, down in pairs]).mean(0)
            differences = torch.stack([(up - down) / (2 * self.epsilon) for up, down in pairs])
        else:
            moved = torch.stack([losses_at(k, self.epsilon) for k in range(self.number)])
            losses = losses_at(0, 0.0)
            differences = (moved - losses) / self.epsilon
        by_direction = differences.reshape(self.number, -1)
        slopes = self.processes.slopes(by_direction.double().mean(1) * share, losses)
        weights = slopes / self.number
        if self.normalise:
            spread = slopes.std(correction=0)
            # Losses that do not differ say nothing.
            weights = weights / spread if spread > 0 else torch.zeros_like(weights)
        delta = by_direction.T * share / by_direction.shape[1]
        parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        gradients = {name: self._combined(rng, name, p, weights.tolist()) for name, p in parameters.items()}
        return Estimate(losses, gradients, None if self.normalise else delta.squeeze(1))

    def _combined(self, rng: StepRng, name: str, parameter: Tensor, weights: list[float]) -> Tensor:
        """Σ_k weight_k z_k, each drawn again."""
        total = torch.zeros_like(parameter)
        for k, weight in enumerate(weights):
            total.add_(self.noise.draw(rng, name, range(k, k + 1), parameter)[0], alpha=weight)
        return total


class _Moved(Pass):
    """A pass in which each use sees W + distance · z, made as it is met and let go of after it."""

    def __init__(self, draw: Callable[[str, range, Tensor], Tensor], part: range, distance: float) -> None:
        self.draw, self.part, self.distance = draw, part, distance

    def visit(self, use: Use) -> Outputs:
        outputs = use.call(lambda value: value, self.mode.substituted)
        self.mode.forget()
        return outputs

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        value = parameter.detach()
        if not parameter.requires_grad or self.distance == 0:
            return value
        return self.draw(name, self.part, value)[0].mul_(self.distance).add_(value)


def _losses(losses: Any) -> Tensor:
    """[batch] or [], in floating point: counts are allowed."""
    if not isinstance(losses, Tensor):
        raise LossRefused(
            f"the loss gave {type(losses).__name__}; it must give a tensor of numbers: the mean, or a loss a sample"
        )
    refuse_others(losses)
    return losses.detach() if losses.is_floating_point() else losses.detach().float()
