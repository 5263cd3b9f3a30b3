"""Fit step polynomials by gradient descent with restarts (the paper's Sec. 4.3, without its details).

All restarts of several σ are one tensor [fits, rows, terms], and Adam, which acts on each number alone, moves them
together. The loss is the logarithm of a p-norm of the error against the step whose p grows, so that it starts
near least squares, where a random start has something to follow, and ends near the largest error. A band around σ
is left out, in which any value from 0 to 1 will do. Several widths of the band are tried: a narrow one makes the
step sharp where the polynomial can afford it, a wide one leaves more room.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from fgcli.errors import RunError
from fgcli.spectra.coefficients import (
    CoefficientTable,
    FitOptions,
    StepFit,
    instability,
    measure,
)
from fgcli.spectra.step_polynomial import StepPolynomial

Progress = Callable[[float], None]  # receives the part that is done, in [0, 1]

_MARGINS = (0.05, 0.03, 0.02, 0.01, 0.005)
_REACH = 1.05  # fitted up to here, so that p^N stays near 1 past 1
_GROUP = 9  # σ fitted at once, which bounds the memory
_CANDIDATES = 16  # random starts drawn for each one that is kept
_KEPT = 3  # restarts of each σ and margin that are polished


@dataclass(frozen=True)
class _Stage:
    points: int
    rate: float
    first_power: float
    last_power: float


_SEARCH = _Stage(points=256, rate=0.02, first_power=2.0, last_power=12.0)
_POLISH = _Stage(points=1024, rate=0.004, first_power=12.0, last_power=200.0)


def fit_table(options: FitOptions, progress: Progress = lambda part: None) -> CoefficientTable:
    """The table for these options: the same bits each time on one machine and thread count.

    RunError where no restart gave a stable polynomial for some σ.
    """
    fits: list[StepFit] = []
    groups = [options.sigmas[i : i + _GROUP] for i in range(0, len(options.sigmas), _GROUP)]
    for index, sigmas in enumerate(groups):
        fits += _fit_group(options, sigmas, lambda part, done=index: progress((done + part) / len(groups)))
    return CoefficientTable(options, tuple(fits))


def _fit_group(options: FitOptions, sigmas: tuple[float, ...], report: Progress) -> list[StepFit]:
    starts, aims = _starts(options, sigmas)
    found, loss = _descend(starts, aims, _SEARCH, options, lambda part: report(0.5 * part))
    kept = min(_KEPT, options.restarts)
    best = loss.view(-1, options.restarts).topk(kept, dim=1, largest=False).indices
    index = (best + options.restarts * torch.arange(len(best))[:, None]).flatten()
    aims = aims[index]
    found, _ = _descend(found[index], aims, _POLISH, options, lambda part: report(0.5 + 0.5 * part))
    coefficients = found @ _chebyshev_to_powers(options.degree)
    per_sigma = len(_MARGINS) * kept
    return [
        _choose(options, sigma, coefficients[rows], aims[rows, 1].tolist())
        for sigma, rows in zip(sigmas, torch.arange(len(found)).split(per_sigma), strict=True)
    ]


def _choose(options: FitOptions, sigma: float, coefficients: Tensor, margins: list[float]) -> StepFit:
    """Of the stable candidates the one with the smallest sum of largest and mean error.

    The first alone would leave the step blunt inside the band, the second alone would accept ripples outside it.
    """
    fits = []
    for rows, margin in zip(coefficients.tolist(), margins, strict=True):
        polynomial = StepPolynomial(tuple(map(tuple, rows)), options.applications)
        if instability(polynomial) is None:
            fits.append(StepFit(sigma, polynomial, *measure(polynomial, sigma), margin))
    if not fits:
        raise RunError(f"no stable polynomial found for σ = {sigma:g}; try another seed or degree")
    return min(fits, key=lambda fit: fit.error + fit.mean_error)


def _starts(options: FitOptions, sigmas: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The best of many random starts: [fits, rows, terms] in the Chebyshev basis, fits being sigmas · margins ·
    restarts; and their aims [fits, 2], the σ and the margin of each.

    A start nearly has p(1) = 1, p'(1) = 0, p(σ) = σ and a random p'(0), plus noise. Each σ gets the same random
    numbers, so a fit does not depend on which others are asked for.
    """
    terms = (options.degree + 1) // 2
    rows = options.applications if options.per_iteration else 1
    drawn = options.restarts * _CANDIDATES
    generator = torch.Generator().manual_seed(options.seed)
    spread = torch.rand(drawn, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(drawn, rows, terms, generator=generator, dtype=torch.float64)
    noise *= 0.1 * torch.rand(drawn, 1, 1, generator=generator, dtype=torch.float64)

    to_chebyshev = torch.linalg.inv(_chebyshev_to_powers(options.degree))
    powers = torch.arange(1, 2 * terms, 2, dtype=torch.float64)
    at_one, at_zero = torch.ones_like(powers), (powers == 1).double()
    chosen, aims = [], []
    for sigma in sigmas:
        conditions = torch.stack([at_one, powers, sigma**powers, at_zero])  # on p(1), p'(1), p(σ), p'(0)
        low = torch.tensor([0.9, -1.5, 0.95 * sigma, -1.0], dtype=torch.float64)
        width = torch.tensor([0.2, 2.0, 0.1 * sigma, 3.0], dtype=torch.float64)
        coefficients = (low + width * spread) @ torch.linalg.pinv(conditions).T
        candidates = (coefficients @ to_chebyshev)[:, None] + noise
        for margin in _MARGINS:
            aim = torch.tensor([[sigma, margin]], dtype=torch.float64).expand(drawn, 2)
            loss, _ = _loss_and_largest(candidates, _grid(128), aim, 2.0, options)
            best = loss.nan_to_num(math.inf).topk(options.restarts, largest=False).indices
            chosen.append(candidates[best])
            aims.append(aim[best])
    return torch.cat(chosen), torch.cat(aims)


def _descend(
    starts: Tensor, aims: Tensor, stage: _Stage, options: FitOptions, report: Progress
) -> tuple[Tensor, Tensor]:
    """(the best point each fit came by, its loss there): Adam with a cosine rate and a rising power."""
    points = starts.clone().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=stage.rate, betas=(0.9, 0.99))
    grid = _grid(stage.points)
    best, best_loss = starts.clone(), torch.full((len(starts),), math.inf, dtype=torch.float64)
    for step in range(options.steps):
        part = step / options.steps
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * (0.5 + 0.5 * math.cos(math.pi * part))
        power = stage.first_power * (stage.last_power / stage.first_power) ** part
        with torch.enable_grad():
            loss, largest = _loss_and_largest(points, grid, aims, power, options)
            (gradient,) = torch.autograd.grad(loss.sum(), points)
        with torch.no_grad():
            better = largest < best_loss  # false for NaN
            best[better], best_loss[better] = points[better], largest[better]
        points.grad = gradient.nan_to_num(0.0, 0.0, 0.0)  # a fit that diverged stays where it is
        optimizer.step()
        report((step + 1) / options.steps)
    return best, best_loss


