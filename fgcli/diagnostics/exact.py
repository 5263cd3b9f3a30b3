"""Exact moments of a guess method that is linear in its noise: y = A z, C = A Aᵀ, from the map applied to columns.

Every metric is that of one layer and one batch; g holds the batch's 1/B, and ĝ_b is its estimate, δ_b y_b of a single
tangent (Eq. 17 and 18 of the W̃⊥ paper):

bias               ‖(1/B) Σ_b (C_b - I) g_b‖                                              (Eq. 17)
variance           ‖(1/B) Σ_b E(ĝ_b - g_b)∘² - ((1/B) Σ_b (C_b - I) g_b)∘²‖               (Eq. 18, ∘² elementwise)
mse                (1/B) Σ_b E‖ĝ_b - g_b‖²
covariance_norm    (1/B) Σ_b ‖C_b - I‖_F
covariance_rms     the same over d, the root mean square entry: what Tab. 2 of the paper prints
norm_ratio         √(Σ_b E‖ĝ_b‖² / Σ_b ‖g_b‖²)
cosine_squared     the mean of E cos²(ĝ_b, g_b) where g_b is not 0; known of a single Gaussian tangent where C_b is a
                   multiple of a projector
effective_rank     (mean of tr C_b)² / mean of ‖C_b‖_F²: k for a projector of rank k
trace              (1/B) Σ_b tr C_b

With feedback, ĝ_b = b_b + α δ_b y_b, δ_b being of g - b in place of g: ĝ_b - g_b = α (δ_b y_b - r_b) - (1 - α) r_b
with r = g - b.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fgcli.diagnostics.closed_forms import SecondMoments, second_moments
from fgcli.diagnostics.gradients import squares_per_sample
from fgcli.diagnostics.predicted import predictions
from fgcli.diagnostics.subject import Subject
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import DRAWN_AT_ONCE
from fgcli.spectra.scaling import double

ENTRIES = 2**22  # of the matrices A of one site held at a time: 32 MiB in float64, and some copies of it
LARGEST = 2**26  # entries of one sample's A, above which the moments are left to Monte Carlo


@dataclass(frozen=True)
class Covariances:
    """What is needed of the C_b of one site, by sample."""

    gradient: Tensor
    """g [batch, d], float64."""
    prediction: Tensor
    """b [batch, d]; without feedback 0."""
    along: Tensor
    """C r [batch, d] of r = g - b."""
    diagonal: Tensor
    """[batch, d]."""
    fourth: Tensor
    """The diagonal of A diag(Aᵀr)² Aᵀ [batch, d]."""
    square: Tensor
    """‖C‖_F² [batch]."""
    noise_dim: int
    scaled_projector: bool
    """Whether every C_b is a multiple of an orthogonal projector."""

    @property
    def rest(self) -> Tensor:
        """r [batch, d]."""
        return self.gradient - self.prediction

    @property
    def trace(self) -> Tensor:
        return self.diagonal.sum(1)

    @property
    def distance(self) -> Tensor:
        """‖C - I‖_F² [batch]."""
        return (self.square - 2 * self.trace + self.diagonal.shape[1]).clamp_min(0)

    @property
    def delta_square(self) -> Tensor:
        """rᵀCr [batch], the site's part of E δ²."""
        return (self.rest * self.along).sum(1)


@dataclass(frozen=True)
class Exact:
    """The moments of one site and batch: those of the mean over the batch as vectors [d], and the metrics."""

    guess: Tensor
    """(1/B) Σ_b E ĝ_b."""
    bias: Tensor
    square: Tensor
    """(1/B) Σ_b E(ĝ_b - g_b)∘²."""
    mean_square: float
    """(1/B) Σ_b E‖ĝ_b‖²."""
    distance: float
    """(1/B) Σ_b ‖C_b - I‖_F²."""
    metrics: dict[str, float]


def exact_moments(subject: Subject, batch: Batch) -> dict[str, Exact] | None:
    """By site. None where the method is not linear in its noise, a site too wide for A to be written down, or the
    second moments of what several tangents make have no closed form.

    Never holds more than ENTRIES of A's entries at a time, but at least one sample's.
    """
    guesses = subject.guesses
    covariances = None if guesses is None or not subject.correction else _covariances(guesses, subject, batch)
    if guesses is None or covariances is None:
        return None
    if guesses.tangents.combine == "sitewise":
        apart = {name: second_moments(guesses.tangents, one.noise_dim) for name, one in covariances.items()}
        pairs = {name: (covariances[name], f) for name, f in apart.items() if f}
        return {name: _moments(one, one.delta_square, f, subject.correction) for name, (one, f) in pairs.items()}
    factors = second_moments(guesses.tangents, sum(one.noise_dim for one in covariances.values()))
    if factors is None:
        return None
    delta_square = torch.stack([one.delta_square for one in covariances.values()]).sum(0)
    if guesses.tangents.single:  # else the parameters that no site covers have a tangent of their own
        delta_square += squares_per_sample(subject.model, subject.loss, batch, subject.coverage.perturbed)
    return {name: _moments(one, delta_square, factors, subject.correction) for name, one in covariances.items()}


