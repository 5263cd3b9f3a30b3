"""Every guess method against its own covariance, in closed form (all sites draw at once, independently).

With C_i = Cov(y_i) and Gaussian y_i: E[δ y_i] = C_i g_i and E‖δ y_i‖² = 2 g_iᵀC_i²g_i + tr(C_i) Σ_j g_jᵀC_j g_j.
N is fixed beforehand from the bias to detect: a guess too long by 5 % must show at six standard errors. It grows with
Σ_j‖g_j‖² / ‖g_i‖², and so the network is scaled to have gradients of one length at all sites.
"""

import math

import pytest
import torch
from claims import ESTIMATORS, GUESSES, Claim
from networks import Wrapped, batch_for, chain, cross_entropy, site_gradients
from torch import Tensor

from fgcli.extend.registry import load_registry
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import GuessMethod, Layer, LinearMap
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.testing.cases import balance

MODEL = chain(6, 8, 9, 7, 4, seed=8)
SAMPLE = batch_for(MODEL, 1, seed=8)
balance(MODEL, [float(g.norm()) for g in site_gradients(MODEL, SAMPLE, ("0", "2", "4", "6")).values()])
SCALE_OF_5_PERCENT = 1.05


def covariances(estimator: GuessEstimator) -> dict[str, Tensor]:
    """C = A Aᵀ of every site at SAMPLE, from the map applied to the columns of the identity: [d, d]."""
    found = {}
    for name, linear in estimator.linear_maps(MODEL, SAMPLE.inputs, 0).items():
        a = linear.map(torch.eye(linear.noise_dim, dtype=torch.float64).unsqueeze(0))[0]
        found[name] = a @ a.T
    return found


class Moments:
    """What the closed forms expect at SAMPLE for a claim, and how many draws show 5 %."""

    def __init__(self, claim: Claim) -> None:
        estimator = claim.guess_estimator()
        self.sites = estimator.bind(MODEL, SAMPLE.inputs.expand(2, -1)).sites
        self.gradients = {name: g[0] for name, g in site_gradients(MODEL, SAMPLE, self.sites).items()}
        self.covariances = covariances(estimator)
        self.along = {name: c @ self.gradients[name] for name, c in self.covariances.items()}
        self.delta_square = sum(float(self.gradients[name] @ along) for name, along in self.along.items())
        self.mean_is_zero = {name: float(v.norm()) < 1e-9 for name, v in self.along.items()}

    def square(self, name: str) -> float:
        return 2 * float(self.along[name].square().sum()) + float(self.covariances[name].trace()) * self.delta_square

    def draws(self) -> int:
        """N at which the mean along C g of a guess 5 % too long (its C 10 % too large) is 6 standard errors off."""
        needed = 0.0
        for name, along in self.along.items():
            if not self.mean_is_zero[name]:
                u = along / along.norm()
                second = self.delta_square * float(u @ self.covariances[name] @ u) + 2 * float(along.norm()) ** 2
                variance = second - float(along.norm()) ** 2
                needed = max(needed, variance * (6 / ((SCALE_OF_5_PERCENT**2 - 1) * float(along.norm()))) ** 2)
        return math.ceil(needed)


def drawn(claim: Claim, n: int, *, scale: float = 1.0) -> dict[str, Tensor]:
    """n guesses δ y of the gradient by site [n, d], with y `scale` times as long as the method's."""
    batch = Batch(SAMPLE.inputs.expand(n, -1), SAMPLE.targets.expand(n))
    estimator = claim.guess_estimator()
    estimator.bind(MODEL, batch.inputs[:2])
    for guesser in estimator._guessers.values():
        assert isinstance(guesser.guess, GuessMethod)
        guesser.guess = Scaled(guesser.guess, scale)
    made, found = estimator.dual_pass(MODEL, cross_entropy, batch, Streams(11).at(0))
    delta = n * found.delta[:, :1]  # δ holds the batch's 1/n
    # y as the passes had them: an SVD's signs are not the same in all samples
    return {name: delta * y for name, y in made.guesses.items()}


def z_scores(guesses: dict[str, Tensor], moments: Moments) -> dict[str, float]:
    """z of every coordinate of the mean, of the mean along C g, and of the mean square, by site."""
    scores = {}
    for name, guess in guesses.items():
        expected = moments.along[name]
        for j in range(guess.shape[1]):
            scores[f"{name}: mean of coordinate {j}"] = z(guess[:, j], float(expected[j]))
        if not moments.mean_is_zero[name]:
            direction = expected / expected.norm()
            scores[f"{name}: mean along C g"] = z(guess @ direction, float(expected.norm()))
        scores[f"{name}: mean square"] = z(guess.square().sum(1), moments.square(name))
    return scores


