import pytest
import torch
from claims import Claim
from networks import batch_for, chain, cross_entropy, residual, site_gradients
from subjects import of_claim

from fgcli.diagnostics.overlap import (
    NETWORK,
    averaged,
    marks,
    sample_overlaps,
    upstream_jacobians,
    weight_overlaps,
)
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.look import look
from fgcli.gradient.randomness import Streams

MODEL = chain(6, 12, 9, 11, 4, seed=2)
BATCH = batch_for(MODEL, 20, seed=8)
RNG = Streams(1).at(0)


def literal(name: str, k: int) -> list[float]:
    """The paper, a sample at a time."""
    upstream = upstream_jacobians(MODEL, look(MODEL, BATCH.inputs), BATCH.inputs)[name]
    g = site_gradients(MODEL, BATCH, (name,))[name]
    found = []
    for w, one in zip(upstream.dense(), g, strict=True):
        _, _, vh = torch.linalg.svd(w, full_matrices=False)
        found.append(float((vh[:k] @ one).norm() / one.norm()))
    return found


def test_upstream_is_the_literal_svd_for_every_k() -> None:
    found = sample_overlaps(MODEL, cross_entropy, BATCH, "upstream", RNG)
    assert list(found) == ["0", "2", "4"]
    for name, overlap in found.items():
        assert len(overlap.overlap) == {"0": 9, "2": 9, "4": 4}[name]
        for k in range(1, len(overlap.overlap) + 1):
            of_samples = torch.tensor(literal(name, k), dtype=torch.float64)
            assert float(overlap.overlap[k - 1]) == pytest.approx(float(of_samples.mean()), rel=1e-6)
            assert float(overlap.squared[k - 1]) == pytest.approx(float(of_samples.square().mean()), rel=1e-6)


@pytest.mark.parametrize("basis", ["upstream", "shared"])
def test_the_gradient_lies_within_the_image_of_the_upstream_jacobian(basis) -> None:
    """And the layer before the output has rank 4 here: its overlap is 1 from k = 4 on."""
    for overlap in sample_overlaps(MODEL, cross_entropy, BATCH, basis, RNG).values():
        assert float(overlap.overlap[-1]) == pytest.approx(1)
        assert (overlap.overlap.diff() >= -1e-12).all()


def test_shared_is_where_the_solver_of_that_name_guesses() -> None:
    """Tracked until it has converged: σ_3 and σ_4 are apart by the width of the network's random weights."""
    claim = Claim("wperp", {"k": 4, "solver": "shared", "refresh": 1})
    subject = of_claim(claim, MODEL, BATCH)
    guesses = subject.guesses
    assert guesses is not None
    for step in range(300):
        guesses.linear_maps(MODEL, BATCH.inputs, step)
    maps = guesses.linear_maps(MODEL, BATCH.inputs, 300)
    found = sample_overlaps(MODEL, cross_entropy, BATCH, "shared", RNG)
    g = site_gradients(MODEL, BATCH, tuple(found))
    for name, overlap in found.items():
        a = maps[name].map(torch.eye(4, dtype=torch.float64).expand(20, -1, -1))
        shares = (a.mT @ g[name].unsqueeze(-1)).squeeze(-1).norm(dim=1) / g[name].norm(dim=1)
        assert float(overlap.overlap[3]) == pytest.approx(float(shares.mean()), abs=1e-6)


def test_random_control_has_the_expected_share() -> None:
    batch = Batch(BATCH.inputs.repeat(200, 1), BATCH.targets.repeat(200))
    for overlap in sample_overlaps(MODEL, cross_entropy, batch, "random", RNG).values():
        d = overlap.dimension
        expected = [k / d for k in range(1, len(overlap.squared) + 1)]
        assert overlap.squared.tolist() == pytest.approx(expected, abs=4 * 0.3 / 4000**0.5)


def test_random_control_is_drawn_from_its_key() -> None:
    first, again, other = (
        sample_overlaps(MODEL, cross_entropy, BATCH, "random", rng)["0"].overlap for rng in (RNG, RNG, Streams(2).at(0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_without_a_gradient_are_left_out_and_counted() -> None:
    def loss(outputs, targets):
        return cross_entropy(outputs, targets) * (targets > 0)

    count = int((BATCH.targets == 0).sum())
    assert count > 0
    kept = Batch(BATCH.inputs[BATCH.targets > 0], BATCH.targets[BATCH.targets > 0])
    found = sample_overlaps(MODEL, loss, BATCH, "upstream", RNG)
    expected = sample_overlaps(MODEL, cross_entropy, kept, "upstream", RNG)
    for name, overlap in found.items():
        assert overlap.left_out == count
        torch.testing.assert_close(overlap.overlap, expected[name].overlap)
    nothing = sample_overlaps(MODEL, lambda outputs, _: 0 * outputs.sum(1), BATCH, "upstream", RNG)["0"]
    assert (nothing.left_out, float(nothing.overlap.max())) == (20, 0)


def test_hessian_overlap_is_that_of_the_dense_matrix() -> None:
    model = chain(3, 5, 3)
    batch = batch_for(model, 6)
    found = weight_overlaps(model, cross_entropy, batch, "hessian", 3)
    assert list(found) == ["0.weight", "2.weight", NETWORK]

    def loss(weight):
        return cross_entropy(
            torch.func.functional_call(model, {"0.weight": weight.view(5, 3)}, (batch.inputs,)), batch.targets
        ).mean()

    point = next(model.parameters()).detach().flatten()
    _, vectors = torch.linalg.eigh(torch.func.hessian(loss)(point).detach())
    (g,) = torch.autograd.grad(loss(point.requires_grad_()), [point])
    expected = [float((vectors.flip(1)[:, :k].T @ g).norm() / g.norm()) for k in (1, 2, 3)]
    assert found["0.weight"].overlap.tolist() == pytest.approx(expected, rel=1e-4)
    assert found[NETWORK].dimension == 30


def test_models_that_are_no_chain_are_refused_by_the_site() -> None:
    model = residual()
    with pytest.raises(ModelRefused, match=r"site '.*' .* takes a chain of linear layers"):
        sample_overlaps(model, cross_entropy, batch_for(model, 2), "upstream", RNG)


def test_means_and_errors_over_batches() -> None:
    batches = [batch_for(MODEL, 10, seed=seed) for seed in (1, 2, 3)]
    singles = [sample_overlaps(MODEL, cross_entropy, batch, "upstream", RNG) for batch in batches]
    layer = averaged(singles)[1]
    values = torch.stack([one["2"].overlap[2] for one in singles])
    assert layer.layer == "2"
    assert layer.overlap[2].mean == pytest.approx(float(values.mean()))
    assert layer.overlap[2].error == pytest.approx(float(values.std()) / 3**0.5)
    assert averaged(singles[:1])[0].overlap[0].error is None


@pytest.mark.parametrize(
    ("ranks", "shown"), [(1, [1]), (2, [1, 2]), (10, [1, 2, 5, 10]), (128, [1, 2, 5, 10, 20, 50, 100, 128])]
)
def test_marks(ranks: int, shown: list[int]) -> None:
    assert list(marks(ranks)) == shown
