"""Masked bases, whitening and Ritz spaces held to plain dense formulas, in float64."""

import pytest
import torch
from masks import masks, weight
from torch import Tensor

from fgcli.spectra import masked
from fgcli.spectra.masked import Coordinates, MaskedBasis, top_whitening, whitening


def bases() -> dict[str, Tensor]:
    dependent, zero = weight(9, 4, rank=2), weight(9, 3, rank=0)
    return {"tall": weight(9, 4), "single": weight(9, 1), "dependent": dependent, "zero": zero}


def projectors(ready: MaskedBasis, diagonal: Tensor, k: int, power_steps: int = 0) -> Tensor:
    """A Aᵀ of the map from noise, in float64: [batch, d, d]."""
    z = torch.eye(k, dtype=diagonal.dtype).expand(len(diagonal), k, k)
    a = ready.projection(diagonal, k, power_steps)(z).double()
    return a @ a.mT


@pytest.mark.parametrize("name", bases())
def test_gram_and_combine_are_the_plain_products(name: str) -> None:
    diagonal, ready = masks(9) * 1.5, MaskedBasis.of(bases()[name])
    basis = ready.basis
    dense = torch.stack([torch.diag(row) @ basis for row in diagonal])
    torch.testing.assert_close(ready.gram(diagonal), dense.mT @ dense)
    u = torch.randn(len(diagonal), basis.shape[1], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ready.combine(diagonal, u), dense @ u)
    torch.testing.assert_close(ready.combine(diagonal, u[..., 0]), (dense @ u)[..., 0])


def test_chunks_cover_the_batch_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked, "CHUNK", 2 * 4**2)
    diagonal, z, ready = masks(9), torch.arange(28.0, dtype=torch.float64).view(7, 4), MaskedBasis.of(weight(9, 4))
    sizes = []

    def double(part: Tensor) -> Coordinates:
        sizes.append(len(part))
        return lambda noise: 2 * noise

    mapped = ready.mapped(double, diagonal)
    for _ in range(2):  # what is computed of the diagonals is computed once
        assert torch.equal(mapped(z), ready.combine(diagonal, 2 * z))
    assert sizes == [2, 2, 2, 1]


@pytest.mark.parametrize("name", bases())
def test_whitened_noise_gives_the_projector_onto_the_columns(name: str) -> None:
    dense = bases()[name] * masks(9).unsqueeze(-1)
    r = dense.shape[-1]
    a = dense @ whitening(dense.mT @ dense)(torch.eye(r, dtype=torch.float64).expand(len(dense), r, r))
    pinv = torch.linalg.pinv(dense, rtol=1e-6)
    torch.testing.assert_close(a @ a.mT, dense @ pinv, rtol=0, atol=1e-7)