def _loss_and_largest(
    points: Tensor, grid: Tensor, aims: Tensor, power: float, options: FitOptions
) -> tuple[Tensor, Tensor]:
    """(log of the p-norm of the error, the largest error) of each fit: [fits] each."""
    error = _error(_evaluate(points, grid, options), grid, aims).abs()
    largest = error.detach().amax(dim=1, keepdim=True).clamp_min(1e-300)
    loss = largest.log().squeeze(1) + (error / largest).pow(power).mean(dim=1).log() / power
    return loss, largest.squeeze(1)


def _error(values: Tensor, grid: Tensor, aims: Tensor) -> Tensor:
    """Distance to the step outside the margin, and to [0, 1] inside it: [fits, points]."""
    sigmas, margins = aims.split(1, dim=1)
    below = grid <= sigmas - margins + 1e-9
    above = grid >= sigmas + margins - 1e-9
    to_interval = values - values.clamp(0.0, 1.0)
    return torch.where(below, values, torch.where(above, values - 1.0, to_interval))


def _evaluate(points: Tensor, grid: Tensor, options: FitOptions) -> Tensor:
    """p^N on the grid for every fit: [fits, points]."""
    coefficients = points @ _chebyshev_to_powers(options.degree)
    x = grid.expand(len(points), -1)
    for application in range(options.applications):
        row = coefficients[:, application if options.per_iteration else 0]
        square = x * x
        factor = row[:, -1:]
        for term in range(row.shape[1] - 2, -1, -1):
            factor = factor * square + row[:, term : term + 1]
        x = x * factor
    return x


def _grid(points: int) -> Tensor:
    return torch.linspace(0.0, _REACH, points, dtype=torch.float64)


@cache
def _chebyshev_to_powers(degree: int) -> Tensor:
    """Rows T_1, T_3, … as coefficients of x, x³, …: [terms, terms]. In this basis descent is well conditioned."""
    rows = [chebyshev.cheb2poly([0] * n + [1])[1::2] for n in range(1, degree + 1, 2)]
    return torch.tensor([[*row, *[0.0] * (len(rows) - len(row))] for row in rows], dtype=torch.float64)
