import pytest
import torch
from torch import Tensor

from fgcli.spectra.eigenvectors import leading_eigenvectors


def symmetric(n: int) -> Tensor:
    """[n, n] with eigenvalues of both signs, the largest in absolute value negative."""
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q * torch.linspace(-6, 5, n, dtype=torch.float64) @ q.T


def start(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("n", [4, 6, 20, 21, 22, 200])
def test_leading_eigenvectors_are_those_of_the_dense_matrix(n: int) -> None:
    matrix = symmetric(n)
    values, vectors = leading_eigenvectors(lambda v: matrix @ v, 4, start(n))
    expected, dense = torch.linalg.eigh(matrix)
    torch.testing.assert_close(values, expected.flip(0)[:4], rtol=1e-6, atol=1e-8)
    overlaps = (vectors.T @ dense.flip(1)[:, :4]).abs()
    torch.testing.assert_close(overlaps, torch.eye(4, dtype=torch.float64), rtol=0, atol=3e-3)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)


def test_in_single_precision() -> None:
    matrix = symmetric(200).float()
    values, vectors = leading_eigenvectors(lambda v: matrix @ v, 4, start(200).float())
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(values, torch.linalg.eigvalsh(symmetric(200)).flip(0)[:4], rtol=1e-5, atol=0)
    torch.testing.assert_close(matrix @ vectors, vectors * values.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_an_operator_of_lower_rank_has_zeros_after_it(rank: int) -> None:
    q, _ = torch.linalg.qr(symmetric(60)[:, : rank + 1])
    matrix = q[:, :rank] @ q[:, :rank].T
    values, vectors = leading_eigenvectors(lambda v: matrix @ v, 5, start(60))
    torch.testing.assert_close(values, (torch.arange(5) < rank).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-9)


def test_from_an_earlier_space_it_takes_fewer_products() -> None:
    matrix, calls = symmetric(200), 0

    def product(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return matrix @ v

    _, vectors = leading_eigenvectors(product, 3, start(200))
    cold, calls = calls, 0
    leading_eigenvectors(product, 3, vectors.sum(1))
    assert calls < cold


def test_what_has_not_converged_is_returned_as_it_is() -> None:
    matrix = symmetric(200)
    values, _ = leading_eigenvectors(lambda v: matrix @ v, 4, start(200), restarts=0)
    assert (values < torch.linalg.eigvalsh(matrix).flip(0)[:4]).all()
