"""Moments of any estimator in weight space, by Monte Carlo: estimates of ∂L/∂θ held against the true one.

For estimators that guess no gradient of a layer's output (weight perturbation, backpropagation, a third party's), and
to compare all of them in one space. The metrics are those of fgcli.diagnostics.exact, of the vector ∂L/∂θ of one
parameter instead of the mean over samples; there is no covariance of a guess here.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fgcli.diagnostics.gradients import parameter_gradients
from fgcli.diagnostics.monte_carlo import draw_rng
from fgcli.diagnostics.statistics import Measured, standard_error
from fgcli.diagnostics.subject import Subject
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams
from fgcli.spectra.scaling import double


@dataclass
class _Sums:
    """Running sums over the draws of one parameter."""

    error: Tensor
    square: Tensor
    scalars: list[tuple[float, float, float]]
    """Of each draw: ‖error‖², ‖estimate‖² and the cosine."""


def weight_moments(subject: Subject, batch: Batch, draws: int, streams: Streams) -> dict[str, dict[str, Measured]]:
    """Metrics by parameter that requires grad and is trained; without an error where the draws give none."""
    true = {name: double(g.flatten()) for name, g in parameter_gradients(subject.model, subject.loss, batch).items()}
    sums: dict[str, _Sums] = {}
    state = {key: value.clone() for key, value in subject.estimator.state().items()}
    for number in range(draws):
        rng = draw_rng(streams, number, subject.step)
        subject.estimator.load_state(dict(state))  # what one draw tells, feedback say, is not for the next
        estimates = subject.estimator.estimate(subject.model, subject.loss, batch, rng).gradients
        for name, estimate in estimates.items():
            g, guess = true[name], double(estimate.flatten())
            error, norms = guess - g, float(guess.norm() * g.norm())
            one = sums.setdefault(name, _Sums(torch.zeros_like(g), torch.zeros_like(g), []))
            one.error += error
            one.square += error.square()
            cosine = float(guess @ g) / norms if norms > 0 else math.nan
            one.scalars.append((float(error.square().sum()), float(guess.square().sum()), cosine))
    return {name: _metrics(one, float(true[name].square().sum())) for name, one in sums.items()}


def _metrics(sums: _Sums, gradient_square: float) -> dict[str, Measured]:
    draws = torch.tensor(sums.scalars, dtype=torch.float64)
    n = len(draws)
    mean, second = sums.error / n, sums.square / n
    bias_square = mean.square() - (second - mean.square()) / (n - 1)  # unbiased, elementwise
    mse, square, cosine = draws.mean(0)
    errors = standard_error(draws)
    metrics = {
        "bias": Measured(float(bias_square.sum().clamp_min(0).sqrt())),
        "variance": Measured(float((second - bias_square).norm())),
        "mse": Measured(float(mse), float(errors[0])),
    }
    if gradient_square > 0 and square > 0:
        ratio = float((square / gradient_square).sqrt())
        metrics["norm_ratio"] = Measured(ratio, float(errors[1]) / (2 * ratio * gradient_square))
        metrics["cosine"] = Measured(float(cosine), float(errors[2]))
    return metrics