def test_whitening_dependent_columns_does_not_hang_on_the_last_bits() -> None:
    """Which signs and rotations eigenvectors come with does: another split of a batch would be another draw."""
    generator = torch.Generator().manual_seed(0)
    dense = (weight(30, 8) * (torch.rand(64, 30, 1, generator=generator) < 0.2)).double()  # 6 rows of 8 on average
    gram, z = dense.mT @ dense, torch.randn(64, 8, generator=generator, dtype=torch.float64)
    nudged = gram * (1 + 1e-15 * torch.randn(8, 8, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(whitening(nudged)(z), whitening(gram)(z), rtol=0, atol=1e-8)


def test_top_whitening_finds_the_leading_eigenvectors() -> None:
    dense = weight(20, 8, gap_at=3) * (0.5 + masks(20)[4:].unsqueeze(-1))
    gram = dense.mT @ dense
    z = torch.eye(3, dtype=torch.float64).expand(len(gram), 3, 3)
    a = dense @ top_whitening(gram, 3, power_steps=4)(z)
    u = torch.linalg.svd(dense).U[:, :, :3]
    torch.testing.assert_close(a @ a.mT, u @ u.mT, rtol=0, atol=1e-6)
    one = torch.stack([top_whitening(gram, 3, 4)(z[..., j]) for j in range(3)], dim=-1)
    torch.testing.assert_close(dense @ one, a)


@pytest.mark.parametrize("power_steps", [0, 1, 2])
def test_power_steps_are_as_many_as_asked_for(power_steps: int) -> None:
    ready, diagonal = MaskedBasis.of(weight(20, 8)), masks(20)[[0, 4, 5]]
    dense = ready.basis * diagonal.unsqueeze(-1)
    x = dense @ torch.linalg.matrix_power(dense.mT @ dense, power_steps)[:, :, :3]
    q = torch.linalg.qr(x).Q
    torch.testing.assert_close(projectors(ready, diagonal, 3, power_steps), q @ q.mT)


@pytest.mark.parametrize("power_steps", [0, 1, 2, 4, 6, 9])
def test_a_graded_diagonal_leaves_a_projector_after_any_number_of_power_steps(power_steps: int) -> None:
    """Small columns drown in large ones step by step: each pivot may look sound where the whole factor is not."""
    slopes = torch.logspace(0, -4, 12, dtype=torch.float64)[[0, 10, 4, 6, 7, 1, 3, 5, 2, 8, 11, 9]].unsqueeze(0)
    rounded = torch.eye(12, dtype=torch.float64) + 1e-16 * torch.randn(
        12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    c = projectors(MaskedBasis.of(rounded), slopes, 10, power_steps)
    torch.testing.assert_close(c @ c, c, rtol=0, atol=1e-6)
    assert float(c.diagonal(dim1=1, dim2=2).sum()) == pytest.approx(10, abs=1e-6)


@pytest.mark.parametrize("k", [6, 4])
def test_single_precision_keeps_directions_that_squaring_would_lose(k: int) -> None:
    """σ_6 = 1e-4 σ_1: its square is below the rounding of a Gram matrix in float32, not below that of the basis."""
    u, _, vh = torch.linalg.svd(weight(30, 6), full_matrices=False)
    basis = (u * torch.logspace(0, -4, 6, dtype=torch.float64) @ vh).float()
    diagonal = torch.ones(2, 30)
    diagonal[1, ::3] = 0
    c = projectors(MaskedBasis.of(basis), diagonal, k, power_steps=2)
    for sample, row in zip(c, diagonal.double(), strict=True):
        exact = torch.linalg.svd(basis.double() * row.unsqueeze(1), full_matrices=False).U[:, :k]
        torch.testing.assert_close(sample, exact @ exact.T, rtol=0, atol=2e-3)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("scale", [1e-30, 1e-21, 1e-12, 1e18])
def test_slopes_of_any_size_in_single_precision(scale: float, k: int) -> None:
    exact, diagonal = torch.linalg.qr(weight(9, 4)).Q[:, :k], torch.full((1, 9), scale)
    basis = (torch.linalg.qr(weight(9, 4)).Q * torch.tensor([1, 0.8, 1e-3, 1e-3])).float()
    found = projectors(MaskedBasis.of(basis), diagonal, k, power_steps=1)
    torch.testing.assert_close(found[0].double(), exact @ exact.T, rtol=0, atol=1e-5)


def test_a_basis_too_wide_for_its_products_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    diagonal, basis = masks(9) * 1.5, weight(9, 4)
    expected = projectors(MaskedBasis.of(basis), diagonal, 3, power_steps=2)
    gram = MaskedBasis.of(basis).gram(diagonal)
    monkeypatch.setattr(masked, "PRODUCTS", 9 * 10 - 1)
    monkeypatch.setattr(masked, "CHUNK", 2 * 9 * 4)
    wide = MaskedBasis.of(basis)
    assert wide.products is None
    torch.testing.assert_close(wide.gram(diagonal), gram)
    torch.testing.assert_close(projectors(wide, diagonal, 3, power_steps=2), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_nan_on_the_zero_matrix(dtype: torch.dtype) -> None:
    gram, z = torch.zeros(2, 5, 5, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    assert not top_whitening(gram, 3, 3)(z).any()
    assert not whitening(gram[:, :3, :3])(z).any()


def test_what_is_not_finite_stays_so_and_spoils_no_other_sample() -> None:
    gram = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    gram[1, 0, 0] = torch.nan
    gram[2] = torch.inf
    z = torch.ones(3, 2, dtype=torch.float64)
    u = top_whitening(gram, 2, power_steps=1)(z)
    assert u[0].isfinite().all()
    assert u[1].isnan().any()
    assert u[2].isnan().any()
