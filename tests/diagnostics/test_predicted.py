"""Moments of estimates with feedback: of the prediction alone, and of a guess of what it misses."""

import pytest
import torch
from networks import batch_for, chain, cross_entropy
from subjects import subject

from fgcli.diagnostics.gradients import site_gradients
from fgcli.diagnostics.moments import moments
from fgcli.diagnostics.subject import Subject
from fgcli.extend.options import EngineOptions
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.feedback import Feedback
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.feedback import DirectFeedback

MODEL = chain(6, 8, 9, 7, 4, seed=2)
BATCH = batch_for(MODEL, 40, seed=8)
STREAMS = Streams(5)


def learned(correction: float, tangents: Tangents | None = None) -> Subject:
    """After some steps at a network that stays as it is: A is neither 0 nor the Jacobian."""
    feedback = Feedback(DirectFeedback(EngineOptions(feedback="direct", correction=correction)), correction)
    estimator = GuessEstimator(Isotropic(), feedback=feedback, tangents=tangents)
    made = subject(estimator, MODEL, BATCH, step=3)
    for step in range(3):
        estimator.estimate(MODEL, cross_entropy, BATCH, Streams(1).at(step))
    return made


@pytest.mark.parametrize(
    ("correction", "tangents"),
    [(1.0, Tangents()), (0.3, Tangents(3)), (0.3, Tangents(2, combine="sitewise"))],
    ids=str,
)
def test_draws_agree_with_the_closed_form(correction: float, tangents: Tangents) -> None:
    layers = moments(learned(correction, tangents), [BATCH], 200, STREAMS)
    assert len(layers) == 3
    assert layers[0].z.keys() >= {"variance", "mse", "norm_ratio"}
    for layer in layers:
        assert {key: z for key, z in layer.z.items() if abs(z) > 4} == {}
        for key in ("variance", "mse", "norm_ratio"):
            assert layer.monte_carlo[key].mean == pytest.approx(layer.exact[key].mean, rel=0.25, abs=1e-12)


def test_the_whole_correction_leaves_no_bias_and_less_than_all_the_rest_of_the_prediction_s() -> None:
    for share in (0.3, 1.0):
        for layer in moments(learned(share), [BATCH], 0, STREAMS):
            left = (1 - share) * layer.exact["prediction_bias"].mean
            assert layer.exact["bias"].mean == pytest.approx(left, rel=1e-6, abs=1e-12)


def test_without_a_guess_the_moments_are_those_of_the_prediction() -> None:
    of = learned(0.0)
    guesses = of.guesses
    assert guesses is not None
    b = guesses.predicted(MODEL, cross_entropy, BATCH, Streams(9).at(3))
    g = site_gradients(MODEL, guesses.bound, cross_entropy, BATCH)
    first, *_, last = moments(of, [BATCH], 8, STREAMS)
    error = (b[first.layer] - g[first.layer]).flatten(1)
    assert first.exact["bias"].mean == pytest.approx(float(error.mean(0).norm()))
    assert first.exact["variance"].mean == pytest.approx(float(error.var(0, unbiased=False).norm()))
    assert first.exact["mse"].mean == pytest.approx(float(error.square().sum(1).mean()))
    assert 0.1 < first.exact["cosine"].mean < 0.999
    cosines = torch.cosine_similarity(b[first.layer].flatten(1), g[first.layer].flatten(1))
    assert first.exact["cosine"].mean == pytest.approx(float(cosines.mean()))
    assert {"covariance_norm", "effective_rank"}.isdisjoint(first.exact)
    assert last.exact["prediction_bias"].mean < 1e-12  # from there on the gradient is exact


def test_looking_teaches_nothing() -> None:
    of = learned(0.5)
    before = {name: one.clone() for name, one in of.estimator.state().items()}
    moments(of, [BATCH], 8, STREAMS)
    after = of.estimator.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
