"""Odd polynomials that approximate a step, applied to numbers, matrices and Gram matrices (Sec. 3.2 of the paper).

p(x) = a x + b x³ + c x⁵ + … applied N times approximates the step at σ: 0 below σ, 1 above it, for x in [0, 1].
Applied to a matrix A = U S Vᵀ it acts on the singular values alone, p^N(A) = U p^N(S) Vᵀ, and costs only products.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepPolynomial:
    """An odd polynomial and how often it is applied; or one polynomial for each application, applied in turn.

    `coefficients` holds one row (a, b, c, …) of x, x³, x⁵, …, used by every application, or `applications` rows, all of
    one length: 3, 4 or 5 numbers.
    """

    coefficients: tuple[tuple[float, ...], ...]
    applications: int

    def rows(self) -> Iterator[tuple[float, ...]]:
        """The coefficients of each application in turn."""
        if len(self.coefficients) == 1:
            return iter(self.coefficients * self.applications)
        return iter(self.coefficients)

    def evaluate(self, x: Tensor) -> Tensor:
        """p^N(x) of every element, in the dtype of x. Beyond the range of the fit it may overflow to ±inf or NaN."""
        for row in self.rows():
            square = x * x
            factor = torch.full_like(x, row[-1])
            for coefficient in reversed(row[:-1]):
                factor = factor * square + coefficient
            x = x * factor
        return x

    def apply(self, matrices: Tensor) -> Tensor:
        """p^N(A) of every matrix [..., m, n]; its spectral norm must not exceed 1, beyond it p may diverge.

        The literal iteration: each application forms the Gram matrix of its own argument, on the smaller side.
        """
        wide = matrices.shape[-2] < matrices.shape[-1]
        tall = matrices.mT if wide else matrices
        for row in self.rows():
            tall = tall @ _even_factor(row, tall.mT @ tall)
        return tall.mT if wide else tall

    def gram_factor(self, gram: Tensor) -> Tensor:
        """h(C) with p^N(A) = A h(C), for C = AᵀA [..., r, r]: symmetric, commutes with C.

        The argument of the next application is A q(C) and has the Gram matrix q(C) C q(C), so A itself is not needed.
        """
        first, *rest = self.gram_factors(gram)
        for factor in rest:
            first = first @ factor
        return first

    def gram_factors(self, gram: Tensor) -> Iterator[Tensor]:
        """The factors q_1, …, q_N of h(C): polynomials in C, so they commute."""
        last = self.applications - 1
        for index, row in enumerate(self.rows()):
            factor = _even_factor(row, gram)
            yield factor
            if index < last:
                gram = factor @ (gram @ factor)


def _even_factor(row: tuple[float, ...], gram: Tensor) -> Tensor:
    """q(C) = a I + b C + c C² + … with p(A) = A q(AᵀA).

    Horner's rule in C² over pairs of coefficients: one product for degree 5, two for degrees 7 and 9.
    """
    square = gram @ gram
    if len(row) % 2:
        factor = row[-3] * _identity_like(gram) + row[-2] * gram + row[-1] * square
        rest = row[:-3]
    else:
        factor = row[-2] * _identity_like(gram) + row[-1] * gram
        rest = row[:-2]
    for low, high in zip(rest[-2::-2], rest[-1::-2], strict=True):
        factor = square @ factor
        factor = factor.add_(gram, alpha=high)
        factor.diagonal(dim1=-2, dim2=-1).add_(low)
    return factor


def _identity_like(gram: Tensor) -> Tensor:
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
