"""Moments of any guess method from draws of its own dual pass, with standard errors.

Each draw is the dual pass of an `estimate` with randomness of its own, so that δ and the noise of all sites come as
in training. Where the exact moments are known too, `deviations` compares the two along fixed directions: a
covariance that is not the guess's own shows in z-scores. The metrics are those of fgcli.diagnostics.exact, and

cosine     the mean of cos(ĝ_b, g_b) over draws and samples whose g is not 0 (no closed form: δ's sign is in it)

The covariance is that of a single guess, the first where there are several tangents.
Here covariance_norm is the root of the mean square over the batch, where `exact` takes the mean of the norms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fgcli.diagnostics.exact import Exact
from fgcli.diagnostics.gradients import site_gradients
from fgcli.diagnostics.statistics import Deviation, Measured, deviation, jackknife
from fgcli.diagnostics.subject import Subject
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import StepRng, Streams
from fgcli.spectra.scaling import double

FEWEST = 4  # draws below which a standard error says nothing


@dataclass(frozen=True)
class Drawn:
    """One site: means over the batch, one row a draw (or a pair of draws)."""

    error: Tensor
    """Of ĝ_b - g_b: [draws, d]."""
    square: Tensor
    """Of (ĝ_b - g_b)∘²: [draws, d]."""
    mean_square: Tensor
    """Of ‖ĝ_b‖²: [draws]."""
    cosine: Tensor
    """Of cos(ĝ_b, g_b): [draws]; NaN where every g is 0."""
    cosine_squared: Tensor
    trace: Tensor
    """Of ‖y_b‖² over both draws of a pair, which has the mean tr C_b: [pairs]."""
    inner_square: Tensor
    """Of ⟨y_b, y'_b⟩² of the two draws of a pair, which has the mean ‖C_b‖_F²: [pairs]."""
    gradient_square: float
    """Of ‖g_b‖²."""

    @property
    def distance(self) -> Tensor:
        """Has the mean of ‖C_b - I‖_F²: [pairs]."""
        return self.inner_square - 2 * self.trace + self.error.shape[1]

    def metrics(self) -> dict[str, Measured]:
        """Each with the standard error that the draws have."""
        n, d = self.error.shape
        errors = torch.cat([self.error, self.error.square(), self.square], dim=1)

        def bias_square(means: Tensor, n: int) -> Tensor:
            """Unbiased [..., d]: the square of a mean of n, less the variance of that mean."""
            first, second = means[..., :d], means[..., d : 2 * d]
            return first.square() - (second - first.square()) / (n - 1)

        def bias(means: Tensor) -> Tensor:
            return bias_square(means, n).sum(-1).clamp_min(0).sqrt()

        def variance(means: Tensor) -> Tensor:
            return (means[..., 2 * d :] - bias_square(means, n)).norm(dim=-1)

        measured = {
            "bias": jackknife(errors, bias),
            "variance": jackknife(errors, variance),
            "mse": jackknife(self.square, lambda means: means.sum(-1)),
            "covariance_norm": jackknife(self.distance.unsqueeze(1), _root),
            "covariance_rms": jackknife(self.distance.unsqueeze(1), lambda means: _root(means) / d),
            "effective_rank": jackknife(torch.stack([self.trace, self.inner_square], 1), _effective_rank),
            "trace": jackknife(self.trace.unsqueeze(1), lambda means: means[..., 0]),
        }
        if self.gradient_square > 0:
            scaled = (self.mean_square / self.gradient_square).unsqueeze(1)
            measured["norm_ratio"] = jackknife(scaled, _root)
            for name in ("cosine", "cosine_squared"):
                if getattr(self, name).isnan().any():  # a guess that is 0 points nowhere
                    continue
                measured[name] = jackknife(getattr(self, name).unsqueeze(1), lambda means: means[..., 0])
        return measured


