"""The estimate of a guess method held to autograd, in float64."""

import pytest
import torch
from networks import batch_for, chain, cross_entropy, residual, site_gradients
from subjects import Normalised
from torch import Tensor, nn

from fgcli.diagnostics.gradients import site_gradients as gradients_of_uses
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Isotropic, Layer, Memory
from fgcli.gradient.look import look
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.options import TransposeOptions
from fgcli.methods.transpose import Transpose

RNG = Streams(3).at(7)

CHAINS = {
    "relu": chain(5, 7, 6, 4),
    "relu-bias": chain(5, 9, 3, 8, 4, bias=True),
    "gelu": chain(5, 7, 7, 4, bias=True, activation=nn.GELU),
    "tanh": chain(4, 6, 5, 3, activation=nn.Tanh),
    "softplus": chain(4, 6, 3, activation=nn.Softplus),
}
GUESSES = {"isotropic": Isotropic, "transpose": lambda: Transpose(TransposeOptions())}


def drawn(estimator: GuessEstimator, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The guesses that `estimate` draws at RNG, drawn again from their keys."""
    like = next(model.parameters())
    return {
        name: linear.map(RNG.normal("guess", name, (len(batch.inputs), linear.noise_dim), like))
        for name, linear in estimator.linear_maps(model, batch.inputs, RNG.step).items()
    }


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("network", CHAINS)
def test_directional_derivative_is_inner_product_with_true_gradient(network: str, guess: str) -> None:
    model = CHAINS[network]
    batch = batch_for(model, 11)
    estimator = GuessEstimator(GUESSES[guess]())
    sites = estimator.bind(model, batch.inputs[:2]).sites
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    true = site_gradients(model, batch, sites)
    guesses = drawn(estimator, model, batch)
    expected = sum((true[name] * guesses[name]).sum(1) for name in sites)
    torch.testing.assert_close(estimate.directional_derivative, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(estimate.losses, cross_entropy(model(batch.inputs), batch.targets).detach())


def test_directional_derivative_through_convolution_residual_and_norm() -> None:
    model = residual()
    batch = batch_for(model, 5)
    estimator = GuessEstimator(Isotropic(), uncovered="freeze")
    sites = estimator.bind(model, batch.inputs[:2]).sites
    assert sites == ("conv", "grouped", "enter", "inner", "leave")
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    true = site_gradients(model, batch, sites)
    guesses = drawn(estimator, model, batch)
    expected = sum((true[name] * guesses[name]).flatten(1).sum(1) for name in sites)
    torch.testing.assert_close(estimate.directional_derivative, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("network", ["relu", "relu-bias", "gelu"])
def test_weight_gradients_are_the_naive_formula(network: str) -> None:
    model = CHAINS[network]
    batch = batch_for(model, 6)
    estimator = GuessEstimator(Transpose(TransposeOptions()))
    estimator.bind(model, batch.inputs[:2])
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    delta, guesses = estimate.directional_derivative, drawn(estimator, model, batch)
    assert delta is not None
    assert set(estimate.gradients) == {name for name, _ in model.named_parameters()}
    x = batch.inputs
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            weight = torch.stack([delta[b] * torch.outer(guesses[name][b], x[b]) for b in range(len(x))]).sum(0)
            torch.testing.assert_close(estimate.gradients[f"{name}.weight"], weight)
            if layer.bias is not None:
                bias = torch.stack([delta[b] * guesses[name][b] for b in range(len(x))]).sum(0)
                torch.testing.assert_close(estimate.gradients[f"{name}.bias"], bias)
        x = layer(x)


def test_tangents_by_hand_equal_pytorchs_own_formula() -> None:
    """The route around backends without a forward-mode formula (MPS) gives what the formula gives."""
    model = residual()
    batch = batch_for(model, 4)
    estimator = GuessEstimator(Isotropic(), uncovered="freeze")
    estimator.bind(model, batch.inputs[:2])
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    guesses = drawn(estimator, model, batch)
    modules = dict(model.named_modules())

    def perturbed(scale: Tensor) -> Tensor:
        handles = [
            modules[name].register_forward_hook(lambda _, __, s, y=y: s + scale * y) for name, y in guesses.items()
        ]
        try:
            return cross_entropy(model(batch.inputs), batch.targets) / len(batch.inputs)
        finally:
            for handle in handles:
                handle.remove()

    nothing, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    tangent = torch.func.jvp(perturbed, (nothing,), (one,))[1]
    torch.testing.assert_close(estimate.directional_derivative, tangent, rtol=1e-10, atol=1e-14)


def test_parameters_that_no_site_covers_are_trained_by_weight_perturbation_in_the_same_pass() -> None:
    model = residual()
    batch = batch_for(model, 5)
    estimator = GuessEstimator(Isotropic())
    coverage = estimator.bind(model, batch.inputs[:2])
    assert coverage.perturbed == ("norm.weight", "norm.bias")
    assert coverage.frozen == ()
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    true = site_gradients(model, batch, coverage.sites)
    loss = cross_entropy(model(batch.inputs), batch.targets).mean()
    exact = torch.autograd.grad(loss, [model.norm.weight, model.norm.bias])
    directions = {name: RNG.normal("weight", name, (6,), batch.inputs) for name in coverage.perturbed}
    along_sites = sum((true[name] * y).sum() for name, y in drawn(estimator, model, batch).items())
    total = along_sites + sum((g * v).sum() for g, v in zip(exact, directions.values(), strict=True))
    delta = estimate.directional_derivative
    assert delta is not None
    torch.testing.assert_close(delta.sum(), total)
    for name, direction in directions.items():
        torch.testing.assert_close(estimate.gradients[name], total * direction)


def test_uncovered_parameters_can_be_frozen() -> None:
    model = residual()
    batch = batch_for(model, 5)
    estimator = GuessEstimator(Isotropic(), uncovered="freeze")
    coverage = estimator.bind(model, batch.inputs[:2])
    assert coverage.frozen == ("norm.weight", "norm.bias")
    assert coverage.perturbed == ()
    assert "norm.weight" not in estimator.estimate(model, cross_entropy, batch, RNG).gradients


def test_parameters_frozen_by_the_user_stay_out() -> None:
    model = chain(5, 6, 3, bias=True)
    model[0].requires_grad_(False)
    batch = batch_for(model, 4)
    estimator = GuessEstimator(Isotropic())
    assert estimator.bind(model, batch.inputs[:2]).perturbed == ()
    assert set(estimator.estimate(model, cross_entropy, batch, RNG).gradients) == {"2.weight", "2.bias"}


def test_same_key_same_guess_and_other_step_another() -> None:
    model = chain(5, 7, 4)
    batch = batch_for(model, 3)
    estimator = GuessEstimator(Isotropic())
    estimator.bind(model, batch.inputs[:2])
    first, again, other = (
        estimator.estimate(model, cross_entropy, batch, Streams(1).at(step)).gradients["0.weight"] for step in (2, 2, 3)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Counting(Isotropic):
    """Counts its prepares and remembers the number in the site's memory."""

    def prepare(self, layer: Layer, memory: Memory) -> None:
        assert layer.output is None
        memory["prepared"] = memory.get("prepared", torch.tensor(0.0)) + 1


def test_prepare_runs_once_per_parameter_update_and_its_memory_is_state() -> None:
    model = chain(5, 7, 4)
    batch = batch_for(model, 3)
    estimator = GuessEstimator(Counting())
    estimator.bind(model, batch.inputs[:2])
    for _ in range(2):
        estimator.estimate(model, cross_entropy, batch, Streams(1).at(0))
        estimator.linear_maps(model, batch.inputs, 0)
    assert estimator.state() == {"0/prepared": 1, "2/prepared": 1}
    estimator.estimate(model, cross_entropy, batch, Streams(1).at(1))
    assert estimator.state() == {"0/prepared": 2, "2/prepared": 2}
    other = GuessEstimator(Counting())
    other.bind(model, batch.inputs[:2])
    other.load_state(estimator.state())
    other.estimate(model, cross_entropy, batch, Streams(1).at(2))
    assert other.state() == {"0/prepared": 3, "2/prepared": 3}


def test_a_method_that_samples_trains_but_has_no_linear_map() -> None:
    model = chain(5, 7, 4)
    batch = batch_for(model, 3)
    estimator = GuessEstimator(Normalised())
    sites = estimator.bind(model, batch.inputs[:2]).sites
    delta = estimator.estimate(model, cross_entropy, batch, RNG).directional_derivative
    true = site_gradients(model, batch, sites)
    expected = torch.zeros(3, dtype=torch.float64)
    for name in sites:
        z = torch.randn(3, *true[name].shape[1:], generator=RNG.generator("guess", name), dtype=torch.float64)
        expected += (true[name] * z / z.norm(dim=1, keepdim=True)).sum(1)
    torch.testing.assert_close(delta, expected)
    with pytest.raises(TypeError, match="Normalised is not linear in its noise"):
        estimator.linear_maps(model, batch.inputs, RNG.step)


def test_a_layer_that_is_the_whole_model_is_the_output_layer() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    batch = batch_for(model, 4)
    estimators = [GuessEstimator(Transpose(TransposeOptions())), GuessEstimator(Isotropic())]
    assert [estimator.bind(model, batch.inputs).sites for estimator in estimators] == [("",), ("",)]
    wt, isotropic = (estimator.estimate(model, cross_entropy, batch, RNG).gradients for estimator in estimators)
    assert wt.keys() == {"weight", "bias"}
    assert all(torch.equal(wt[name], isotropic[name]) for name in wt)


class InPlace(nn.Module):
    """In-place operations on the outputs of sites, as many residual networks are written."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        h *= 2.0
        h += self.inner(torch.sin(x))
        return self.leave(torch.tanh(h))


def test_in_place_operations_on_a_sites_output_do_not_change_its_guess() -> None:
    torch.manual_seed(0)
    model = InPlace().double()
    batch = batch_for(model, 6)
    estimator = GuessEstimator(Isotropic())
    sites = estimator.bind(model, batch.inputs[:2]).sites
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    delta, guesses = estimate.directional_derivative, drawn(estimator, model, batch)
    assert delta is not None
    for name in sites[:2]:
        torch.testing.assert_close(estimate.gradients[f"{name}.bias"], (delta.unsqueeze(1) * guesses[name]).sum(0))


def test_a_frozen_layer_is_not_perturbed() -> None:
    """With as many orthogonal tangents as the trained layers have outputs, the gradient is exact."""
    model = chain(5, 4, 4, 3, bias=True)
    model[0].requires_grad_(False)
    batch = batch_for(model, 6)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(7, "orthogonal"))
    estimator.bind(model, batch.inputs)
    found = estimator.estimate(model, cross_entropy, batch, Streams(0).at(0)).gradients
    cross_entropy(model(batch.inputs), batch.targets).mean().backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, expected)


class Words(nn.Module):
    """An embedding whose table another layer may use, behind it a chain."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.table, self.inner, self.out = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        if tied:
            self.out.weight = self.table.weight
        self.double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(self.table(ids))))


