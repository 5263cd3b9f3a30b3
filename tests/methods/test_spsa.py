"""Zero-order estimates held to weight perturbation's derivative, to their closed forms, and to what they may hold."""

import copy
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact import smooth
from networks import batch_for, chain, cross_entropy, residual
from torch import Tensor, nn
from zoo import ZOO, inputs_of, made

from fgcli.gradient.errors import LossRefused, OptionRefused
from fgcli.gradient.estimator import Batch, Estimate
from fgcli.gradient.low_precision import LowPrecision
from fgcli.gradient.randomness import Streams
from fgcli.gradient.uses import call
from fgcli.methods.options import FzooOptions, MezoOptions, SpsaOptions, WeightPerturbationOptions
from fgcli.methods.spsa import Spsa
from fgcli.methods.weight_noise import WeightNoise
from fgcli.methods.weight_perturbation import WeightPerturbation

RNG = Streams(3).at(7)
MODELS = {"bias": chain(5, 7, 4, bias=True), "residual": residual()}
KINDS: list[dict[str, Any]] = [
    {},
    {"draws": "gaussian", "tangents": 3},
    {"draws": "gaussian", "noise": "low-rank", "rank": 2},
    {"noise": "subspace", "rank": 2, "draws": "gaussian"},
    {"noise": "sparse", "density": 0.5},
]


APART = {name for name in ZOO if "dropout" in name} | {
    "noise",
    "encoder layer",
    "no_grad within",
    "dropped weights",
    "noisy weights",
}
"""They draw, as the test below has it; and what the forward computes within torch.no_grad() is a constant."""


def estimated(estimator: Any, model: nn.Module, batch: Batch, loss: Any = cross_entropy) -> Estimate:
    estimator.bind(model, batch.inputs)
    return estimator.estimate(model, loss, batch, RNG)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_difference_becomes_the_directional_derivative(name: str, options: dict[str, Any]) -> None:
    """Of the same directions, with an error of order ε²: a tenth of ε has a hundredth of the error."""
    model = MODELS[name]
    batch = batch_for(model, 6)
    signs: dict[str, Any] = {"draws": "rademacher"} | options
    exact = estimated(WeightPerturbation(WeightPerturbationOptions(**signs)), model, batch)
    assert exact.directional_derivative is not None
    errors, found = [], exact
    for epsilon in (1e-2, 1e-3, 1e-5):
        found = estimated(Spsa(SpsaOptions(epsilon=epsilon, **options)), model, batch)
        assert found.directional_derivative is not None
        errors.append(float((found.directional_derivative - exact.directional_derivative).norm()))
        torch.testing.assert_close(found.losses, exact.losses, rtol=0, atol=100 * epsilon**2 + 1e-9)
    assert errors[1] < 0.02 * errors[0]
    for key, gradient in exact.gradients.items():
        torch.testing.assert_close(found.gradients[key], gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "name", [name for name, kind in ZOO.items() if kind.dtype == torch.float64 and name not in APART]
)
def test_in_the_zoo_weights_are_what_the_forward_would_see(name: str) -> None:
    """Against a twin whose weights are moved: shared, tied, normalised, padded, looked up and recurrent ones."""
    model, batch = made(name), Batch(inputs_of(name, 3), None)
    estimator = Spsa(SpsaOptions(epsilon=1e-2))
    before = copy.deepcopy(model.state_dict())
    found = estimated(estimator, model, batch, smooth)
    losses = []
    for sign in (1, -1):
        twin = made(name)
        with torch.no_grad():
            for key, p in twin.named_parameters():
                if p.requires_grad:
                    p.add_(estimator.noise.draw(RNG, key, range(1), p)[0], alpha=sign * 1e-2)
            losses.append(smooth(call(twin, batch.inputs), None).mean())
    delta = (losses[0] - losses[1]) / 2e-2
    assert found.directional_derivative is not None
    torch.testing.assert_close(found.directional_derivative.sum(), delta, rtol=1e-9, atol=1e-12)
    for key, p in model.named_parameters():
        assert torch.equal(p, before[key])  # no weight is ever written to


