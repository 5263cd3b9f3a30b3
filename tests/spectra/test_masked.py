"""Masked bases, whitening and Ritz spaces held to plain dense formulas, in float64."""

import pytest
import torch
from masks import masks, weight
from torch import Tensor

from fgcli.spectra import masked
from fgcli.spectra.masked import MaskedBasis, whiten, whiten_top


def bases() -> dict[str, Tensor]:
    dependent, zero = weight(9, 4, rank=2), weight(9, 3, rank=0)
    return {"tall": weight(9, 4), "single": weight(9, 1), "dependent": dependent, "zero": zero}


@pytest.mark.parametrize("name", bases())
def test_gram_and_combine_are_the_plain_products(name: str) -> None:
    basis, diagonal = bases()[name], masks(9) * 1.5
    ready = MaskedBasis.of(basis)
    dense = torch.stack([torch.diag(row) @ basis for row in diagonal])
    torch.testing.assert_close(ready.gram(diagonal), dense.mT @ dense)
    u = torch.randn(len(diagonal), basis.shape[1], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ready.combine(diagonal, u), dense @ u)
    torch.testing.assert_close(ready.combine(diagonal, u[..., 0]), (dense @ u)[..., 0])


def test_chunks_cover_the_batch_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked, "CHUNK", 2 * 4**2)
    diagonal, z = masks(9), torch.arange(7.0)
    sizes = []

    def double(part: Tensor, noise: Tensor) -> Tensor:
        sizes.append(len(part))
        return 2 * noise

    assert torch.equal(MaskedBasis.of(weight(9, 4)).in_chunks(double, diagonal, z), 2 * z)
    assert sizes == [2, 2, 2, 1]


@pytest.mark.parametrize("name", bases())
def test_whitened_noise_gives_the_projector_onto_the_columns(name: str) -> None:
    dense = bases()[name] * masks(9).unsqueeze(-1)
    r = dense.shape[-1]
    a = dense @ whiten(dense.mT @ dense, torch.eye(r, dtype=torch.float64).expand(len(dense), r, r))
    pinv = torch.linalg.pinv(dense, rtol=1e-6)
    torch.testing.assert_close(a @ a.mT, dense @ pinv, rtol=0, atol=1e-7)


def test_whiten_top_finds_the_leading_eigenvectors() -> None:
    dense = weight(20, 8, gap_at=3) * (0.5 + masks(20)[4:].unsqueeze(-1))
    gram = dense.mT @ dense
    z = torch.eye(3, dtype=torch.float64).expand(len(gram), 3, 3)
    a = dense @ whiten_top(gram, z, power_steps=4)
    u = torch.linalg.svd(dense).U[:, :, :3]
    torch.testing.assert_close(a @ a.mT, u @ u.mT, rtol=0, atol=1e-6)
    one = torch.stack([whiten_top(gram, z[..., j], 4) for j in range(3)], dim=-1)
    torch.testing.assert_close(dense @ one, a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_nan_on_the_zero_matrix(dtype: torch.dtype) -> None:
    gram, z = torch.zeros(2, 5, 5, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    assert not whiten_top(gram, z, 3).any()
    assert not whiten(gram[:, :3, :3], z).any()


def test_what_is_not_finite_stays_so_and_spoils_no_other_sample() -> None:
    gram = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    gram[1, 0, 0] = torch.nan
    gram[2] = torch.inf
    z = torch.ones(3, 2, dtype=torch.float64)
    u = whiten_top(gram, z, power_steps=1)
    assert u[0].isfinite().all()
    assert u[1].isnan().any()
    assert u[2].isnan().any()
