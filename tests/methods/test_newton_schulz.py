"""W̃⊥-NS held to p^N of the singular values, a sample at a time, in float64."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from masks import covariance, layer_below, map_of, masks, weight
from torch import Tensor

from fgcli.gradient.guess import Memory
from fgcli.methods.newton_schulz import newton_schulz, spectral_norm_bound
from fgcli.methods.options import NewtonSchulzOptions
from fgcli.spectra.coefficients import CoefficientTable
from fgcli.spectra.table_file import shipped_table, write_table

WEIGHTS = {
    "square": weight(8, 8),
    "tall": weight(11, 7),
    "output": weight(4, 9),
    "rank-deficient": weight(8, 8, rank=3),
    "zero": weight(5, 6, rank=0),
}


@pytest.fixture(autouse=True)
def _no_table_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path))


def naive(matrix: Tensor, mask: Tensor, k: int) -> Tensor:
    """p^N(W̃_b / bound) from the SVD of each sample, with the set nearest to the middle of σ_k and σ_{k+1} of W."""
    s = torch.cat([torch.linalg.svdvals(matrix), torch.zeros(k + 1, dtype=torch.float64)])
    sigma = float((s[k - 1] + s[k]) / 2 / s[0]) if s[0] > 0 else 0.0
    polynomial = shipped_table().nearest(sigma).polynomial
    covariances = []
    for row in mask:
        u, s, vh = torch.linalg.svd(matrix @ torch.diag(row), full_matrices=False)
        bound = s.pow(16).sum() ** (1 / 16)
        p = polynomial.evaluate(s / bound) if bound > 0 else torch.zeros_like(s)
        a = (u * p) @ vh
        covariances.append(a.T @ a)
    return torch.stack(covariances)


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("solver", ["batched", "gram"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_equals_the_polynomial_of_the_singular_values(name: str, solver: str, k: int) -> None:
    """`gram` tracks the whole rank here, where it is the literal iteration."""
    matrix = WEIGHTS[name]
    mask = masks(matrix.shape[1])
    options = NewtonSchulzOptions(k=k, solver=solver, oversampling=11)  # type: ignore[arg-type]
    found = covariance(newton_schulz(options), matrix, mask)
    torch.testing.assert_close(found, naive(matrix, mask, k), rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ["batched", "gram"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_single_precision_is_finite_and_near_double(name: str, solver: str) -> None:
    matrix = WEIGHTS[name]
    mask = masks(matrix.shape[1])
    method = newton_schulz(NewtonSchulzOptions(k=3, solver=solver))  # type: ignore[arg-type]
    single = covariance(method, matrix.float(), mask.float())
    assert single.isfinite().all()
    torch.testing.assert_close(single.double(), covariance(method, matrix, mask), rtol=0, atol=5e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e20])
@pytest.mark.parametrize("solver", ["batched", "gram"])
def test_the_scale_of_the_weight_does_not_matter(solver: str, scale: float) -> None:
    matrix, mask = weight(8, 9).float(), masks(9).float()
    method = newton_schulz(NewtonSchulzOptions(k=3, solver=solver))  # type: ignore[arg-type]
    found, expected = covariance(method, scale * matrix, mask), covariance(method, matrix, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_bound_is_never_below_the_norm_and_near_it() -> None:
    matrices = weight(9, 7).unsqueeze(0) * masks(7).unsqueeze(1)
    bound = spectral_norm_bound(matrices.mT @ matrices)
    norm = torch.linalg.matrix_norm(matrices, 2)
    nonzero = norm > 0
    assert bound[~nonzero].tolist() == [1.0]
    assert (bound[nonzero] >= norm[nonzero] * (1 - 1e-12)).all()
    assert (bound[nonzero] <= norm[nonzero] * 7 ** (1 / 16)).all()
    tiny = 1e-30 * matrices.float()
    single = spectral_norm_bound(tiny.mT @ tiny)
    assert single.isfinite().all()


def test_sigma_is_computed_once_every_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    from fgcli.methods import newton_schulz as module

    calls = []
    real = module.leading_singular
    monkeypatch.setattr(module, "leading_singular", lambda *args: calls.append(1) or real(*args))
    method = newton_schulz(NewtonSchulzOptions(k=3, solver="batched", refresh=4))
    memory = Memory()
    for step in range(9):
        method.prepare(layer_below(weight(8, 8), step=step), memory)
    assert len(calls) == 3


def test_as_many_vectors_are_tracked_as_asked_for() -> None:
    method = newton_schulz(NewtonSchulzOptions(k=3, oversampling=2))
    assert map_of(method, weight(9, 9), masks(9)).noise_dim == 6


def test_tracked_space_follows_w() -> None:
    method = newton_schulz(NewtonSchulzOptions(k=2, oversampling=1, refresh=5))
    moved, memory = weight(9, 9, gap_at=2, seed=3), Memory()
    memory.update({"left": torch.eye(9, 2, dtype=torch.float64), "step": torch.tensor(0.5)})
    method.prepare(layer_below(moved, step=4), memory)
    assert torch.equal(memory["left"], torch.eye(9, 2, dtype=torch.float64))
    method.prepare(layer_below(moved, step=5), memory)
    exact = torch.linalg.svd(weight(9, 9, gap_at=2, seed=3)).U[:, :2]
    torch.testing.assert_close(memory["left"] @ memory["left"].T, exact @ exact.T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", ["gram", "batched"])
def test_a_table_with_gaps_says_once_that_it_has_no_polynomial_for_a_step(
    solver: Literal["gram", "batched"], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = shipped_table()
    one = CoefficientTable(replace(shipped.options, sigmas=(0.1,)), shipped.fits[:1])
    write_table(one, tmp_path / "one.json")
    for coeffs, said in (("shipped", 0), (str(tmp_path / "one.json"), 1)):
        guess = newton_schulz(NewtonSchulzOptions(k=3, solver=solver, coeffs=coeffs))
        for matrix in (weight(8, 8), weight(11, 7)):
            guess.prepare(layer_below(matrix), Memory())
        assert len(caplog.messages) == said
    assert caplog.messages[0].startswith("the coefficient table has no polynomial within 0.05 of σ_k = 0.")
    assert "that of σ = 0.1 is used" in caplog.messages[0]
