"""The solver `mean` of W̃⊥, held to dense eigenvectors: on chains and in any network, in float64."""

from itertools import pairwise

import pytest
import torch
from masks import covariance, layer_below, masks, weight
from networks import ANY, Dense, any_network, covariances, cross_entropy
from torch import Tensor

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.guess import Memory
from fgcli.gradient.randomness import Streams
from fgcli.gradient.sites import Site
from fgcli.gradient.upstream import End, LinearUpstream, SegmentUpstream
from fgcli.methods.options import OrthogonalOptions
from fgcli.methods.orthogonal.mean import OrthogonalMean
from fgcli.spectra.tracking import COLD_STEPS


@pytest.fixture(autouse=True)
def _kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.methods.orthogonal.mean.KEPT", torch.float64)


def guess(**options: int | str) -> OrthogonalMean:
    return OrthogonalMean(OrthogonalOptions.model_validate({"solver": "mean", **options}))


def naive(dense: Tensor, k: int) -> Tensor:
    """W̃_bᵀ Q (QᵀCQ)⁺ QᵀW̃_b, Q the top-k eigenvectors of the mean C of W̃_bW̃_bᵀ: [batch, d_out, d_in] -> covariances."""
    mean = (dense @ dense.mT).mean(0)
    q = torch.linalg.eigh(mean).eigenvectors[:, -k:]
    return dense.mT @ q @ torch.linalg.pinv(q.T @ mean @ q, rtol=1e-9, hermitian=True) @ q.T @ dense


@pytest.mark.parametrize(("shape", "rank"), [((8, 8), None), ((10, 7), None), ((4, 9), None), ((9, 8), 2)])
@pytest.mark.parametrize("k", [3, "rank"])
def test_on_a_chain_it_is_the_mean_whitened_map(shape: tuple[int, int], rank: int | None, k: int | str) -> None:
    matrix, mask = weight(*shape, rank=rank, gap_at=None if rank else 3), masks(shape[1])[1:5]
    mask[0] = 1  # none inactive beside three that have one active unit, three, some
    found = covariance(guess(k=k), matrix, mask)
    expected = naive(LinearUpstream(matrix, mask).dense(), min(shape) if k == "rank" else 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_by_the_matrix_and_by_products_it_is_one_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.methods.orthogonal.mean.COLD_LOOKS", COLD_STEPS)
    matrix, mask = weight(9, 8), masks(8)
    s = torch.zeros(7, 8, dtype=torch.float64, requires_grad=True)
    site = Site("site", ("site.weight",), True)
    end = (s * mask) @ matrix.T
    segment = SegmentUpstream(site, [s], [End(site, [end], [end], None, 7)], 7)
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for upstream in (LinearUpstream(matrix, mask), segment):
        method, layer = guess(k=3), layer_below(matrix, 7)
        prepared = method.prepare(layer, Memory())
        found.append([method.linearize(layer, upstream, prepared).map(z) for _ in range(2)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_where_all_samples_have_one_jacobian_it_is_the_projector() -> None:
    matrix = weight(9, 8, gap_at=3)
    found = covariance(guess(k=3), matrix, torch.ones(4, 8, dtype=torch.float64))
    top = torch.linalg.svd(matrix).Vh[:3]
    torch.testing.assert_close(found, (top.T @ top).expand_as(found), rtol=0, atol=1e-8)


@pytest.mark.parametrize("network", ANY)
def test_in_any_network_it_is_the_mean_whitened_map_of_the_dense_jacobian(network: str) -> None:
    model, batch = any_network(network)
    for found, dense in covariances(guess(k="rank"), model, batch).values():
        if dense.shape[1] <= dense.shape[2]:  # Q is whole; elsewhere it takes steps to converge
            torch.testing.assert_close(found, naive(dense, dense.shape[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", [name for name in ANY if name != "encoder"])  # which is attention, and more of it
def test_steps_lead_to_the_leading_eigenvectors(network: str) -> None:
    model, batch = any_network(network)
    method = Dense(guess(k=2, refresh=1))
    estimator = GuessEstimator(method)
    estimator.bind(model, batch.inputs)
    for step in range(30):
        estimator.estimate(model, cross_entropy, batch, Streams(0).at(step))
    assert method.dense
    for name, dense in method.dense.items():
        q = torch.linalg.qr(estimator.state()[f"{name}/basis"].to(dense)).Q
        near = dense[:, : len(q)]  # what is reached first
        mean = (near @ near.mT).mean(0)
        kept, most = (q.T @ mean @ q).trace(), torch.linalg.eigvalsh(mean)[-2:].sum()
        assert 0.999 * most < kept < 1.000001 * most


def test_within_a_step_the_map_stays_and_the_next_starts_where_it_led() -> None:
    matrix, mask, memory = weight(9, 8), masks(8), Memory()
    memory.like = matrix
    method = guess(k=2, refresh=3)
    z = torch.eye(2, dtype=torch.float64)[0].expand(7, -1)
    maps = []
    for step in range(6):
        prepared = method.prepare(layer_below(matrix, step=step), memory)
        one, again = (
            method.linearize(layer_below(matrix, 7, step=step), LinearUpstream(matrix, mask), prepared)
            for _ in range(2)
        )
        assert torch.equal(one.map(z), again.map(z))
        memory.update(again.statistics)  # as the engine does at the end of a batch
        maps.append(one.map(z))
    same = [torch.equal(a, b) for a, b in pairwise(maps)]
    # What the first update has of few samples is looked at in the second; what step 3 finds is used from step 4 on.
    assert same == [True, False, True, False, True]


def test_what_is_kept_takes_half_of_the_bytes_and_is_what_the_first_step_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.methods.orthogonal.mean.KEPT", torch.bfloat16)
    model, batch = any_network("residual")
    found = []
    for memory in ("store", "replay"):
        monkeypatch.setattr("fgcli.gradient.memory.FLOOR", {"replay": 0})
        estimator = GuessEstimator(guess(k=2), memory=memory)
        estimator.bind(model, batch.inputs)
        for step in range(2):
            estimator.estimate(model, cross_entropy, batch, Streams(0).at(step))
        found.append({name: one for name, one in estimator.state().items() if name.endswith("/basis")})
    whole, in_parts = found
    assert whole
    for name, basis in whole.items():
        assert basis.dtype == torch.bfloat16
        assert torch.equal(basis, in_parts[name])
