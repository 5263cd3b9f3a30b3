"""The literal SVD."""

import pytest
import torch
from masks import masks, weight

from fgcli.spectra.dense import right_singular_vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 8), (4, 9), (9, 4)])
@pytest.mark.parametrize("rank", [None, 3, 0])
def test_rank_and_vectors_under_masks(shape: tuple[int, int], rank: int | None, dtype: torch.dtype) -> None:
    matrix, mask = weight(*shape, rank=rank), masks(shape[1])
    dense = (matrix * mask.unsqueeze(1)).to(dtype)
    vectors, found = right_singular_vectors(dense)
    assert found.tolist() == [int(torch.linalg.matrix_rank((matrix * row).double())) for row in mask]
    assert vectors.dtype == dtype
    assert vectors.isfinite().all()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    for sample, v, r in zip(dense, vectors, found.tolist(), strict=True):
        kept = v[:, :r]
        torch.testing.assert_close(sample @ kept @ kept.T, sample, rtol=0, atol=tolerance)


def test_what_is_not_finite_stays_so_and_spoils_no_other_sample() -> None:
    matrices = weight(5, 4).repeat(3, 1, 1)
    matrices[1, 0, 0], matrices[2, 1, 1] = torch.nan, torch.inf
    vectors, rank = right_singular_vectors(matrices)
    assert vectors[0].isfinite().all()
    assert vectors[1:].isnan().all()
    assert rank.tolist() == [4, 4, 4]
