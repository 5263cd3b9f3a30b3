"""Tables of Newton–Schulz coefficients: one step polynomial for each of several σ, with what it took to fit them.

The paper fits σ = 0.1, 0.2, …, 0.9 beforehand and uses the set nearest to the current σ_k (Sec. 4.3).
"""

import itertools
import math
from dataclasses import dataclass

import torch

from fgcli.errors import UsageError
from fgcli.spectra.sign import SignCut
from fgcli.spectra.step_polynomial import StepPolynomial

PAPER_SIGMAS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
MARGIN = 0.05  # the error of a table is stated outside ± this much of σ, half the paper's spacing
GRID = 10_001
BOUND = 1.5
BEYOND = 1.01  # singular values lie up to here when a spectral norm is rounded or a few updates old
MAX_APPLICATIONS = 32
MAX_SIGMAS = 100


@dataclass(frozen=True)
class FitOptions:
    """What determines a fit. Two fits with equal options give equal tables. UsageError for what is not allowed."""

    degree: int = 7
    applications: int = 5
    per_iteration: bool = False
    sigmas: tuple[float, ...] = PAPER_SIGMAS
    seed: int = 0
    restarts: int = 12
    steps: int = 600

    def __post_init__(self) -> None:
        if self.degree not in (5, 7, 9):
            raise UsageError(f"degree is {self.degree}; the polynomial is odd, of degree 5, 7 or 9")
        if not 1 <= self.applications <= MAX_APPLICATIONS:
            raise UsageError(
                f"N, the number of applications, is {self.applications}; it must be from 1 to {MAX_APPLICATIONS}"
            )
        if not self.sigmas:
            raise UsageError("there is no σ to fit; give at least one in (0, 1)")
        for sigma in self.sigmas:
            if not 0.0 < sigma < 1.0:
                raise UsageError(f"σ is {sigma:g}; it must lie between 0 and 1, both excluded")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1")
        ascending = tuple(sorted(set(self.sigmas)))
        if len(ascending) > MAX_SIGMAS:
            raise UsageError(f"{len(ascending)} values of σ; at most {MAX_SIGMAS} fit into a table")
        object.__setattr__(self, "sigmas", ascending)


@dataclass(frozen=True)
class StepFit:
    """One step polynomial and its errors against the step at `sigma`, on GRID points of [0, 1].

    `error` is the largest outside ±MARGIN of sigma, `mean_error` the mean over all of [0, 1]; `margin` is the
    half-width around sigma that the fit itself left out.
    """

    sigma: float
    polynomial: StepPolynomial
    error: float
    mean_error: float
    margin: float

    @property
    def coefficients(self) -> tuple[tuple[float, ...], ...]:
        return self.polynomial.coefficients


@dataclass(frozen=True)
class CoefficientTable:
    """Fits in ascending σ, one for each of `options.sigmas`, of polynomials that `instability` passes."""

    options: FitOptions
    fits: tuple[StepFit, ...]

    def nearest(self, sigma: float) -> StepFit:
        """The fit whose σ is nearest to `sigma`, the lower of two equally near."""
        if not math.isfinite(sigma):
            raise ValueError(f"sigma is {sigma}; it must be a number")
        # Rounded, because 0.55 - 0.5 and 0.6 - 0.55 differ in their last bits.
        return min(self.fits, key=lambda fit: (round(abs(fit.sigma - sigma), 12), fit.sigma))

    def covers(self) -> bool:
        """Whether every σ_k from 0.05 to 0.95 has a fit within 0.05, as in the paper."""
        ends = (0.0, *(fit.sigma for fit in self.fits), 1.0)
        return all(right - left <= 2 * MARGIN + 1e-9 for left, right in itertools.pairwise(ends))


def measure(polynomial: StepPolynomial | SignCut, sigma: float) -> tuple[float, float]:
    """(largest error outside ±MARGIN of sigma, mean error), both on GRID points of [0, 1]."""
    x = torch.linspace(0.0, 1.0, GRID, dtype=torch.float64)
    error = (polynomial.evaluate(x) - (x > sigma).double()).abs()
    outside = (x - sigma).abs() >= MARGIN - 1e-9  # both ends of the band count as outside, whatever the rounding
    return float(error[outside].max()), float(error.mean())


def instability(polynomial: StepPolynomial) -> str | None:
    """Why the polynomial must not be used, or None: |p^N| ≤ 1.5 on [0, 1], and just past 1, up to 1.01.

    An odd polynomial diverges for large x, so only this much beyond 1 can be asked for.
    """
    for start, end, points in ((0.0, 1.0, GRID), (1.0, BEYOND, 1_001)):
        x = torch.linspace(start, end, points, dtype=torch.float64)
        size = polynomial.evaluate(x).abs().nan_to_num(nan=math.inf)
        worst = int(size.argmax())
        if size[worst] > BOUND:
            return f"|p^N({float(x[worst]):.4f})| is {float(size[worst]):.3g}, above {BOUND:g} on [0, {BEYOND:g}]"
    return None