def z(values: Tensor, expected: float) -> float:
    """Of the mean of values [n]. A coordinate outside the guess space is 0 in every draw: no spread, no error."""
    error = float(values.mean()) - expected
    spread = float(values.std()) / math.sqrt(len(values))
    return error / max(spread, 1e-12)


class Scaled(Wrapped):
    def __init__(self, method: GuessMethod, scale: float) -> None:
        super().__init__(method)
        self.scale = scale

    def mapped(self, layer: Layer, linear: LinearMap, z: Tensor) -> Tensor:
        return self.scale * linear.map(z)


def test_the_table_is_the_registry() -> None:
    assert {claim.method for claim in GUESSES} == set(load_registry().names("guess method"))
    assert {claim.method for claim in ESTIMATORS} == set(load_registry().names("estimator"))


@pytest.mark.parametrize("claim", GUESSES, ids=lambda claim: claim.name)
def test_mean_and_mean_square_are_the_closed_forms_and_5_percent_are_found_out_at_every_site(claim: Claim) -> None:
    moments = Moments(claim)
    guesses = drawn(claim, moments.draws())
    assert {name: score for name, score in z_scores(guesses, moments).items() if abs(score) > 4} == {}
    # A y that is 5 % too long makes δ longer too.
    longer = drawn(claim, 10, scale=SCALE_OF_5_PERCENT)
    for site, guess in drawn(claim, 10).items():
        torch.testing.assert_close(longer[site], SCALE_OF_5_PERCENT**2 * guess)
    scores = z_scores({site: SCALE_OF_5_PERCENT**2 * guess for site, guess in guesses.items()}, moments)
    for site in moments.sites:
        assert max(abs(score) for name, score in scores.items() if name.startswith(f"{site}:")) > 4


@pytest.mark.parametrize("claim", [claim for claim in GUESSES if claim.unbiased], ids=lambda claim: claim.name)
def test_unbiased_where_claimed(claim: Claim) -> None:
    moments = Moments(claim)
    for name, g in moments.gradients.items():
        torch.testing.assert_close(moments.along[name], g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("claim", [claim for claim in GUESSES if claim.projector], ids=lambda claim: claim.name)
def test_covariance_is_a_projector_where_claimed(claim: Claim) -> None:
    for c in Moments(claim).covariances.values():
        torch.testing.assert_close(c @ c, c, rtol=1e-9, atol=1e-10)


def test_weight_perturbation_is_unbiased_with_1_plus_n_plus_1_over_k_times_the_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E[ĝ] = g and E‖ĝ‖² = (1 + (n + 1) / K)‖g‖². The whole batch shares K directions, so the draws are calls.

    Each estimate is the mean of those of its K directions, which the zoo's tests hold, and so serves as K calls.
    """
    k, draws = 20, 345  # Var of ĝ along g is 2‖g‖² / K: 6 = 0.1025 √(N K / 2) needs N K = 6,854
    model = chain(3, 4, 3)
    batch = batch_for(model, 2)
    estimator = Claim("weight-perturbation", {"tangents": k}).estimator()
    estimator.bind(model, batch.inputs)
    exact = ESTIMATORS[0].estimator().estimate(model, cross_entropy, batch, Streams(0).at(0)).gradients
    g = torch.cat([value.flatten() for value in exact.values()])

    def estimate(step: int) -> Tensor:
        gradients = estimator.estimate(model, cross_entropy, batch, Streams(4).at(step)).gradients
        return torch.cat([gradients[name].flatten() for name in exact])

    def worst(guess: Tensor) -> float:
        scores = [z(guess[:, j], float(g[j])) for j in range(len(g))]
        scores += [z(guess @ (g / g.norm()), float(g.norm()))]
        scores += [z(guess.square().sum(1), (1 + (len(g) + 1) / k) * float(g.square().sum()))]
        return max(map(abs, scores))

    guess = torch.stack([estimate(step) for step in range(draws)])
    assert worst(guess) < 4
    # A direction that is 5 % too long makes each estimate 1.05² times as long, and is found out.
    noise = Tangents.noise
    monkeypatch.setattr(Tangents, "noise", lambda *arguments: SCALE_OF_5_PERCENT * noise(*arguments))
    torch.testing.assert_close(estimate(0), SCALE_OF_5_PERCENT**2 * guess[0])
    assert worst(SCALE_OF_5_PERCENT**2 * guess) > 4
