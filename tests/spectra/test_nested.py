"""Coordinates in nested subspaces against the literal SVD and against projectors."""

import pytest
import torch
from masks import masks, weight

from fgcli.spectra.nested import nested_coordinates, principal_coordinates


def vectors(count: int, d: int) -> torch.Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(
    ("d_out", "d_in", "rank"), [(9, 12, None), (12, 9, None), (10, 10, None), (12, 9, 4), (3, 12, None)]
)
def test_principal_coordinates_are_the_literal_svd(d_out: int, d_in: int, rank: int | None) -> None:
    matrix, mask = weight(d_out, d_in, rank=rank), masks(d_in)
    v = vectors(len(mask), d_in)
    found = principal_coordinates(matrix, mask, v)
    assert found.shape == (len(mask), min(d_out, d_in))
    for b, row in enumerate(mask):
        _, s, vh = torch.linalg.svd(matrix * row, full_matrices=False)
        expected = torch.where(s > 1e-7 * matrix.norm(), (vh @ v[b]).abs(), 0)
        torch.testing.assert_close(found[b].abs(), expected, rtol=1e-6, atol=1e-7)


def test_principal_coordinates_of_slopes_that_are_no_mask() -> None:
    matrix = weight(7, 9)
    slope = vectors(4, 9).abs() + 0.1
    v = vectors(4, 9)
    found = principal_coordinates(matrix, slope, v)
    for b in range(4):
        _, _, vh = torch.linalg.svd(matrix * slope[b], full_matrices=False)
        torch.testing.assert_close(found[b].abs(), (vh @ v[b]).abs(), rtol=1e-6, atol=1e-8)


def test_single_precision_is_as_good_as_its_input() -> None:
    matrix, mask = weight(9, 12).float(), masks(12).float()
    v = vectors(len(mask), 12)
    found = principal_coordinates(matrix, mask, v.float())
    torch.testing.assert_close(found, principal_coordinates(matrix.double(), mask.double(), v.float().double()))


@pytest.mark.parametrize("rank", [None, 3])
def test_nested_coordinates_project_onto_the_span_of_the_first_columns(rank: int | None) -> None:
    matrix, mask = weight(8, 12, rank=rank), masks(12)
    _, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    columns = vh.T.clone()
    columns[:, 4] = columns[:, 1] * 2 - columns[:, 2]  # dependent on those before it
    v = vectors(len(mask), 12)
    found = nested_coordinates(columns, mask, v).square().cumsum(1)
    for b, row in enumerate(mask):
        for k in range(1, 9):
            masked = columns[:, :k] * row.unsqueeze(1)
            u, s, _ = torch.linalg.svd(masked, full_matrices=False)
            span = u[:, s > 1e-9]
            torch.testing.assert_close(found[b, k - 1], (span.T @ v[b]).square().sum(), rtol=1e-6, atol=1e-9)


def test_a_dependent_column_adds_nothing() -> None:
    columns = torch.eye(4, dtype=torch.float64)[:, [0, 0, 1]]
    found = nested_coordinates(columns, torch.ones(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64))
    assert found.abs().tolist() == [[1, 0, 1]]
