"""Coefficients that are known by name, in place of a fitted table.

The orthogonalisers map every singular value to about 1. They have no step: what they leave below 1 depends on how
small it is, so that they are the controls of W̃⊥-NS, whose table cuts at σ_k. `sign-cut` is a step, at any σ_k
(fgcli.spectra.sign).

muon            Jordan et al. 2024: one quintic with the largest slope at 0 that stays within about 0.7 … 1.2.
bjorck-bowie    x (1 + H/2 + 3H²/8), H = 1 - x²: the series of (1 - H)^(-1/2), of Björck and Bowie 1971 as of Kovarik
kovarik         1970; the quintic stands for the first here, for the second the one with 5H³/16 more, of degree 7.
polar-express   Amsel et al. 2025, arXiv:2505.16932: minimax quintics for singular values from 1e-3 on, with the
                authors' cushion and safety factor.
cans            Grishina et al. 2025, arXiv:2506.10935: minimax quintics of the largest slope at 0 that end within 0.3
                of 1; the safety factor is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fgcli.errors import UsageError
from fgcli.spectra.coefficients import MARGIN, FitOptions, measure
from fgcli.spectra.sign import SMALLEST, Row, SignCut, minimax_quintic, sign_quintics
from fgcli.spectra.step_polynomial import StepPolynomial

PAPER = "paper"
SIGN_CUT = "sign-cut"
ORTHOGONALISERS = ("muon", "bjorck-bowie", "kovarik", "polar-express", "cans")
NAMES = (PAPER, *ORTHOGONALISERS, SIGN_CUT)

APPLICATIONS = 5
_FIXED: dict[str, tuple[float, ...]] = {
    "muon": (3.4445, -4.7750, 2.0315),
    "bjorck-bowie": (15 / 8, -10 / 8, 3 / 8),
    "kovarik": (35 / 16, -35 / 16, 21 / 16, -5 / 16),
}
_SMALLEST, _CUSHION = 1e-3, 0.02407327424182761  # of polar-express
_WITHIN = 0.3  # of cans
_SAFETY = 1.01


@dataclass(frozen=True)
class NamedStep:
    """A named set held against the step at `sigma`; the errors are those of `coefficients.StepFit`."""

    sigma: float
    polynomial: StepPolynomial | SignCut
    error: float
    mean_error: float

    @property
    def content(self) -> dict[str, Any]:
        """As JSON has it. Those of `sign-cut` are coefficients of (σ² - shift) / scale, to be taken from -1 to 1."""
        step, shifted = self.polynomial, {}
        if isinstance(step, SignCut):
            shifted, step = {"shift": step.shift, "scale": step.scale}, step.polynomial
        rows = {"coefficients": [list(row) for row in step.rows()]}
        return {"sigma": self.sigma, **shifted, **rows, "error": self.error, "mean_error": self.mean_error}


def named_steps(name: str, sigmas: Sequence[float], applications: int) -> tuple[NamedStep, ...]:
    """A set of ORTHOGONALISERS, or `sign-cut`, at each of the σ. UsageError for another name, σ, or number."""
    if name not in (*ORTHOGONALISERS, SIGN_CUT):
        raise UsageError(f"--set is {name!r}; it must be one of {', '.join(NAMES)}")
    options = FitOptions(applications=applications, sigmas=tuple(sigmas))
    steps = []
    for sigma in options.sigmas:
        polynomial = SignCut(sigma, MARGIN, applications) if name == SIGN_CUT else orthogonaliser(name, applications)
        steps.append(NamedStep(sigma, polynomial, *measure(polynomial, sigma)))
    return tuple(steps)


@cache
def orthogonaliser(name: str, applications: int = APPLICATIONS) -> StepPolynomial:
    """One of ORTHOGONALISERS, applied so often."""
    if name in _FIXED:
        return StepPolynomial((_FIXED[name],), applications)
    rows = _polar_express(applications) if name == "polar-express" else _cans(applications)
    return StepPolynomial(rows, applications)


def _polar_express(number: int) -> tuple[Row, ...]:
    """Where an interval is wide, the quintic is that of a narrower one, recentred: small values grow faster.

    All but the last divide by the safety factor first, so that what rounding leaves above 1 does not diverge.
    """
    low, high, rows = _SMALLEST, 1.0, []
    for index in range(number):
        (a, b, c), _ = minimax_quintic(max(low, _CUSHION * high), high)
        at_low, at_high = (a * x + b * x**3 + c * x**5 for x in (low, high))
        centre = 2 / (at_low + at_high)
        s = _SAFETY if index < number - 1 else 1.0
        rows.append((a * centre / s, b * centre / s**3, c * centre / s**5))
        low, high = centre * at_low, 2 - centre * at_low
    return tuple(rows)


def _cans(number: int) -> tuple[Row, ...]:
    """By bisection of the smallest value from which on the composition ends within _WITHIN of 1."""
    low, high = SMALLEST, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sign_quintics(middle, number)[1] < _WITHIN else (middle, high)
    (a, b, c), *rest = sign_quintics(high, number)[0]
    return ((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5), *rest)  # else what rounding leaves above 1 diverges