def _moments(c: Covariances, delta_square: Tensor, factors: SecondMoments, alpha: float) -> Exact:
    g, b, rest, d = c.gradient, c.prediction, c.rest, c.gradient.shape[1]
    cross = factors.cross * delta_square.unsqueeze(1) * c.diagonal
    of_rest = factors.own * c.along.square() + cross + factors.fourth * c.fourth
    bias = (alpha * c.along - rest).mean(0)
    square = (alpha**2 * of_rest - 2 * alpha * rest * c.along + rest.square()).mean(0)
    total = float((alpha**2 * of_rest + 2 * alpha * b * c.along + b.square()).sum(1).mean())
    norm = float(c.distance.sqrt().mean())
    trace = float(c.trace.mean())
    second = float(c.square.mean())
    gradient_square = float(g.square().sum(1).mean())
    metrics = {
        "bias": float(bias.norm()),
        "variance": float((square - bias.square()).norm()),
        "mse": float(square.sum()),
        "covariance_norm": norm,
        "covariance_rms": norm / d,
        "effective_rank": trace**2 / second if second > 0 else 0.0,
        "trace": trace,
    }
    if gradient_square > 0:
        metrics["norm_ratio"] = math.sqrt(total / gradient_square)
    present = (g.square().sum(1) > 0) & (c.trace > 0)
    if factors == SecondMoments() and c.scaled_projector and present.any() and not b.any():
        share = c.delta_square / (g.square().sum(1) * c.trace)
        metrics["cosine_squared"] = float(share[present].mean())
    return Exact((b + alpha * c.along).mean(0), bias, square, total, float(c.distance.mean()), metrics)


def _covariances(guesses: GuessEstimator, subject: Subject, batch: Batch) -> dict[str, Covariances] | None:
    known = predictions(subject, batch)
    try:
        # Not of one sample alone: what a method prepares may be made of the first that it sees.
        maps = guesses.linear_maps(subject.model, batch.rows(slice(DRAWN_AT_ONCE)).inputs, subject.step)
    except TypeError:  # not linear in its noise
        return None
    entries = max(known[name][0].shape[1] * linear.noise_dim for name, linear in maps.items())
    if entries > LARGEST:
        return None
    size = max(1, ENTRIES // max(1, entries))
    parts: dict[str, list[Covariances]] = {name: [] for name in known}
    for start in range(0, batch.size, size):
        inputs = batch.rows(slice(start, start + size)).inputs
        for name, linear in guesses.linear_maps(subject.model, inputs, subject.step).items():
            g, b = (one[start : start + size] for one in known[name])
            identity = torch.eye(linear.noise_dim, dtype=g.dtype, device=g.device)
            a = linear.map(identity.expand(len(g), -1, -1)).flatten(1, -2)
            parts[name].append(_of_map(double(a), double(g), double(b)))
    return {name: _joined(some) for name, some in parts.items()}


def _of_map(a: Tensor, g: Tensor, b: Tensor) -> Covariances:
    """Of A [samples, d, n], g and b [samples, d]."""
    coordinates, squares = a.mT @ (g - b).unsqueeze(-1), a.square()
    gram = a.mT @ a if a.shape[2] <= a.shape[1] else a @ a.mT
    return Covariances(
        gradient=g,
        prediction=b,
        along=(a @ coordinates).squeeze(-1),
        diagonal=squares.sum(2),
        fourth=(squares @ coordinates.square()).squeeze(-1),
        square=gram.square().sum((1, 2)),
        noise_dim=a.shape[2],
        scaled_projector=_is_scaled_projector(gram),
    )


def _is_scaled_projector(gram: Tensor) -> bool:
    """Whether the eigenvalues of each matrix are 0 or one common value c: G² x = c G x for a generic x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(gram.shape[-1], 1, generator=generator, dtype=gram.dtype).to(gram)
    image = gram @ x
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    c = gram.square().sum((1, 2)) / torch.where(trace > 0, trace, 1)
    rest = (gram @ image - c.view(-1, 1, 1) * image).flatten(1).norm(dim=1)
    return bool((rest <= 1e-4 * c * image.flatten(1).norm(dim=1)).all())


def _joined(parts: list[Covariances]) -> Covariances:
    names = ("gradient", "prediction", "along", "diagonal", "fourth", "square")
    tensors = {name: torch.cat([getattr(one, name) for one in parts]) for name in names}
    scaled = all(one.scaled_projector for one in parts)
    return Covariances(**tensors, noise_dim=parts[0].noise_dim, scaled_projector=scaled)
