"""Draws against the exact moments; and the self-check that a wrong covariance fails."""

import pytest
import torch
from claims import GUESSES, Claim
from networks import Wrapped, batch_for, chain, cross_entropy, residual, site_gradients
from subjects import Normalised, of_claim, subject

from fgcli.diagnostics.exact import exact_moments
from fgcli.diagnostics.gradients import parameter_gradients
from fgcli.diagnostics.moments import NothingKnown, moments, moments_of_weights
from fgcli.diagnostics.monte_carlo import draw_moments
from fgcli.diagnostics.subject import Subject
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.randomness import Streams

MODEL = chain(6, 8, 9, 7, 4, seed=2)
BATCHES = [batch_for(MODEL, 40, seed=seed) for seed in (8, 9)]
LARGE = [batch_for(MODEL, 200, seed=seed) for seed in (8, 9)]
STREAMS = Streams(5)
CHECKED = {"bias", "variance", "mse", "covariance_norm", "norm_ratio", "effective_rank"}


# What is tested is the diagnostics: one solver of each method is enough.
ONE_EACH = list({claim.method: claim for claim in reversed(GUESSES)}.values())


@pytest.mark.parametrize("claim", ONE_EACH, ids=lambda claim: claim.name)
def test_draws_agree_with_the_exact_moments(claim: Claim) -> None:
    """From 16,000 guesses at samples: few draws of large batches, as a draw costs time by itself."""
    batches = BATCHES if "svd" in claim.name or "bottom" in claim.name else LARGE
    for layer in moments(of_claim(claim, MODEL, batches[0]), batches, 40, STREAMS):
        assert {key: z for key, z in layer.z.items() if abs(z) > 4} == {}
        if claim.method == "wt":
            assert layer.z.keys() >= CHECKED
        for key in ("variance", "mse", "norm_ratio", "effective_rank"):
            assert layer.monte_carlo[key].mean == pytest.approx(layer.exact[key].mean, rel=0.25)


class Astray(Wrapped):
    """Its columns, from which the covariance comes, are 5 % longer than its draws."""

    def mapped(self, layer, linear, z):
        return linear.map(z) * (1.05 if z.dim() > 2 else 1.0)


def test_a_wrong_covariance_fails_at_every_layer() -> None:
    for layer in moments(subject(GuessEstimator(Astray(Isotropic())), MODEL, LARGE[0]), LARGE, 120, STREAMS):
        assert max(abs(z) for z in layer.z.values()) > 4, layer.layer
        assert abs(layer.z["effective_rank"]) > 4


def test_parameters_trained_by_weight_perturbation_are_in_both() -> None:
    model = residual()
    batches = [batch_for(model, 20)]
    for layer in moments(subject(GuessEstimator(Isotropic()), model, batches[0]), batches, 60, STREAMS):
        assert max(abs(z) for z in layer.z.values()) < 4


def test_estimates_are_unbiased_for_the_paper_s_bias() -> None:
    """‖bias‖ of an unbiased method is not the noise of the mean of the draws."""
    claim = Claim("activation-perturbation")
    batch = BATCHES[0]
    drawn = draw_moments(of_claim(claim, MODEL, batch), batch, 64, STREAMS)
    for one in drawn.values():
        naive = float(one.error.mean(0).norm())
        assert one.metrics()["bias"].mean < 0.8 * naive


def test_a_guess_that_is_not_linear_has_draws_only() -> None:
    layers = moments(subject(GuessEstimator(Normalised()), MODEL, BATCHES[0]), BATCHES, 16, STREAMS)
    for layer in layers:
        assert layer.exact == {}
        assert layer.z == {}
        assert layer.monte_carlo["trace"].mean == pytest.approx(1)
        assert layer.monte_carlo["cosine"].mean > 0
    with pytest.raises(NothingKnown, match="give --draws above 0"):
        moments(subject(GuessEstimator(Normalised()), MODEL, BATCHES[0]), BATCHES, 0, STREAMS)


def test_exact_moments_alone_and_errors_over_batches() -> None:
    (layer, *_) = moments(of_claim(Claim("wt"), MODEL, BATCHES[0]), BATCHES, 0, STREAMS)
    singles = [exact_moments(of_claim(Claim("wt"), MODEL, batch), batch) for batch in BATCHES]
    first, second = (one["0"].metrics["bias"] for one in singles if one)
    assert layer.monte_carlo == {}
    assert layer.exact["bias"].mean == pytest.approx((first + second) / 2)
    assert layer.exact["bias"].error == pytest.approx(abs(first - second) / 2)


def test_the_same_streams_give_the_same_draws_and_others_others() -> None:
    one = of_claim(Claim("wt"), MODEL, BATCHES[0])
    first, again, other = (
        draw_moments(one, BATCHES[0], 4, streams)["0"].error for streams in (STREAMS, STREAMS, Streams(6))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_weight_space_serves_every_estimator() -> None:
    model = chain(3, 4, 3)
    batch = batch_for(model, 4)
    for layer in moments_of_weights(of_claim(Claim("backprop"), model, batch), [batch], 8, STREAMS):
        assert layer.monte_carlo["mse"].mean < 1e-30
        assert layer.monte_carlo["cosine"].mean == pytest.approx(1)
        assert layer.monte_carlo["norm_ratio"].mean == pytest.approx(1)
    n = sum(parameter.numel() for parameter in model.parameters())
    k, draws = 20, 150  # the mean of the estimates along 20 directions: 3,000 of them
    perturbing = of_claim(Claim("weight-perturbation", {"tangents": k}), model, batch)
    layers = moments_of_weights(perturbing, [batch], draws, STREAMS)
    found = sum(layer.monte_carlo["mse"].mean for layer in layers)
    error = sum((layer.monte_carlo["mse"].error or 0) ** 2 for layer in layers) ** 0.5
    square = sum(float(g.square().sum()) for g in parameter_gradients(model, cross_entropy, batch).values())
    expected = (n + 1) / k * square  # E‖ĝ - g‖²
    assert abs(found - expected) < 4 * error * 1.5  # layers share their draws
    assert found == pytest.approx(expected, rel=0.15)


def test_diagnostics_do_not_touch_the_estimator_they_are_given_beyond_prepare() -> None:
    claim = Claim("wperp", {"k": 3})
    subject_, batch = of_claim(claim, MODEL, BATCHES[0]), BATCHES[0]
    moments(subject_, [batch], 8, STREAMS)
    memory = {name: tensor.clone() for name, tensor in subject_.estimator.state().items()}
    twin = of_claim(claim, MODEL, batch)
    assert isinstance(twin, Subject)
    twin.estimator.estimate(MODEL, twin.loss, batch, Streams(0).at(0))
    assert memory.keys() == twin.estimator.state().keys()
    for name, tensor in twin.estimator.state().items():
        assert torch.equal(memory[name], tensor)


def test_cosine_is_that_of_the_guess_with_its_sign() -> None:
    model = chain(4, 5)
    batch = batch_for(model, 3)
    one = subject(GuessEstimator(Isotropic()), model, batch)
    drawn = draw_moments(one, batch, 50, STREAMS)["0"]
    g = site_gradients(model, batch, ("0",))["0"]
    assert drawn.gradient_square == pytest.approx(float(g.square().sum(1).mean()))
    assert drawn.cosine.min() >= 0  # one site alone: δ y = ⟨g, y⟩ y never points away from g
    assert float(drawn.cosine_squared.mean()) == pytest.approx(1 / 5, rel=0.2)