def draw_moments(subject: Subject, batch: Batch, draws: int, streams: Streams) -> dict[str, Drawn]:
    """By site, from `draws` >= FEWEST draws of the guess at every sample.

    `streams` are the caller's for this purpose alone; each draw has a seed of its own from them.
    """
    guesses = subject.guesses
    if guesses is None or not subject.correction:
        raise TypeError(f"{type(subject.estimator).__name__} guesses no gradient of a site's output")
    gradients = site_gradients(subject.model, guesses.bound, subject.loss, batch, guesses.guessed)
    wanted = {name: double(g.flatten(1)) for name, g in gradients.items()}
    rows: dict[str, list[dict[str, Tensor]]] = {name: [] for name in wanted}
    previous: dict[str, Tensor] = {}
    for number in range(draws):
        rng = draw_rng(streams, number, subject.step)
        single, estimates = guesses.drawn(subject.model, subject.loss, batch, rng)
        for name, g in wanted.items():
            y = double(single[name].flatten(1))
            rows[name].append(_row(double(estimates[name].flatten(1)), g))
            if number % 2:
                other = previous[name]
                rows[name][-1] |= {
                    "trace": (y.square() + other.square()).sum(1).mean() / 2,
                    "inner_square": (y * other).sum(1).square().mean(),
                }
            previous[name] = y
    return {name: _stacked(some, float(wanted[name].square().sum(1).mean())) for name, some in rows.items()}


def draw_rng(streams: Streams, number: int, step: int) -> StepRng:
    """The randomness of one draw: at the run's `step`, so that what is prepared is the run's, from another seed."""
    return Streams(streams.generator("draw", number).initial_seed()).at(step)


def deviations(drawn: Drawn, exact: Exact) -> dict[str, Deviation]:
    """What the draws show against the exact moments, each along a direction that is fixed beforehand.

    bias: of the mean guess along the exact one; variance: of the mean squared error along the exact variance;
    covariance_norm: of ‖C - I‖_F²; effective_rank: of tr C; the others as they are.
    """
    found = {
        "mse": deviation(drawn.square.sum(1), float(exact.square.sum())),
        "norm_ratio": deviation(drawn.mean_square, exact.mean_square),
        "covariance_norm": deviation(drawn.distance, exact.distance),
        "effective_rank": deviation(drawn.trace, exact.metrics["trace"]),
    }
    if exact.guess.norm() > 0:
        along = exact.guess / exact.guess.norm()
        found["bias"] = deviation(drawn.error @ along, float(exact.bias @ along))
    variance = exact.square - exact.bias.square()
    if variance.norm() > 0:
        along = variance / variance.norm()
        found["variance"] = deviation(drawn.square @ along, float(exact.square @ along))
    if "cosine_squared" in exact.metrics:
        found["cosine_squared"] = deviation(drawn.cosine_squared, exact.metrics["cosine_squared"])
    return found


def scales(exact: Exact) -> Mapping[str, float]:
    """The sizes of what `deviations` compares, beside which a difference may be rounding alone."""
    # Where a prediction is exact, the errors are the rounding of what is as large as the gradient.
    square = float(exact.square.norm()) + exact.mean_square
    return {
        "mse": float(exact.square.sum()) + exact.mean_square,
        "norm_ratio": exact.mean_square,
        "covariance_norm": exact.distance + len(exact.bias),
        "effective_rank": exact.metrics["trace"] + len(exact.bias),
        "bias": float((exact.guess - exact.bias).norm()),
        "variance": square,
        "cosine_squared": 1.0,
    }


def _row(guess: Tensor, g: Tensor) -> dict[str, Tensor]:
    error, inner = guess - g, (guess * g).sum(1)
    norms = guess.norm(dim=1) * g.norm(dim=1)
    cosine = (inner / norms)[norms > 0]
    return {
        "error": error.mean(0),
        "square": error.square().mean(0),
        "mean_square": guess.square().sum(1).mean(),
        "cosine": cosine.mean(),
        "cosine_squared": cosine.square().mean(),
    }


def _stacked(rows: list[dict[str, Tensor]], gradient_square: float) -> Drawn:
    columns = {key: torch.stack([row[key] for row in rows if key in row]) for row in rows[:2] for key in row}
    return Drawn(**columns, gradient_square=gradient_square)


def _root(means: Tensor) -> Tensor:
    return means[..., 0].clamp_min(0).sqrt()


def _effective_rank(means: Tensor) -> Tensor:
    return means[..., 0].square() / means[..., 1].clamp_min(torch.finfo(means.dtype).tiny)
