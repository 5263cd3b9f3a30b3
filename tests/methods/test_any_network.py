"""The methods that know W̃ by its products alone, held to dense formulas: on chains and in any network, in float64."""

from typing import Any

import identities
import pytest
import torch
from masks import covariance, masks, naive_top_k_projector, weight
from networks import ANY, any_network, batch_for, chain, covariances, cross_entropy, matrix_of
from torch import Tensor, nn
from zoo import Net

from fgcli.extend.registry import load_registry
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import GuessMethod
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.newton_schulz import spectral_norm_bound
from fgcli.methods.options import OrthogonalOptions, PreconditionedOptions
from fgcli.methods.orthogonal.krylov import OrthogonalKrylov
from fgcli.methods.preconditioned import Preconditioned, PreconditionedByProducts
from fgcli.spectra.table_file import find_table

K = 3


def method(name: str, **options: Any) -> GuessMethod:
    entry = load_registry().entry("guess method", name)
    return entry.load()(entry.options(**options))


@pytest.mark.parametrize("shape", [(8, 8), (10, 7), (4, 9)])
def test_on_a_chain_krylov_is_the_literal_projector(shape: tuple[int, int]) -> None:
    matrix, mask = weight(*shape, gap_at=3), masks(shape[1])
    found = covariance(method("wperp", k=K, solver="krylov", oversampling=4), matrix, mask)
    torch.testing.assert_close(found, naive_top_k_projector(matrix, mask, K), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (10, 7), (4, 9)])
def test_on_a_chain_newton_schulz_in_the_whole_krylov_space_is_the_literal_iteration(shape: tuple[int, int]) -> None:
    matrix, mask = weight(*shape, gap_at=3), torch.ones(2, shape[1], dtype=torch.float64)
    mask[1, 1] = 0
    whole = method("wperp-ns", k=4, solver="krylov", oversampling=3)
    # A step well within the gap, so that the mean over samples and that of W pick one polynomial.
    literal = method("wperp-ns", k=4, solver="batched")
    found, expected = covariance(whole, matrix, mask), covariance(literal, matrix, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("shape", [(8, 8), (4, 9)])
def test_on_a_chain_both_ways_of_the_preconditioned_guess_have_one_covariance(
    shape: tuple[int, int], rank: int | None
) -> None:
    matrix, mask = weight(*shape, rank=rank), masks(shape[1])
    by_products = covariance(PreconditionedByProducts(PreconditionedOptions()), matrix, mask)
    torch.testing.assert_close(by_products, covariance(Preconditioned(), matrix, mask), rtol=0, atol=1e-7)


def test_auto_is_the_matrix_method_on_a_chain() -> None:
    model = chain(5, 8, 8, 3)
    batch = batch_for(model, 6)
    for name, solver in (("wperp", "ritz"), ("wperp-ns", "gram")):
        guesses = []
        for options in ({}, {"solver": solver}):
            estimator = GuessEstimator(method(name, k=2, **options))
            estimator.bind(model, batch.inputs)
            guesses.append(estimator.estimate(model, cross_entropy, batch, Streams(0).at(0)).gradients)
        assert all(torch.equal(a, b) for a, b in zip(*(one.values() for one in guesses), strict=True))


def test_auto_is_the_mean_anywhere_else() -> None:
    model, batch = any_network("convolutions-1d")
    guesses = []
    for options in ({}, {"solver": "mean"}):
        estimator = GuessEstimator(method("wperp", k=2, **options))
        estimator.bind(model, batch.inputs)
        guesses.append(estimator.estimate(model, cross_entropy, batch, Streams(0).at(0)).gradients)
    assert all(torch.equal(a, b) for a, b in zip(*(one.values() for one in guesses), strict=True))


@pytest.mark.parametrize("network", ANY)
def test_in_any_network_krylov_is_the_projector_of_dense_singular_vectors(network: str) -> None:
    model, batch = any_network(network)
    for found, dense in covariances(method("wperp", k=K, solver="krylov", oversampling=20), model, batch).values():
        vh, s = (lambda svd: (svd.Vh, svd.S))(torch.linalg.svd(dense, full_matrices=False))
        kept = (s[:, :K] > 1e-9 * s[:, :1]).unsqueeze(1)
        top = vh[:, :K].mT * kept
        torch.testing.assert_close(found, top @ top.mT, rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", ANY)
def test_in_any_network_newton_schulz_is_the_polynomial_of_the_dense_jacobian(network: str) -> None:
    model, batch = any_network(network)
    table = find_table(None)
    for found, dense in covariances(method("wperp-ns", k=K, solver="krylov", oversampling=20), model, batch).values():
        s = torch.linalg.svdvals(dense)
        relative = ((s[:, K - 1] + (s[:, K] if s.shape[1] > K else 0)) / 2 / s[:, 0]).nan_to_num()
        scaled = dense / spectral_norm_bound(dense @ dense.mT).view(-1, 1, 1)
        pairs = zip(relative.tolist(), scaled, strict=True)
        transformed = torch.stack([table.nearest(step).polynomial.apply(one) for step, one in pairs])
        torch.testing.assert_close(found, transformed.mT @ transformed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", ANY)
def test_in_any_network_the_preconditioned_guess_has_the_projector_or_the_identity(network: str) -> None:
    model, batch = any_network(network)
    for found, dense in covariances(method("wpre", iterations=200), model, batch).values():
        wide = dense.shape[1] < dense.shape[2]
        expected = torch.linalg.pinv(dense, rtol=1e-9) @ dense if wide else torch.eye(dense.shape[2]).expand_as(found)
        torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-6)


def test_a_step_starts_where_the_last_one_led() -> None:
    """One block from the followed start holds more of W̃'s energy than one from the first."""
    model, batch = any_network("attention", size=6)
    guess = OrthogonalKrylov(OrthogonalOptions(k=2, oversampling=1))
    estimator = GuessEstimator(guess)
    estimator.bind(model, batch.inputs)
    kept: list[float] = []
    jacobians = covariances(OrthogonalKrylov(OrthogonalOptions(k=2)), model, batch)
    for step in range(4):
        energy = 0.0
        maps = estimator.linear_maps(model, batch.inputs, step)
        estimator.estimate(model, cross_entropy, batch, Streams(0).at(step))
        for name in ("embed", "out", "leave"):
            a, dense = matrix_of(maps[name], 6), jacobians[name][1]
            energy += float((dense @ a).square().sum() / torch.linalg.svdvals(dense)[:, :2].square().sum())
        kept.append(energy / 3)
    assert kept[3] > kept[0] + 0.02
    assert kept[3] <= 1 + 1e-9


def dropped(m: Any, x: Tensor) -> Tensor:
    h = m.enter(x) + m.places(torch.arange(2).unsqueeze(0))
    return m.leave(m.middle(h.tanh()) * torch.rand(len(x), 1, 1).to(x).round()).mean(1)


def test_a_table_of_positions_has_its_guess_where_tangents_are_taken_one_by_one() -> None:
    torch.manual_seed(0)
    layers = {
        "enter": nn.Linear(3, 4),
        "places": nn.Embedding(2, 4),
        "middle": nn.Linear(4, 4),
        "leave": nn.Linear(4, 3),
    }
    model, batch = Net(dropped, **layers).double(), Batch(torch.randn(5, 2, 3).double(), torch.arange(5) % 3)
    estimator = GuessEstimator(method("wt"), tangents=Tangents(3))
    estimator.bind(model, batch.inputs)
    assert estimator.bound.draws_apart
    assert identities.of_estimate(estimator, model, cross_entropy, batch) < 1e-12
