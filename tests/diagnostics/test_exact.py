"""Exact moments against a naive transcription, a linear network known in closed form, and the facts of W̃⊥."""

import math

import pytest
import torch
from claims import GUESSES, Claim
from networks import Wrapped, batch_for, chain, cross_entropy, residual, site_gradients
from subjects import Normalised, of_claim, subject
from torch import Tensor, nn

from fgcli.diagnostics import exact
from fgcli.diagnostics.exact import Exact, exact_moments
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Isotropic
from fgcli.methods.options import TransposeOptions
from fgcli.methods.transpose import Transpose

MODEL = chain(6, 8, 9, 7, 4, seed=2)
BATCH = batch_for(MODEL, 5, seed=8)


def moments(claim: Claim, model: nn.Module = MODEL, batch: Batch = BATCH) -> dict[str, Exact]:
    found = exact_moments(of_claim(claim, model, batch), batch)
    assert found is not None
    return found


def dense_covariances(claim: Claim) -> dict[str, Tensor]:
    """C_b of every site, [batch, d, d]."""
    estimator = claim.guess_estimator()
    estimator.bind(MODEL, BATCH.inputs)
    found = {}
    for name, linear in estimator.linear_maps(MODEL, BATCH.inputs, 0).items():
        a = linear.map(torch.eye(linear.noise_dim, dtype=torch.float64).expand(5, -1, -1))
        found[name] = a @ a.mT
    return found


@pytest.mark.parametrize("claim", GUESSES, ids=lambda claim: claim.name)
def test_metrics_are_their_definitions(claim: Claim) -> None:
    covariances = dense_covariances(claim)
    gradients = site_gradients(MODEL, BATCH, tuple(covariances))
    delta_square = [
        sum(float(gradients[n][b] @ c[b] @ gradients[n][b]) for n, c in covariances.items()) for b in range(5)
    ]
    for name, one in moments(claim).items():
        c, g, metrics = covariances[name], gradients[name], one.metrics
        eye = torch.eye(g.shape[1], dtype=torch.float64)
        bias = torch.stack([(c[b] - eye) @ g[b] for b in range(5)]).mean(0)
        second = [2 * torch.outer(c[b] @ g[b], c[b] @ g[b]) + delta_square[b] * c[b] for b in range(5)]  # E δ² y yᵀ
        errors = [second[b].diagonal() - 2 * g[b] * (c[b] @ g[b]) + g[b] ** 2 for b in range(5)]
        square = torch.stack(errors).mean(0)
        assert metrics["bias"] == pytest.approx(float(bias.norm()), abs=1e-12)
        assert metrics["variance"] == pytest.approx(float((square - bias**2).norm()), rel=1e-9)
        assert metrics["mse"] == pytest.approx(float(square.sum()), rel=1e-9)
        norms = [float(torch.linalg.matrix_norm(c[b] - eye)) for b in range(5)]
        assert metrics["covariance_norm"] == pytest.approx(sum(norms) / 5, abs=1e-6)
        assert metrics["covariance_rms"] == pytest.approx(sum(norms) / 5 / g.shape[1], abs=1e-6)
        trace = float(torch.stack([c[b].trace() for b in range(5)]).mean())
        assert metrics["trace"] == pytest.approx(trace)
        assert metrics["effective_rank"] == pytest.approx(trace**2 / float(c.square().sum((1, 2)).mean()))
        total = sum(float(second[b].trace()) for b in range(5))
        assert metrics["norm_ratio"] == pytest.approx(math.sqrt(total / float(g.square().sum())))


@pytest.mark.parametrize("claim", [one for one in GUESSES if one.unbiased], ids=lambda claim: claim.name)
def test_unbiased_methods_have_bias_0(claim: Claim) -> None:
    """Among them W̃⊥ with k = rank: g lies in Im(W̃ᵀ) exactly (fact 2)."""
    assert all(one.metrics["bias"] < 1e-10 for one in moments(claim).values())


def test_covariance_norm_of_table_2_is_met_to_its_printed_digits() -> None:
    """k = 10, n = 128: ‖V V ᵀ - I‖_F / n = √118 / 128, printed as 0.085."""
    model = chain(20, 128, 128, 10)
    batch = batch_for(model, 4)
    for solver in ("ritz", "shared", "svd"):
        for name in ("0", "2"):
            rms = moments(Claim("wperp", {"k": 10, "solver": solver}), model, batch)[name].metrics["covariance_rms"]
            assert rms == pytest.approx(math.sqrt(118) / 128)
            assert f"{rms:.3f}" == "0.085"


def linear_network() -> tuple[nn.Sequential, Batch]:
    """Two layers without activation, squared loss: g = W₂ᵀ(W₂W₁x - t) / B."""
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.Linear(6, 4, bias=False)).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    inputs, targets = (torch.randn(7, size, generator=generator, dtype=torch.float64) for size in (3, 4))
    return model, Batch(inputs, targets)


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1) / 2