@pytest.mark.parametrize(
    ("embeddings", "tied", "guesses"),
    [
        ("isotropic", False, {"table": "Isotropic", "inner": "Transpose", "out": "Isotropic"}),
        ("guess", False, {"table": "Transpose", "inner": "Transpose", "out": "Isotropic"}),
        ("freeze", False, {"inner": "Transpose", "out": "Isotropic"}),
        ("freeze", True, {"table": "Transpose", "inner": "Transpose", "table#2": "Isotropic"}),
    ],
)
def test_embeddings_have_isotropic_noise_or_the_methods_guess_or_none(embeddings, tied, guesses) -> None:
    model = Words(tied=tied)
    batch = Batch(torch.tensor([1, 4, 2]), torch.tensor([0, 5, 1]))
    estimator = GuessEstimator(Transpose(TransposeOptions()), embeddings=embeddings)
    coverage = estimator.bind(model, batch.inputs)
    made = {name: type(guesser.guess).__name__ for name, guesser in estimator._guessers.items()}
    assert made == guesses
    assert coverage.frozen == (() if "table" in guesses else ("table.weight",))
    found = estimator.estimate(model, cross_entropy, batch, RNG)
    assert set(found.gradients) == {n for n, _ in model.named_parameters()} - set(coverage.frozen)
    true = gradients_of_uses(model, estimator.bound, cross_entropy, batch)
    along = sum((true[name] * y).flatten(1).sum(1) for name, y in drawn(estimator, model, batch).items())
    torch.testing.assert_close(found.directional_derivative, along, rtol=1e-10, atol=1e-14)


