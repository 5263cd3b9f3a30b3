"""Several tangents in one pass: each held to the true gradient, what they make together to closed forms; in float64."""

import math
import weakref
from typing import Literal

import pytest
import torch
from claims import Claim
from exact import backward, drawing
from networks import any_network, batch_for, chain, cross_entropy, residual
from networks import site_gradients as by_hooks
from subjects import Normalised, subject
from torch import Tensor, nn

from fgcli.diagnostics.closed_forms import SecondMoments, second_moments
from fgcli.diagnostics.exact import exact_moments
from fgcli.gradient.draws import Mapped, joined
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import OptionRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Isotropic, Layer, LinearMap
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Combine, Tangents
from fgcli.gradient.upstream import UpstreamJacobian
from fgcli.methods.options import TransposeOptions
from fgcli.methods.transpose import Transpose

RNG = Streams(3).at(7)
MODELS = {
    "linked": chain(5, 7, 6, 4, bias=True),
    "gelu": chain(5, 7, 6, 4, activation=nn.GELU),
    "inplace": nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4)).double(),
    "rows": residual(),
    "hooked": chain(5, 6, 4),
}
MODELS["hooked"][1].register_forward_hook(lambda *passed: passed[-1] * torch.arange(6.0, dtype=torch.float64))


def site_gradients(model: nn.Module, _: object, batch: Batch, sites: tuple[str, ...]) -> dict[str, Tensor]:
    return by_hooks(model, batch, sites)