def test_dropout_is_the_same_on_both_sides() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    batch = batch_for(model, 6)
    torch.manual_seed(1)
    exact = estimated(WeightPerturbation(WeightPerturbationOptions(draws="rademacher")), model, batch)
    torch.manual_seed(1)
    found = estimated(Spsa(SpsaOptions(epsilon=1e-5)), model, batch)
    for key, gradient in exact.gradients.items():
        torch.testing.assert_close(found.gradients[key], gradient, rtol=1e-6, atol=1e-8)


def quadratic(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1)


def linear_case() -> tuple[nn.Module, Batch, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False).double()
    batch = Batch(torch.randn(5, 4).double(), torch.randn(5, 3).double())
    (g,) = torch.autograd.grad(quadratic(model(batch.inputs), batch.targets).mean(), model.weight)
    return model, batch, g


def test_moments_of_a_quadratic_loss_are_closed_forms_at_any_epsilon() -> None:
    """ĝ = ⟨g, z⟩ z whatever ε is, so that E ĝ = g; E‖ĝ‖² = (n + 2) ‖g‖² of Gaussian directions, n ‖g‖² of signs.

    A bias of 5 % along g would be six standard errors off.
    """
    model, batch, g = linear_case()
    for options, factor in ((MezoOptions(epsilon=1.0), 14), (SpsaOptions(epsilon=1.0), 12)):
        estimator = Spsa(options)
        estimator.bind(model, batch.inputs)
        for step in range(5):
            rng = Streams(1).at(step)
            z = estimator.noise.draw(rng, "weight", range(1), g)[0]
            found = estimator.estimate(model, quadratic, batch, rng).gradients["weight"]
            torch.testing.assert_close(found, (g * z).sum() * z)
        drawn = estimator.noise.draw(Streams(1).at(0), "weight", range(1), g.new_empty(30_000 * 3, 4))[0]
        z = drawn.view(30_000, 3, 4)  # entries are independent, so that one draw of many is many draws
        found = (z * g).sum((1, 2)).view(-1, 1, 1) * z
        along, squares = (found * g).sum((1, 2)) / g.norm(), found.square().sum((1, 2))
        assert 6 * float(along.std()) / 30_000**0.5 <= 0.052 * float(g.norm())
        for values, expected in ((along, g.norm()), (squares, factor * g.square().sum())):
            assert abs(float(values.mean() - expected)) < 4 * float(values.std()) / 30_000**0.5


def test_one_side_is_off_by_the_curvature() -> None:
    """(L(W + εz) - L(W)) / ε - ⟨g, z⟩ = ε/2 zᵀHz = ε mean_b ‖z x_b‖² of this loss."""
    model, batch, g = linear_case()
    estimator = Spsa(SpsaOptions(epsilon=0.5, sides="one"))
    found = estimated(estimator, model, batch, quadratic)
    z = estimator.noise.draw(RNG, "weight", range(1), g)[0]
    assert found.directional_derivative is not None
    curvature = 0.5 * (batch.inputs @ z.T).square().sum(1).mean()
    torch.testing.assert_close(found.directional_derivative.sum(), (g * z).sum() + curvature)
    torch.testing.assert_close(found.losses, quadratic(model(batch.inputs), batch.targets).detach())


def test_fzoo_is_its_codes_step() -> None:
    """Σ_i (L_i - L_0) u_i / (N std(L_i)), the deviation over N."""
    model, batch, g = linear_case()
    estimator = Spsa(FzooOptions())
    found = estimated(estimator, model, batch, quadratic).gradients["weight"]
    u = torch.stack([estimator.noise.draw(RNG, "weight", range(k, k + 1), g)[0] for k in range(8)])
    assert set(u.unique().tolist()) == {-1.0, 1.0}
    outputs = batch.inputs @ (model.get_parameter("weight").detach() + 1e-3 * u).mT
    moved = torch.stack([quadratic(one, batch.targets).mean() for one in outputs])
    base = quadratic(model(batch.inputs), batch.targets).mean().detach()
    expected = torch.tensordot((moved - base) / (8 * moved.std(correction=0)), u, 1)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def wrong(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) != targets


