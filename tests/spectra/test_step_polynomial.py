"""p^N on matrices and Gram matrices against its transcription by the SVD, U p^N(S) Vᵀ."""

import pytest
import torch
from torch import Tensor

from fgcli.spectra.step_polynomial import StepPolynomial

POLYNOMIALS = {
    "degree 5": StepPolynomial(((1.34, 0.58, -0.79),), 5),
    "degree 7": StepPolynomial(((0.56, 5.13, -8.86, 4.14),), 5),
    "degree 9": StepPolynomial(((0.53, 11.7, -36.1, 39.9, -15.1),), 3),
    "once": StepPolynomial(((0.56, 5.13, -8.86, 4.14),), 1),
    "per iteration": StepPolynomial(((3.0, -9.4, 13.1, -6.0), (-0.1, 8.5, -14.9, 7.1), (0.7, 3.6, -6.1, 2.9)), 3),
}
SHAPES = [(3, 12, 12, 12), (3, 7, 12, 7), (3, 12, 7, 7), (2, 12, 12, 4), (1, 1, 5, 1), (2, 6, 6, 0)]
every_polynomial = pytest.mark.parametrize("polynomial", POLYNOMIALS.values(), ids=POLYNOMIALS.keys())
every_shape = pytest.mark.parametrize(("batch", "rows", "columns", "rank"), SHAPES)


def matrices(batch: int, rows: int, columns: int, rank: int) -> Tensor:
    """[batch, rows, columns] of that rank and of spectral norm 1 (0 for rank 0), in float64."""
    generator = torch.Generator().manual_seed(rows + 100 * columns + rank)
    left = torch.randn(batch, rows, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(batch, rank, columns, generator=generator, dtype=torch.float64)
    product = left @ right
    norm = torch.linalg.matrix_norm(product, ord=2)[:, None, None]
    return product / norm.clamp_min(1e-300)


def plain_power(polynomial: StepPolynomial, x: Tensor) -> Tensor:
    for row in polynomial.rows():
        x = sum((a * x ** (2 * j + 1) for j, a in enumerate(row)), torch.zeros_like(x))
    return x


def by_svd(polynomial: StepPolynomial, a: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return u @ (plain_power(polynomial, s)[..., None] * vh)


@every_polynomial
def test_evaluate_is_the_sum_of_powers(polynomial: StepPolynomial) -> None:
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)
    torch.testing.assert_close(polynomial.evaluate(x), plain_power(polynomial, x), rtol=0, atol=1e-11)


@every_polynomial
@every_shape
def test_apply_acts_on_the_singular_values(
    polynomial: StepPolynomial, batch: int, rows: int, columns: int, rank: int
) -> None:
    a = matrices(batch, rows, columns, rank)
    torch.testing.assert_close(polynomial.apply(a), by_svd(polynomial, a), rtol=0, atol=1e-10)


@every_polynomial
@every_shape
def test_gram_factor_gives_the_same_from_the_gram_matrix_alone(
    polynomial: StepPolynomial, batch: int, rows: int, columns: int, rank: int
) -> None:
    a = matrices(batch, rows, columns, rank)
    factor = polynomial.gram_factor(a.mT @ a)
    torch.testing.assert_close(a @ factor, by_svd(polynomial, a), rtol=0, atol=1e-10)
    torch.testing.assert_close(factor, factor.mT, rtol=0, atol=1e-10)


def test_inputs_are_left_alone() -> None:
    a = matrices(2, 6, 6, 6)
    gram, kept = a.mT @ a, a.clone()
    kept_gram = gram.clone()
    POLYNOMIALS["degree 9"].apply(a)
    POLYNOMIALS["degree 9"].gram_factor(gram)
    assert torch.equal(a, kept)
    assert torch.equal(gram, kept_gram)


def test_single_precision_stays_near_double() -> None:
    a = matrices(4, 30, 30, 20)
    polynomial = POLYNOMIALS["degree 7"]
    error = (polynomial.apply(a.float()).double() - by_svd(polynomial, a)).abs().max()
    assert 0 < error < 1e-4