def test_linear_network_in_closed_form() -> None:
    model, batch = linear_network()
    first, second = (parameter.detach() for parameter in model.parameters())
    residuals = (batch.inputs @ first.T @ second.T - batch.targets) / 7
    g = residuals @ second
    c = second.T @ second  # of W̃ᵀ: the same for all samples
    found = exact_moments(
        subject(GuessEstimator(Transpose(TransposeOptions())), model, batch, loss=half_squares), batch
    )
    assert found is not None
    metrics = found["0"].metrics
    eye = torch.eye(6, dtype=torch.float64)
    assert metrics["bias"] == pytest.approx(float(((c - eye) @ g.mean(0)).norm()))
    assert metrics["covariance_norm"] == pytest.approx(float((c - eye).norm()))
    assert metrics["effective_rank"] == pytest.approx(float(c.trace() ** 2 / c.square().sum()))
    delta_square = ((g @ c) * g).sum(1) + residuals.square().sum(1)  # the output layer's guess is N(0, I)
    along = g @ c
    square = (2 * along**2 + delta_square.unsqueeze(1) * c.diagonal() - 2 * g * along + g**2).mean(0)
    assert metrics["mse"] == pytest.approx(float(square.sum()))
    assert metrics["variance"] == pytest.approx(float((square - ((c - eye) @ g.mean(0)) ** 2).norm()))


def test_one_site_alone_has_the_closed_forms_of_a_subspace() -> None:
    model = chain(5, 7)
    batch = batch_for(model, 1)
    found = exact_moments(subject(GuessEstimator(Isotropic()), model, batch), batch)
    assert found is not None
    metrics = found["0"].metrics
    gradient = float(site_gradients(model, batch, ("0",))["0"].square().sum())
    assert metrics["mse"] / gradient == pytest.approx(7 + 1)
    assert metrics["cosine_squared"] == pytest.approx(1 / 7)


def test_cosine_squared_is_the_share_over_k() -> None:
    covariances = dense_covariances(Claim("wperp", {"k": 3, "solver": "svd"}))
    gradients = site_gradients(MODEL, BATCH, tuple(covariances))
    for name in ("0", "2"):
        g = gradients[name]
        shares = torch.einsum("bi,bij,bj->b", g, covariances[name], g) / g.square().sum(1)
        expected = torch.stack([share / c.trace() for share, c in zip(shares, covariances[name], strict=True)]).mean()
        found = moments(Claim("wperp", {"k": 3, "solver": "svd"}))[name].metrics["cosine_squared"]
        assert found == pytest.approx(float(expected))


def test_cosine_squared_is_known_for_multiples_of_projectors_only() -> None:
    class Doubled(Wrapped):
        def mapped(self, layer, linear, z):
            return 2 * linear.map(z)

    found = exact_moments(subject(GuessEstimator(Doubled(Isotropic())), MODEL, BATCH), BATCH)
    assert found is not None
    assert found["0"].metrics["cosine_squared"] == pytest.approx(1 / 8)
    assert "cosine_squared" not in moments(Claim("wt"))["0"].metrics


def test_samples_come_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = moments(Claim("wt"))
    monkeypatch.setattr(exact, "ENTRIES", 150)  # two samples at a time
    for name, one in moments(Claim("wt")).items():
        assert one.metrics == pytest.approx(whole[name].metrics)


def test_never_more_entries_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Watched(Wrapped):
        def mapped(self, layer, linear, z):
            nonlocal largest
            largest = max(largest, z.numel())
            return linear.map(z)

    watched = subject(GuessEstimator(Watched(Isotropic())), MODEL, BATCH)
    largest = 0
    monkeypatch.setattr(exact, "ENTRIES", 200)
    exact_moments(watched, BATCH)
    assert 0 < largest <= 200


def test_parameters_trained_by_weight_perturbation_add_to_the_variance() -> None:
    model = residual()
    batch = batch_for(model, 3)
    perturbed = exact_moments(subject(GuessEstimator(Isotropic()), model, batch), batch)
    frozen = exact_moments(subject(GuessEstimator(Isotropic(), uncovered="freeze"), model, batch), batch)
    assert perturbed is not None
    assert frozen is not None
    assert set(perturbed) == {"conv", "grouped", "enter", "inner", "leave"}
    losses = cross_entropy(model(batch.inputs), batch.targets) / 3
    added = [
        sum(
            float(g.square().sum())
            for g in torch.autograd.grad(one, [model.norm.weight, model.norm.bias], retain_graph=True)
        )
        for one in losses
    ]
    for name, one in perturbed.items():
        d = len(one.bias)
        assert one.metrics["mse"] - frozen[name].metrics["mse"] == pytest.approx(d * sum(added) / 3)


def test_none_where_the_guess_is_not_linear_or_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exact_moments(subject(GuessEstimator(Normalised()), MODEL, BATCH), BATCH) is None
    assert exact_moments(of_claim(Claim("backprop"), MODEL, BATCH), BATCH) is None
    monkeypatch.setattr(exact, "LARGEST", 80)
    assert exact_moments(of_claim(Claim("activation-perturbation"), MODEL, BATCH), BATCH) is None


def test_all_gradients_0_give_no_ratio_and_no_cosine() -> None:
    found = exact_moments(
        subject(GuessEstimator(Isotropic()), MODEL, BATCH, loss=lambda outputs, _: 0 * outputs.sum(1)), BATCH
    )
    assert found is not None
    assert found["0"].metrics["bias"] == 0
    assert not {"norm_ratio", "cosine_squared"} & found["0"].metrics.keys()
