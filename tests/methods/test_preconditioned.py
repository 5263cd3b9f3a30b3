"""W̃ᴾ held to Eq. 11 to 12, formed literally with σ = 1e-5."""

import pytest
import torch
from masks import covariance, masks, naive_top_k_projector, weight

from fgcli.methods.preconditioned import Preconditioned

SIGMA = 1e-5


@pytest.mark.parametrize("shape", [(8, 8), (10, 7)])
def test_covariance_is_that_of_the_literal_formula(shape: tuple[int, int]) -> None:
    matrix, mask = weight(*shape), masks(shape[1])
    literal = []
    for row in mask:
        u, s, vh = torch.linalg.svd(matrix @ torch.diag(row), full_matrices=False)
        w_sigma = (u * (s.square() + SIGMA).sqrt()) @ vh
        values, vectors = torch.linalg.eigh(w_sigma.T @ w_sigma)
        w_prime = w_sigma @ (vectors * values.rsqrt()) @ vectors.T
        literal.append(w_prime.T @ w_prime)
    found = covariance(Preconditioned(), matrix, mask)
    torch.testing.assert_close(found, torch.stack(literal), rtol=0, atol=1e-7)


@pytest.mark.parametrize("rank", [None, 2])
def test_before_the_output_it_is_the_projector_onto_the_image(rank: int | None) -> None:
    matrix, mask = weight(4, 9, rank=rank), masks(9)
    found = covariance(Preconditioned(), matrix, mask)
    torch.testing.assert_close(found, naive_top_k_projector(matrix, mask, 4), rtol=0, atol=1e-7)
