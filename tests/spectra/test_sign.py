"""The sign by minimax quintics, and the step that follows from it: the errors that are promised, to the digit."""

import pytest
import torch

from fgcli.spectra.sign import SignCut, enough_quintics, minimax_quintic, sign_quintics, signs
from fgcli.spectra.table_file import shipped_table


@pytest.mark.parametrize("low", [1e-6, 0.01, 0.3, 0.99, 0.999])
def test_a_minimax_quintic_attains_its_error_four_times_with_alternating_signs(low: float) -> None:
    (a, b, c), error = minimax_quintic(low, 1.0)
    x = torch.linspace(low, 1, 200_001, dtype=torch.float64)
    off = a * x + b * x**3 + c * x**5 - 1
    assert float(off.abs().max()) == pytest.approx(error, rel=1e-6, abs=1e-14)
    extreme = (off.abs() > error * (1 - 1e-6)).nonzero().squeeze(1)
    signs_there = off[extreme].sign()
    assert int((signs_there[1:] != signs_there[:-1]).sum()) == 3  # so that no other odd quintic is nearer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_five_quintics_are_within_1e_5_of_the_step_at_any_sigma(dtype: torch.dtype) -> None:
    x = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    for hundredth in range(10, 91):
        sigma = hundredth / 100
        error = (SignCut(sigma, 0.05, 5).evaluate(x.to(dtype)).double() - (x > sigma).double()).abs()
        assert float(error[(x - sigma).abs() >= 0.05 - 1e-9].max()) <= 1e-5, sigma
        assert float(error.max()) <= 1 + 1e-5
    assert shipped_table().nearest(0.1).error > 0.1  # which the fitted polynomials of degree 7 have there


def test_the_shortest_composition_is_taken() -> None:
    rows = enough_quintics(0.01, 1e-5)
    assert sign_quintics(0.01, len(rows))[1] <= 1e-5 < sign_quintics(0.01, len(rows) - 1)[1]


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_signs_of_matrices_with_gaps_of_their_own(dtype: torch.dtype, within: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gaps = torch.tensor([0.5, 0.1, 1e-3, 0.02], dtype=torch.float64)
    vectors = torch.linalg.qr(torch.randn(4, 6, 6, generator=generator, dtype=torch.float64)).Q
    values = torch.stack([torch.tensor([-1, -g, g, 0.7, -0.6, 1]) for g in gaps.tolist()]).double()
    matrices = ((vectors * values.unsqueeze(1)) @ vectors.mT).to(dtype)
    exact = (vectors * values.sign().unsqueeze(1)) @ vectors.mT
    found = signs(matrices, gaps, 1e-9)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=within)
    for index in range(4):  # whatever else is in the batch
        alone = signs(matrices[index : index + 1], gaps[index : index + 1], 1e-9)
        torch.testing.assert_close(found[index : index + 1], alone, rtol=0, atol=within)


def test_no_matrix_has_no_sign() -> None:
    assert signs(torch.zeros(0, 3, 3), torch.zeros(0, dtype=torch.float64), 1e-6).shape == (0, 3, 3)
