"""The tracked subspace of one matrix."""

import pytest
import torch
from masks import weight
from torch import Tensor

from fgcli.spectra.tracking import has_full_column_rank, leading_left_vectors


@pytest.mark.parametrize("shape", [(12, 12), (12, 7), (5, 12)])
def test_leading_left_vectors_in_their_order(shape: tuple[int, int]) -> None:
    matrix = weight(*shape, gap_at=3)
    q = leading_left_vectors(matrix, 3)
    exact = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(q @ q.T, exact.U[:, :3] @ exact.U[:, :3].T, rtol=0, atol=1e-8)
    values = (matrix.T @ q).square().sum(0).sqrt()
    torch.testing.assert_close(values, exact.S[:3], rtol=1e-8, atol=0)


def test_warm_steps_converge_where_the_cold_start_has_not() -> None:
    matrix = weight(30, 30)
    exact = torch.linalg.svd(matrix).U[:, :5]
    q, errors = None, []
    for _ in range(200):
        q = leading_left_vectors(matrix, 5, start=q)
        errors.append(float((q @ q.T - exact @ exact.T).norm()))
    assert errors[0] > errors[20] > errors[-1]
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("rank", [0, 2, 4])
def test_spans_the_image_of_a_rank_deficient_matrix(rank: int) -> None:
    matrix = weight(9, 8, rank=rank)
    q = leading_left_vectors(matrix, 6)
    torch.testing.assert_close(q.T @ q, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(q @ (q.T @ matrix), matrix, rtol=0, atol=1e-9)


def test_r_is_capped_by_the_shape() -> None:
    assert leading_left_vectors(weight(4, 9), 50).shape == (4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_column_rank(dtype: torch.dtype) -> None:
    assert has_full_column_rank(weight(9, 8).to(dtype))
    assert not has_full_column_rank(weight(9, 8, rank=7).to(dtype))
    assert not has_full_column_rank(weight(7, 8).to(dtype))
    assert not has_full_column_rank(weight(8, 8, rank=0).to(dtype))
    assert has_full_column_rank((1e-150 * weight(9, 8)).to(torch.float64))


@pytest.mark.parametrize("start", [None, torch.eye(9, 3)])
@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e30])
def test_the_scale_of_the_matrix_does_not_matter(scale: float, start: Tensor | None) -> None:
    matrix = weight(9, 8).float()
    q, expected = leading_left_vectors(scale * matrix, 3, start), leading_left_vectors(matrix, 3, start)
    torch.testing.assert_close(q @ q.T, expected @ expected.T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    matrix = weight(9, 8)
    matrix[2, 3] = value
    with pytest.raises(ValueError, match="the weight holds values that are not finite"):
        leading_left_vectors(matrix, 3)