def guesses(estimator: GuessEstimator, model: nn.Module, batch: Batch, number: int) -> dict[str, Tensor]:
    """Of each site, y [batch, K, ...], drawn again from the keys."""
    found = {}
    for name, linear in estimator.linear_maps(model, batch.inputs, RNG.step).items():
        shape = (len(batch.inputs), linear.noise_dim)
        noise = [RNG.normal(f"guess-{k}" if k else "guess", name, shape, batch.inputs) for k in range(number)]
        found[name] = torch.stack([linear.map(z) for z in noise], dim=1)
    return found


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("name", MODELS)
def test_each_derivative_is_the_inner_product_with_the_true_gradient(name: str, chunk: int | None) -> None:
    model = MODELS[name]
    batch = batch_for(model, 6)
    estimator = GuessEstimator(Isotropic(), uncovered="freeze", tangents=Tangents(3, chunk=chunk))
    sites = estimator.bind(model, batch.inputs).sites
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    drawn, true = guesses(estimator, model, batch, 3), site_gradients(model, cross_entropy, batch, sites)
    expected = torch.stack([(y * true[site].unsqueeze(1)).flatten(2).sum(2) for site, y in drawn.items()]).sum(0)
    assert estimate.directional_derivative is not None
    torch.testing.assert_close(estimate.directional_derivative, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(estimate.losses, cross_entropy(model(batch.inputs), batch.targets).detach())
    bias = {site: torch.einsum("bk,bk...->...", expected / 3, y) for site, y in drawn.items()}
    for site in sites:
        if f"{site}.bias" in estimate.gradients:
            summed = bias[site] if bias[site].dim() == 1 else bias[site].sum((1, 2))
            torch.testing.assert_close(estimate.gradients[f"{site}.bias"], summed)
    single = GuessEstimator(Isotropic(), uncovered="freeze")
    single.bind(model, batch.inputs)
    alone = single.estimate(model, cross_entropy, batch, RNG).directional_derivative
    torch.testing.assert_close(estimate.directional_derivative[:, 0], alone)


def test_parameters_that_no_site_covers_have_a_tangent_of_their_own() -> None:
    model = residual()
    batch = batch_for(model, 5)
    estimates = {}
    uncovered: Literal["perturb", "freeze"]
    for uncovered in ("perturb", "freeze"):
        estimator = GuessEstimator(Isotropic(), uncovered=uncovered, tangents=Tangents(3))
        estimator.bind(model, batch.inputs)
        estimates[uncovered] = estimator.estimate(model, cross_entropy, batch, RNG).gradients
    loss = cross_entropy(model(batch.inputs), batch.targets).mean()
    exact = torch.autograd.grad(loss, [model.norm.weight, model.norm.bias])
    directions = [RNG.normal("weight", f"norm.{name}", (6,), batch.inputs) for name in ("weight", "bias")]
    total = sum((g * v).sum() for g, v in zip(exact, directions, strict=True))
    torch.testing.assert_close(estimates["perturb"].pop("norm.weight"), total * directions[0])
    torch.testing.assert_close(estimates["perturb"].pop("norm.bias"), total * directions[1])
    torch.testing.assert_close(estimates["perturb"], estimates["freeze"])


@pytest.mark.parametrize("tangents", [Tangents(3), Tangents(3, "orthogonal"), Tangents(3, "orthogonal", chunk=2)])
def test_several_guesses_through_a_jacobian_that_is_no_matrix(tangents: Tangents) -> None:
    model = residual()
    batch = batch_for(model, 4)
    estimator = GuessEstimator(Transpose(TransposeOptions()), tangents=tangents)
    sites = estimator.bind(model, batch.inputs).sites
    step, derivatives = estimator.dual_pass(model, cross_entropy, batch, RNG)
    true = site_gradients(model, cross_entropy, batch, sites)
    found = guesses(estimator, model, batch, tangents.number)
    expected = torch.stack([(y * true[site].unsqueeze(1)).flatten(2).sum(2) for site, y in found.items()]).sum(0)
    torch.testing.assert_close(derivatives.delta, expected)
    if tangents.combine == "orthogonal":  # the same coefficients from the Gram matrix of the noise, of all sites
        maps = estimator.linear_maps(model, batch.inputs, RNG.step)
        shapes = {name: (len(batch.inputs), one.noise_dim) for name, one in maps.items()}
        z = torch.cat(
            [
                tangents.noise(RNG, "guess", name, range(3), shape, batch.inputs).movedim(0, -1)
                for name, shape in shapes.items()
            ],
            dim=1,
        )
        coefficients = z.shape[1] / 3 * torch.linalg.solve(z.mT @ z, expected)
        torch.testing.assert_close(derivatives.coefficients, coefficients)
    for site, y in found.items():
        torch.testing.assert_close(
            step.estimate_at(site, derivatives), torch.einsum("bk,bk...->b...", derivatives.coefficients, y)
        )


class Watched(Transpose):
    """Keeps weak references to the upstream Jacobians that it was given."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[object]] = []

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        self.seen.append(weakref.ref(upstream))
        return super().linearize(layer, upstream, prepared)


@pytest.mark.parametrize("combine", ["mean", "orthogonal", "projection"])
def test_no_jacobian_outlives_its_draws(combine: Combine) -> None:
    model, guess = residual(), Watched()
    batch = batch_for(model, 4)
    estimator = GuessEstimator(guess, tangents=Tangents(3, combine))
    estimator.bind(model, batch.inputs)
    guess.seen.clear()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        assert len(guess.seen) == 4  # conv, grouped, enter, inner: one map each, for all tangents
        assert not any(reference() for reference in guess.seen)
        return cross_entropy(outputs, targets)

    estimator.estimate(model, loss, batch, RNG)
    assert len(guess.seen) == 4


SMALL = chain(4, 5, 6, 3, seed=2)


def combined(tangents: Tangents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """At SMALL with W̃ᵀ: the estimate, the true gradient, Y and Z, all sites together, [batch, d(, K)]."""
    batch = batch_for(SMALL, 4)
    estimator = GuessEstimator(Transpose(TransposeOptions()), tangents=tangents)
    sites = estimator.bind(SMALL, batch.inputs).sites
    step, derivatives = estimator.dual_pass(SMALL, cross_entropy, batch, RNG)
    guess = torch.cat([step.estimate_at(name, derivatives) for name in sites], dim=1)
    true = torch.cat(list(site_gradients(SMALL, cross_entropy, batch, sites).values()), dim=1)
    y = torch.cat(list(guesses(estimator, SMALL, batch, tangents.number).values()), dim=2).mT
    drawn = [joined(some) for some in step.draws.values()]
    noise = [one.noise.movedim(0, -1) for one in drawn if isinstance(one, Mapped)]
    z = torch.cat(noise or [y], dim=1)
    return guess, true, y, z


@pytest.mark.parametrize("number", [1, 5])
def test_orthogonal_is_the_mean_over_the_columns_of_q(number: int) -> None:
    guess, true, y, z = combined(Tangents(number, "orthogonal"))
    for b in range(len(z)):
        q, r = torch.linalg.qr(z[b])
        directions = y[b] @ torch.linalg.inv(r) * math.sqrt(len(z[b]))  # A √n Q, as y = A z and z = Q R
        expected = directions @ (directions.T @ true[b]) / number
        torch.testing.assert_close(guess[b], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(q.T @ q, torch.eye(number, dtype=torch.float64))


def test_as_many_orthogonal_tangents_as_dimensions_leave_nothing_to_chance() -> None:
    guess, true, *_ = combined(Tangents(6 + 3 + 3, "orthogonal", chunk=5))
    estimator = GuessEstimator(Transpose(TransposeOptions()))
    batch = batch_for(SMALL, 4)
    estimator.bind(SMALL, batch.inputs)
    expected, start = [], 0
    for linear in estimator.linear_maps(SMALL, batch.inputs, RNG.step).values():
        a = linear.map(torch.eye(linear.noise_dim, dtype=torch.float64).repeat(4, 1, 1))
        g = true[:, start : start + a.shape[1]].unsqueeze(2)
        expected.append((a @ (a.mT @ g)).squeeze(2))
        start += a.shape[1]
    torch.testing.assert_close(guess, torch.cat(expected, dim=1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [5, 16])
def test_coefficients_in_float32_are_those_in_float64(n: int) -> None:
    """Where there is little more noise than tangents, float32 products would leave three digits of some."""
    tangents = Tangents(4, "orthogonal")
    noise = tangents.noise(RNG, "guess", "0", range(4), (500, n), torch.zeros(1))
    delta = noise.sum(2).T
    found = tangents.coefficients(delta, tangents.gram(noise), n).double()
    z = noise.double().movedim(0, -1)
    expected = n / 4 * torch.linalg.solve(z.mT @ z, delta.double())
    assert ((found - expected).norm(dim=1) < 1e-5 * expected.norm(dim=1)).all()


def test_projection_is_least_squares_and_shrinks_toward_the_mean() -> None:
    guess, true, y, _ = combined(Tangents(4, "projection", shrinkage=1e-12, chunk=3))
    for b in range(len(y)):
        x = torch.linalg.lstsq(y[b], true[b].unsqueeze(1)).solution
        torch.testing.assert_close(guess[b], (y[b] @ x).squeeze(1), rtol=1e-8, atol=1e-12)
    shrunk, *_ = combined(Tangents(4, "projection", shrinkage=1.0))
    mean = (y @ (y.mT @ true.unsqueeze(2))).squeeze(2) / y.square().sum((1, 2)).unsqueeze(1) * 4
    torch.testing.assert_close(shrunk, mean)


DRAWN = {
    "mean": Tangents(3),
    "signs": Tangents(1, draws="rademacher"),
    "signs-mean": Tangents(3, draws="rademacher"),
    "pairs": Tangents(4, draws="antithetic"),
    "sphere": Tangents(1, "orthogonal"),
    "orthogonal": Tangents(4, "orthogonal"),
    "sitewise": Tangents(2, "sitewise"),
}
DRAWS = 40_000  # E‖ĝ‖² 5 % off shows at 4 standard errors while its relative spread is below 3


def z_scores(tangents: Tangents, factors: SecondMoments | None = None) -> dict[str, float]:
    """Of each coordinate of the mean estimate and of its mean square at each site, against the closed form."""
    model = chain(4, 6, 5, 3, seed=2)
    one = batch_for(model, 1, seed=8)
    claim = Claim("wperp", {"k": 3, "solver": "shared"})
    estimator = GuessEstimator(claim.guess_estimator().method, tangents=tangents)
    with pytest.MonkeyPatch.context() as patch:
        if factors is not None:
            patch.setattr("fgcli.diagnostics.exact.second_moments", lambda *_: factors)
        exact = exact_moments(subject(estimator, model, one), one)
    assert exact is not None
    many = Batch(one.inputs.expand(DRAWS, -1), one.targets.expand(DRAWS))
    step, derivatives = estimator.dual_pass(model, cross_entropy, many, RNG)
    scores = {}
    for name, moments in exact.items():
        guess = DRAWS * step.estimate_at(name, derivatives)  # δ holds the batch's 1/DRAWS
        for j, expected in enumerate(moments.guess):
            scores[f"{name} {j}"] = z(guess[:, j], float(expected))
        scores[f"{name} square"] = z(guess.square().sum(1), moments.mean_square)
    return scores


def z(values: Tensor, expected: float) -> float:
    return (float(values.mean()) - expected) / max(float(values.std()) / math.sqrt(len(values)), 1e-12)


@pytest.mark.parametrize("name", DRAWN)
def test_mean_and_mean_square_are_the_closed_forms(name: str) -> None:
    assert max(map(abs, z_scores(DRAWN[name]).values())) < 4


@pytest.mark.parametrize("name", ["mean", "signs", "orthogonal"])
def test_another_closed_form_is_found_out(name: str) -> None:
    """One too large by 5 % of each factor; and for random signs, that of Gaussian noise."""
    factors = second_moments(DRAWN[name], 3 + 3 + 3)
    assert factors is not None
    wrong = SecondMoments(1.05 * factors.own, 1.05 * factors.cross, 0.0)
    assert max(map(abs, z_scores(DRAWN[name], wrong).values())) > 4


@pytest.mark.parametrize("name", [*MODELS, "residual", "attention", "past-all-sites"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_sitewise_derivatives_are_of_one_site_each(name: str, chunk: int | None) -> None:
    model, batch = (MODELS[name], batch_for(MODELS[name], 6)) if name in MODELS else any_network(name, 6)
    estimator = GuessEstimator(Isotropic(), uncovered="freeze", tangents=Tangents(3, "sitewise", chunk=chunk))
    sites = estimator.bind(model, batch.inputs).sites
    _, found = estimator.dual_pass(model, cross_entropy, batch, RNG)
    drawn, true = guesses(estimator, model, batch, 3), site_gradients(model, cross_entropy, batch, sites)
    assert list(found.at) == list(sites)
    for site, columns in found.at.items():
        expected = (drawn[site] * true[site].unsqueeze(1)).flatten(2).sum(2)
        torch.testing.assert_close(found.delta[:, columns], expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("memory", ["store", "replay"])
def test_as_many_sitewise_tangents_as_a_guess_space_has_dimensions_project(memory: Literal["store", "replay"]) -> None:
    model, k = chain(4, 6, 5, 3, seed=2), 3
    batch, method = batch_for(model, 7, seed=8), Claim("wperp", {"k": k, "solver": "svd"}).guess_estimator().method
    estimator = GuessEstimator(
        method, tangents=Tangents(k, "sitewise", chunk=2), memory=memory, output_gradient="exact"
    )
    sites = estimator.bind(model, batch.inputs).sites
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    true, weights = site_gradients(model, cross_entropy, batch, sites), backward(model, cross_entropy, batch)
    maps = estimator.linear_maps(model, batch.inputs, RNG.step)
    values, inputs = batch.inputs, {}
    for name, layer in model.named_children():
        inputs[name] = values.detach()
        values = layer(values)
    for site, linear in maps.items():
        a = linear.map(torch.eye(k, dtype=torch.double).expand(7, -1, -1))
        projected = (a @ (a.mT @ true[site].unsqueeze(2))).squeeze(2)
        torch.testing.assert_close(estimate.gradients[f"{site}.weight"], projected.T @ inputs[site])
    last = [site for site in sites if site not in maps]
    torch.testing.assert_close(estimate.gradients[f"{last[0]}.weight"], weights[f"{last[0]}.weight"])


@pytest.mark.parametrize("combine", ["sitewise", "mean", "orthogonal"])
def test_where_every_site_is_exact_no_tangent_starts(combine: Literal["sitewise", "mean", "orthogonal"]) -> None:
    model = chain(4, 3)
    batch = batch_for(model, 5)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(3, combine), output_gradient="exact")
    estimator.bind(model, batch.inputs)
    found = estimator.estimate(model, cross_entropy, batch, RNG).gradients
    torch.testing.assert_close(found, backward(model, cross_entropy, batch))


def test_more_sitewise_tangents_than_a_guess_space_has_dimensions_are_refused() -> None:
    model = chain(4, 6, 5, 3, seed=2)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(6, "sitewise"), output_gradient="exact")
    with pytest.raises(OptionRefused, match=r"tangents is 6; combine sitewise takes at most 5 here, .* site '2'"):
        estimator.bind(model, batch_for(model, 2).inputs)


def test_orthogonal_moments_at_the_ends() -> None:
    assert second_moments(Tangents(7, "orthogonal"), 7) == SecondMoments(1.0, 0.0)
    one = second_moments(Tangents(1, "orthogonal"), 7)  # uniform on the sphere of radius √7: 7/9 of Gauss's
    assert one is not None
    assert (one.own, one.cross) == pytest.approx((2 * 7 / 9, 7 / 9))
    assert second_moments(Tangents(2, "projection"), 7) is None


def test_what_the_noise_of_a_method_that_draws_for_itself_cannot_be() -> None:
    method = Normalised()
    estimator = GuessEstimator(method, tangents=Tangents(3))
    model = chain(5, 7, 4)
    batch = batch_for(model, 3)
    sites = estimator.bind(model, batch.inputs).sites
    delta = estimator.estimate(model, cross_entropy, batch, RNG).directional_derivative
    true = site_gradients(model, cross_entropy, batch, sites)
    for k in range(3):
        expected = torch.zeros(3, dtype=torch.float64)
        for name in sites:
            generator = RNG.generator(f"guess-{k}" if k else "guess", name)
            y = torch.randn(true[name].shape, generator=generator, dtype=torch.float64)
            expected += (true[name] * y / y.norm(dim=1, keepdim=True)).sum(1)
        assert delta is not None
        torch.testing.assert_close(delta[:, k], expected)
    for tangents, what in (
        (Tangents(2, "orthogonal"), "combine orthogonal"),
        (Tangents(2, draws="rademacher"), "draws"),
    ):
        with pytest.raises(OptionRefused, match=f"{what}.* Normalised draws for itself"):
            GuessEstimator(method, tangents=tangents)


def test_more_orthogonal_tangents_than_dimensions_are_refused() -> None:
    estimator = GuessEstimator(Transpose(TransposeOptions()), tangents=Tangents(13, "orthogonal"))
    with pytest.raises(OptionRefused, match=r"tangents is 13; .* at most 12 here, .* \(0 6, 2 3, 4 3\)"):
        estimator.bind(SMALL, torch.zeros(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("chunk", [None, 2])
def test_each_tangent_sees_the_same_dropout(chunk: int | None) -> None:
    """As many orthogonal tangents as the sites have outputs give the gradient under one mask."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 3), nn.Dropout(0.2)).double()
    batch = batch_for(model, 6)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(8, "orthogonal", chunk=chunk))
    estimator.bind(model, batch.inputs)
    with drawing():
        found = estimator.estimate(model, cross_entropy, batch, RNG).gradients
    torch.testing.assert_close(found, backward(model, cross_entropy, batch), rtol=1e-7, atol=1e-10)
