"""Krylov spaces and projections from products alone, held to dense factorisations, in float64."""

from dataclasses import dataclass

import pytest
import torch
from masks import weight
from torch import Tensor

from fgcli.spectra.krylov import followed, krylov_images, mean_image, ritz_vectors
from fgcli.spectra.least_squares import project_onto_rows
from fgcli.spectra.scaling import near_one
from fgcli.spectra.tracking import random_block


@dataclass
class Dense:
    matrices: Tensor

    @property
    def input_dim(self) -> int:
        return self.matrices.shape[2]

    @property
    def output_dim(self) -> int:
        return self.matrices.shape[1]

    def apply(self, v: Tensor) -> Tensor:
        return (self.matrices @ v.unsqueeze(-1)).squeeze(-1) if v.dim() == 2 else self.matrices @ v

    def apply_transpose(self, u: Tensor) -> Tensor:
        return (self.matrices.mT @ u.unsqueeze(-1)).squeeze(-1) if u.dim() == 2 else self.matrices.mT @ u


def some(d_out: int, d_in: int) -> Tensor:
    """Of full rank, of rank 2, zero, and tiny."""
    full = weight(d_out, d_in)
    return torch.stack([full, weight(d_out, d_in, rank=2, seed=1), torch.zeros_like(full), 1e-200 * full])


def projector(vectors: Tensor) -> Tensor:
    return vectors @ vectors.mT


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_whole_krylov_space_is_the_image_of_the_transpose(shape: tuple[int, int], block: int) -> None:
    matrices = some(*shape)[:3]
    start = random_block(shape[1], block, matrices)
    images = krylov_images(Dense(matrices), start, shape[0], 3)
    assert images.shape == (3, shape[1], shape[0])
    found = projector(ritz_vectors(images, min(shape)))
    torch.testing.assert_close(found, torch.linalg.pinv(matrices, rtol=1e-9) @ matrices, rtol=0, atol=1e-7)


def test_ritz_vectors_are_singular_vectors_where_there_is_a_gap() -> None:
    matrices = torch.stack([weight(12, 15, gap_at=3, seed=seed) for seed in (0, 1)])
    images = krylov_images(Dense(matrices), random_block(15, 3, matrices), 9, 2)
    vh = torch.linalg.svd(matrices, full_matrices=False).Vh[:, :3]
    torch.testing.assert_close(projector(ritz_vectors(images, 3)), projector(vh.mT), rtol=0, atol=1e-8)


def test_columns_beyond_the_rank_are_zero_and_tiny_matrices_are_no_problem() -> None:
    matrices = some(5, 8)[1:]
    # Scaled as a whole, as within a batch: the tiny one alone.
    vectors = ritz_vectors(near_one(krylov_images(Dense(matrices[:2]), random_block(8, 3, matrices), 5, 2)), 3)
    assert vectors.norm(dim=1).round(decimals=9).tolist() == [[1, 1, 0], [0, 0, 0]]
    alone = ritz_vectors(near_one(krylov_images(Dense(matrices[2:]), random_block(8, 3, matrices), 5, 1)), 3)
    vh = torch.linalg.svd(matrices[2] * 1e200).Vh[:3]
    torch.testing.assert_close(projector(alone)[0], projector(vh.T), rtol=0, atol=1e-8)


def test_the_start_that_is_followed_comes_to_the_leading_space_of_the_mean() -> None:
    matrices = torch.stack([weight(12, 15, gap_at=3, seed=seed) for seed in (0, 1, 2)])
    mean = (matrices.mT @ matrices).mean(0)
    start = random_block(15, 9, matrices)
    for _ in range(3):
        start = followed(mean_image(krylov_images(Dense(matrices), start, 12, 3), start))
    torch.testing.assert_close(start.T @ start, torch.eye(9, dtype=torch.float64))
    leading = torch.linalg.eigh(mean).eigenvectors[:, -9:]
    torch.testing.assert_close(projector(start), projector(leading), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_projection_by_conjugate_gradients(shape: tuple[int, int]) -> None:
    matrices = some(*shape)[:3]
    v = torch.randn(3, shape[1], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.pinv(matrices, rtol=1e-9) @ matrices @ v
    found = project_onto_rows(Dense(matrices), v, 50)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(project_onto_rows(Dense(matrices), v[..., 1], 50), found[..., 1], rtol=0, atol=1e-12)
    # A sample's result is its own, and every iterate lies in the image.
    torch.testing.assert_close(project_onto_rows(Dense(matrices[1:2]), v[1:2], 50), found[1:2], rtol=0, atol=1e-14)
    early = project_onto_rows(Dense(matrices), v, 2)
    assert not torch.allclose(early, expected)
    torch.testing.assert_close(torch.linalg.pinv(matrices, rtol=1e-9) @ matrices @ early, early)
