"""A reduced fit. The full one, with its figures, is in benchmarks/fit_ns_coeffs.md."""

import pytest
import torch

from fgcli.errors import RunError
from fgcli.spectra.coefficients import FitOptions, instability
from fgcli.spectra.fitting import _chebyshev_to_powers, fit_table


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("degree", "applications", "per_iteration", "limit"),
    [(7, 5, False, 0.015), (9, 3, False, 0.03), (5, 5, False, 0.13), (7, 5, True, 0.01)],
)
def test_reduced_fit_meets_its_target(degree: int, applications: int, per_iteration: bool, limit: float) -> None:
    options = FitOptions(degree, applications, per_iteration, sigmas=(0.5, 0.9), restarts=3, steps=120)
    table = fit_table(options)
    assert table.options == options
    assert [fit.sigma for fit in table.fits] == [0.5, 0.9]
    for fit in table.fits:
        assert 2 * len(fit.polynomial.coefficients[0]) - 1 == degree
        assert len(fit.polynomial.coefficients) == (applications if per_iteration else 1)
        assert fit.error <= limit
        assert instability(fit.polynomial) is None


def test_same_seed_same_bits_whatever_else_is_fitted() -> None:
    def fits(seed: int, *sigmas: float):
        return fit_table(FitOptions(sigmas=sigmas, seed=seed, restarts=2, steps=20)).fits

    alone = fits(0, 0.6)
    assert fits(0, 0.6) == alone
    assert fits(1, 0.6) != alone
    beside = fits(0, 0.3, 0.6)[1].polynomial.coefficients[0]
    assert beside == pytest.approx(alone[0].polynomial.coefficients[0], rel=1e-6)


def test_progress_rises_to_one() -> None:
    parts: list[float] = []
    fit_table(FitOptions(sigmas=tuple(i / 20 for i in range(1, 13)), restarts=1, steps=2), parts.append)
    assert parts == sorted(parts)
    assert parts[0] > 0
    assert parts[-1] == 1.0


def test_no_stable_polynomial_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.spectra.fitting.instability", lambda _: "it grows")
    with pytest.raises(RunError, match=r"no stable polynomial found for σ = 0\.5"):
        fit_table(FitOptions(sigmas=(0.5,), restarts=1, steps=1))


def test_chebyshev_rows() -> None:
    expected = [[1, 0, 0, 0], [-3, 4, 0, 0], [5, -20, 16, 0], [-7, 56, -112, 64]]
    assert _chebyshev_to_powers(7).tolist() == expected
