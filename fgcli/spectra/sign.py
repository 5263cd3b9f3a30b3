"""The sign function by compositions of minimax quintics, and the step at a singular value that follows from it.

Of all odd quintics, the one whose largest distance to 1 on [l, u] is least maps it onto [1 - E, 1 + E]. The next one is
that of this interval. Among compositions of so many quintics none is nearer to the sign function (Amsel et al. 2025,
"The Polar Express", arXiv:2505.16932, Theorem 3.1). The coefficients depend on the gap l / u alone, and are computed in
well under a millisecond.

The projector onto the singular vectors above a cut τ is P = (I + sign(AᵀA - τ² I)) / 2: the step without a fit.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from fgcli.spectra.step_polynomial import StepPolynomial

Row = tuple[float, float, float]
LIMIT: Row = (15 / 8, -10 / 8, 3 / 8)
"""The minimax quintic of [1 - E, 1 + E] as E goes to 0."""
SMALLEST = 1e-12
"""The smallest gap that float64 tells from none."""


def minimax_quintic(low: float, high: float) -> tuple[Row, float]:
    """(a, b, c) of the odd quintic nearest to 1 on [low, high], 0 < low < high, and its largest distance to 1.

    By Remez' exchange: it is attained at both ends and at the two extrema between them, with alternating signs.
    """
    middle, half = (low + high) / 2, (high - low) / (high + low)
    if half < 5e-5:  # then the exchange is singular to working precision, and 1 + 5t³/2 + … is as good
        a, b, c = LIMIT
        return (a / middle, b / middle**3, c / middle**5), 2.5 * half**3 * (1 + half)
    first, second, error = (3 * low + high) / 4, (low + 3 * high) / 4, math.inf
    a = b = c = 0.0
    for _ in range(100):
        points = np.array([low, first, second, high])
        system = np.stack([points, points**3, points**5, [1.0, -1.0, 1.0, -1.0]], 1)
        a, b, c, found = np.linalg.solve(system, np.ones(4)).tolist()
        root = math.sqrt(9 * b * b - 20 * a * c)
        first, second = math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))
        if abs(found - error) <= 1e-15:
            break
        error = found
    return (a, b, c), abs(error)


@cache
def sign_quintics(gap: float, number: int) -> tuple[tuple[Row, ...], float]:
    """The best composition of `number` quintics for sign(x) on gap <= |x| <= 1, and its largest error there."""
    low, high, rows, error = gap, 1.0, [], 1.0 - gap
    for _ in range(number):
        row, error = minimax_quintic(low, high)
        rows.append(row)
        low, high = 1 - error, 1 + error
    return tuple(rows), error


@cache
def enough_quintics(gap: float, error: float) -> tuple[Row, ...]:
    """The shortest composition of minimax quintics whose error is at most `error`."""
    number = 1
    while sign_quintics(gap, number)[1] > error:
        number += 1
    return sign_quintics(gap, number)[0]


@dataclass(frozen=True)
class SignCut:
    """The step at sigma on [0, 1] by so many quintics, exact up to the sign's error outside ±margin of sigma.

    The shift lies midway between the squares of sigma - margin and sigma + margin, where the gap is widest; what of
    these lies outside of [0, 1] is taken to its end.
    """

    sigma: float
    margin: float
    applications: int

    @property
    def _squares(self) -> tuple[float, float]:
        """Of the largest value that is mapped to 0, and of the smallest that is mapped to 1."""
        return max(self.sigma - self.margin, 0.0) ** 2, min(self.sigma + self.margin, 1.0) ** 2

    @property
    def shift(self) -> float:
        """τ²."""
        return sum(self._squares) / 2

    @property
    def scale(self) -> float:
        """The largest |σ² - τ²| of σ in [0, 1]."""
        return max(self.shift, 1 - self.shift)

    @cached_property
    def polynomial(self) -> StepPolynomial:
        """That of the shifted squares (σ² - τ²) / scale."""
        low, high = self._squares
        rows, _ = sign_quintics((high - low) / 2 / self.scale, self.applications)
        return StepPolynomial(rows, self.applications)

    def evaluate(self, x: Tensor) -> Tensor:
        """The step of every element, singular values in [0, 1], in the dtype of x."""
        return (1 + self.polynomial.evaluate((x * x - self.shift) / self.scale)) / 2


def signs(matrices: Tensor, gaps: Tensor, error: float) -> Tensor:
    """sign(X) of symmetric X [batch, r, r], eigenvalues within [-1, 1], by products alone.

    Each with the quintics of its own gap, gaps [batch] in float64 on the CPU: eigenvalues λ with |λ| at least that are
    mapped to sign(λ) within `error`, smaller ones between -1 and 1. A sample's result is that of it alone.
    """
    # Gaps are rounded down to powers of √2, so that few compositions are made.
    levels = (gaps.clamp(SMALLEST, 1.0).log2() * -2).ceil().long()
    known, index = levels.unique(return_inverse=True)
    of_levels = [enough_quintics(2 ** (-level / 2), error) for level in known.tolist()]
    number = max(map(len, of_levels), default=0)
    padded = [[*rows, *[LIMIT] * (number - len(rows))] for rows in of_levels]
    coefficients = torch.tensor(padded, dtype=torch.float64).view(len(known), number, 3)[index].to(matrices)
    for a, b, c in (row.unbind(1) for row in coefficients.unbind(1)):
        square = matrices @ matrices
        factor = (square @ square).mul_(c.view(-1, 1, 1)).addcmul_(square, b.view(-1, 1, 1))
        factor.diagonal(dim1=1, dim2=2).add_(a.unsqueeze(1))
        matrices = matrices @ factor
    return matrices