class InTurn(nn.Module):
    """One layer or another, as a count that no pass can put back has it."""

    def __init__(self) -> None:
        super().__init__()
        self.turns, self.calls = True, 0
        self.first, self.second, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.turns
        return self.out(torch.tanh((self.first if self.calls % 2 else self.second)(x)))


@pytest.mark.parametrize(("tangents", "memory"), [(Tangents(4, chunk=2), "store"), (Tangents(), "replay")])
def test_a_forward_that_takes_another_way_within_a_step_is_refused(tangents, memory) -> None:
    model = InTurn()
    estimator = GuessEstimator(Isotropic(), tangents=tangents, memory=memory)
    batch = batch_for(model.first, 5)
    batch = Batch(batch.inputs, batch.targets % 2)
    with pytest.raises(ModelRefused, match="another way when it is run again on the same batch, at layer 'first'"):
        estimator.bind(model, batch.inputs)
    model.turns = False
    seen = []
    for model.calls in (0, 1):
        seen.append(look(model, batch.inputs))
    estimator._take_up(model, seen[0].joined(seen[1]), batch.inputs)
    model.turns = True
    with pytest.raises(ModelRefused, match="another way when it is run again on the same batch, at layer 'first'"):
        estimator.estimate(model, cross_entropy, batch, RNG)
    alone = GuessEstimator(Isotropic(), memory="store")
    alone._take_up(model, seen[0].joined(seen[1]), batch.inputs)
    assert {"out.weight"} < set(alone.estimate(model, cross_entropy, batch, RNG).gradients)