def test_a_loss_without_a_derivative_is_estimated_and_one_that_is_flat_gives_no_step() -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(6, 3), Batch(torch.randn(64, 6), torch.randint(3, (64,)))
    found = estimated(Spsa(MezoOptions(epsilon=0.5)), model, batch, wrong)
    assert found.losses.dtype == torch.float32
    assert found.gradients["weight"].norm() > 0
    flat = estimated(Spsa(FzooOptions(epsilon=1e-6)), model, batch, wrong)
    assert not flat.gradients["weight"].any()
    with pytest.raises(LossRefused, match="the loss gave float; it must give a tensor"):
        estimated(Spsa(SpsaOptions()), model, batch, lambda *_: 1.0)


def test_accuracy_itself_can_be_trained() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    targets = (x @ torch.randn(10, 3)).argmax(1)
    model, estimator = nn.Linear(10, 3), Spsa(MezoOptions(epsilon=0.2, tangents=8))
    estimator.bind(model, x)
    before = float(wrong(model(x), targets).float().mean())
    for step in range(40):
        gradients = estimator.estimate(model, wrong, Batch(x, targets), Streams(0).at(step)).gradients
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.sub_(gradients[name], alpha=1.0)
    assert float(wrong(model(x), targets).float().mean()) < 0.5 * before


def test_the_noise_of_one_layer_is_all_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh())])
    alive: list[weakref.ref[Tensor]] = []
    most = []
    draw = WeightNoise.draw

    def watched(self: WeightNoise, *arguments: Any) -> Tensor:
        z = draw(self, *arguments)
        most.append(sum(one() is not None and one().dim() > 2 for one in alive))  # type: ignore[union-attr]
        alive.append(weakref.ref(z))
        return z

    monkeypatch.setattr(WeightNoise, "draw", watched)
    estimated(Spsa(SpsaOptions(tangents=2)), model, Batch(torch.randn(4, 8), torch.randint(8, (4,))), F.cross_entropy)
    assert len(most) > 100
    assert max(most) <= 1  # and that of a weight is gone when the next weight's is drawn


def test_a_batchs_statistics_are_those_of_one_forward() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    twin, batch = copy.deepcopy(model), Batch(torch.randn(6, 4).double(), torch.randint(3, (6,)))
    estimated(Spsa(SpsaOptions(sides="one", tangents=3)), model, batch)
    twin(batch.inputs)
    for (_, found), (_, expected) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_low_precision_a_step_must_be_longer_than_its_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    model, batch = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), Batch(torch.randn(256, 6), None)
    batch = Batch(batch.inputs, torch.randint(3, (256,)))
    with pytest.raises(OptionRefused, match=r"epsilon is 0.001; in b?float16 rounding is .* at least 0.\d+"):
        LowPrecision(Spsa(MezoOptions()), dtype).bind(model, batch.inputs)
    found, exact = Spsa(MezoOptions(epsilon=0.1)), Spsa(MezoOptions(epsilon=0.1))
    low = estimated(LowPrecision(found, dtype), model, batch).gradients["0.weight"]
    high = estimated(exact, model, batch).gradients["0.weight"]
    assert float((low - high).norm()) < 0.1 * float(high.norm())


@pytest.mark.parametrize("options", [MezoOptions, SpsaOptions])
def test_what_would_say_nothing_in_silence_is_refused(options: Any) -> None:
    """A step that moves no weight, and a penalty on a weight, whose difference is not taken."""
    model, batch = nn.Linear(3, 4), Batch(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(OptionRefused, match="epsilon is 1e-08; weights in float32 would not be moved by it"):
        Spsa(options(epsilon=1e-8)).bind(model, batch.inputs)
    with pytest.raises(LossRefused, match=r"depends on a trained tensor of shape \[4, 3\] beside"):
        estimated(Spsa(options()), model, batch, lambda o, t: cross_entropy(o, t) + model.weight.square().sum())
