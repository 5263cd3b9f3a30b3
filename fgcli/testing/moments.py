"""Moments of a guess method, by Monte Carlo and in closed form.

With C_i = E[y_i y_iᵀ] and independent y_i of mean 0, E[δ y_i] = C_i g_i; for Gaussian ones, as linear methods give,
E‖δ y_i‖² = 2 g_iᵀC_i²g_i + tr(C_i) Σ_j g_jᵀC_j g_j, the sum over all sites. The number of draws is fixed: at it, the
mean of δ y is six standard errors off where an unbiased guess is 5 % too long, and its square more.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fgcli.diagnostics.gradients import site_gradients
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import GuessMethod, Layer
from fgcli.gradient.look import look
from fgcli.gradient.randomness import Streams
from fgcli.testing.cases import Case, balance, batch_for, chain, cross_entropy
from fgcli.testing.expect import expect, expect_close, expect_mean
from fgcli.testing.watch import SEED, Watched

Covariance = Callable[[Layer, Any], Tensor]
"""E[y yᵀ] [batch, d, d] of (layer, upstream): the site with its output for a batch, and W̃ there."""
DRAWS = 17_200
"""Var of δ y along g_i is (Σ_j‖g_j‖² + ‖g_i‖²)‖g_i‖²; gradients of one length at four sites ask 6 = 0.1025 √(N / 5)."""
DIRECTIONS = 3
SAMPLE = 2  # the first of a case's batch that is neither all 0 nor all 1


def check_moments(make: Callable[[], Any], *, unbiased: bool, covariance: Covariance | None) -> None:
    """CheckFailed where the mean or the spread of δ y contradicts the covariance or the claim to be unbiased."""
    __tracebackhide__ = True
    case = Case("a network", model := chain(), batch_for(model, 4))
    network = look(model, case.batch.inputs)
    true = partial(site_gradients, model, network, cross_entropy, case.batch)  # by reverse mode, which the kit may use
    balance(model, [float(g[SAMPLE].norm()) for g in true().values()])
    gradients = true()
    claimed = {} if covariance is None else _claimed(make, case, covariance)
    exact = _covariances(make, case) if isinstance(make(), GuessMethod) else {}
    if exact:
        for name, c in claimed.items():
            expect_close(exact[name], c, f"the covariance at site '{name}'", "A Aᵀ to be what is claimed", 1e-6)
        for name, c in exact.items() if unbiased else ():
            g = gradients[name]
            mean = (c @ g.unsqueeze(-1)).squeeze(-1)
            expect_close(mean / g.norm(), g / g.norm(), f"E[δ y] at site '{name}'", "the gradient g", 1e-6)
    g = {name: gradient[SAMPLE] for name, gradient in gradients.items()}
    covariances = {name: c[SAMPLE] for name, c in (exact or claimed).items()}
    draws, delta = _draws(make, case, g)
    for name, y in draws.items():
        _check_guess(f"at site '{name}'", y, covariances.get(name))
        if unbiased or name in covariances:
            expected = g[name] if unbiased else covariances[name] @ g[name]
            _check_mean(f"E[δ y] at site '{name}'", delta, y, expected)
    if exact and set(covariances) == set(g):
        _check_mean_square(draws, delta, covariances, g)


def _draws(make: Callable[[], Any], case: Case, g: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Guesses of one sample by site [n, d], and δ [n] along all of them together.

    A linear method's are columns of its map, and δ = Σ_i g_i y_i. Else the engine draws them, for a batch that repeats
    the sample.
    """
    if not isinstance(make(), GuessMethod):
        inputs = case.batch.inputs[SAMPLE].expand(DRAWS, -1).contiguous()
        repeated = replace(case, batch=Batch(inputs, case.batch.targets[SAMPLE].expand(DRAWS)))
        draws, delta = Watched(make(), repeated).draw()
        return draws, delta * DRAWS / len(case.batch.inputs)  # each sample's share of the case's own batch
    draws: dict[str, Tensor] = {}
    for name, linear in Watched(make(), case).linear_maps().items():
        generator = Streams(SEED).generator("check", site=name)
        z = torch.randn(len(case.batch.inputs), linear.noise_dim, DRAWS, generator=generator, dtype=torch.float64)
        draws[name] = linear.map(z)[SAMPLE].T
    return draws, sum((y @ g[name] for name, y in draws.items()), torch.zeros(DRAWS, dtype=torch.float64))


def _check_guess(at: str, y: Tensor, covariance: Tensor | None) -> None:
    """Mean 0, independent from draw to draw, and the covariance, all along a few fixed directions."""
    for number in range(DIRECTIONS):
        u = torch.randn(y.shape[1], generator=torch.Generator().manual_seed(number), dtype=y.dtype)
        u = u / u.norm()
        along = y @ u
        expect_mean(along, 0.0, f"the guess {at} along a direction")
        expect_mean(along[::2] * along[1::2], 0.0, f"the product of two samples' guesses {at} along a direction")
        if covariance is not None:
            expect_mean(along.square(), float(u @ covariance @ u), f"the squared guess {at} along a direction")


def _check_mean(what: str, delta: Tensor, y: Tensor, expected: Tensor) -> None:
    length = float(expected.norm())
    if length > 0:
        expect_mean(delta * (y @ expected) / length, length, f"{what}, along its expectation")


def _check_mean_square(
    guesses: dict[str, Tensor], delta: Tensor, covariances: dict[str, Tensor], g: dict[str, Tensor]
) -> None:
    delta_square = sum(float(g[name] @ c @ g[name]) for name, c in covariances.items())
    for name, y in guesses.items():
        c = covariances[name]
        expected = 2 * float((c @ g[name]).square().sum()) + float(c.trace()) * delta_square
        expect_mean((delta.unsqueeze(1) * y).square().sum(1), expected, f"E‖δ y‖² at site '{name}'")


def _covariances(make: Callable[[], Any], case: Case) -> dict[str, Tensor]:
    """A Aᵀ of every site and sample [batch, d, d], from the map applied to the columns of the identity."""
    found = {}
    for name, linear in Watched(make(), case).linear_maps().items():
        a = linear.map(torch.eye(linear.noise_dim, dtype=torch.float64).repeat(len(case.batch.inputs), 1, 1))
        found[name] = a @ a.mT
    return found


def _claimed(make: Callable[[], Any], case: Case, covariance: Covariance) -> dict[str, Tensor]:
    claimed: dict[str, Tensor] = {}
    for name, seen in Watched(make(), case).sites().items():
        with torch.no_grad():
            c = claimed[name] = covariance(seen.layer, seen.upstream)
        shape = (seen.samples, seen.layer.dim, seen.layer.dim)
        expect(tuple(c.shape) == shape, f"the claimed covariance at site '{name}'", list(shape), list(c.shape))
    return claimed
