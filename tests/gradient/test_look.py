"""What a look at a model finds, what it takes as one sample, and what it refuses by name."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact import backward, drawing, smooth
from networks import batch_for, cross_entropy
from torch import Tensor, nn
from zoo import Net, ids, random, vectors, weight

from fgcli.extend.options import GuessOptions
from fgcli.gradient.by_hand import dropout
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Estimator
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.look import few, look
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.options import WeightPerturbationOptions
from fgcli.methods.perturbation import MaskedActivationPerturbation
from fgcli.methods.weight_perturbation import WeightPerturbation

RNG = Streams(3).at(7)
X = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.5, -1.0, 2.0, 1.0], [3.0, 1.0, -1.0, 0.0]])


class Batchwise(nn.Module):
    """Does to the whole batch what the name says."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        match self.name:
            case "standardise":
                return (x - x.mean(0)) / x.std(0)
            case "roll":
                return torch.roll(x, 1, 0)
            case "normalise":
                return F.batch_norm(x, None, None, training=True)
            case "divide by its size":
                return x / x.shape[0]
            case "keep a mean":
                self.mean.lerp_(x.detach().mean(0).to(self.mean), 0.1)
                return x
            case "replace a mean":
                self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0).to(self.mean)
                return x
            case _:
                raise ValueError(self.name)


def untrained(layer: nn.Linear) -> nn.Linear:
    """With outputs of 0, which hide what comes after."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


MIXES: dict[str, tuple[nn.Module, str]] = {
    "batch norm": (nn.Sequential(linear(), nn.BatchNorm1d(4), linear()), "samples meet after site '0'"),
    "without statistics": (
        nn.Sequential(linear(), nn.BatchNorm1d(4, track_running_stats=False)).eval(),
        "samples meet after site '0'",
    ),
    "functional": (nn.Sequential(linear(), Batchwise("normalise")), "samples meet after site '0'"),
    "the second": (nn.Sequential(linear(), linear(), Batchwise("standardise")), "samples meet after site '1'"),
    "roll": (nn.Sequential(linear(), Batchwise("roll"), linear(), nn.Dropout()), "samples meet after site '0'"),
}


@pytest.mark.parametrize("name", MIXES)
def test_where_samples_meet_the_batch_is_one_sample(name: str) -> None:
    model, why = MIXES[name]
    network = look(model, X)
    assert network.mixes
    assert network.mixes == why
    assert network.samples(X) == 1
    assert not any(site.has_samples or site.link for site in network.sites.values())
    notes = GuessEstimator(Isotropic()).bind(model, X).notes
    assert notes == (f"samples are not told apart ({network.mixes}): one δ for the batch, which is right, and noisier",)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 4)),
        nn.Sequential(linear(), Batchwise("keep a mean"), linear()),
        nn.Sequential(linear(), Batchwise("divide by its size"), linear()),
        # Before the first site samples may meet: no guess is passed on there.
        nn.Sequential(Batchwise("standardise"), linear()),
        nn.Sequential(Batchwise("roll"), linear(), nn.Dropout()),
        nn.Sequential(linear(), nn.BatchNorm1d(4).eval()),
    ],
)
def test_draws_state_and_what_comes_before_are_not_taken_for_samples_that_meet(model: nn.Module) -> None:
    assert look(model, X).mixes == ""


@pytest.mark.parametrize("head", [linear, lambda: untrained(linear())])
def test_a_forward_that_looks_at_the_batchs_size_has_each_tangent_alone(head: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(linear(), head(), Batchwise("divide by its size")).double()
    if not dict(model.named_parameters())["1.weight"].any():
        model.append(nn.Linear(4, 4).double())
    batch = Batch(X.double(), None)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(4 * (len(model) - 1), "orthogonal"))
    estimator.bind(model, batch.inputs)
    found = estimator.estimate(model, smooth, batch, RNG).gradients
    torch.testing.assert_close(found, backward(model, smooth, batch), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tangents", [1, 3])
@pytest.mark.parametrize("memory", ["store", "replay"])
@pytest.mark.parametrize("what", ["keep a mean", "replace a mean", "batch norm"])
def test_statistics_are_updated_once_by_an_estimate(what: str, memory: Any, tangents: int) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        between = nn.BatchNorm1d(4) if what == "batch norm" else Batchwise(what)
        return nn.Sequential(linear(), between, linear()).double()

    model, twin = make(), make()
    generator = torch.Generator().manual_seed(1)
    batch = Batch(torch.randn(6, 4, dtype=torch.float64, generator=generator), torch.arange(6) % 4)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(tangents), memory=memory)
    estimator.bind(model, batch.inputs)
    for one, other in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    estimator.estimate(model, cross_entropy, batch, RNG)
    twin(batch.inputs)
    for one, other in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_batch_norm_may_change_its_mode_between_looks() -> None:
    model = nn.Sequential(linear(), nn.BatchNorm1d(4), nn.ReLU(), linear()).double().eval()
    batch = batch_for(model, 5)
    for mode in (True, False, True):
        model.train(mode)
        estimator = GuessEstimator(Isotropic(), uncovered="freeze")
        estimator.bind(model, batch.inputs)
        assert bool(estimator.bound.mixes) == mode
        delta = estimator.estimate(model, cross_entropy, batch, RNG).directional_derivative
        assert delta is not None
        assert len(delta) == (1 if mode else 5)


def test_a_batch_norm_that_is_not_called_is_none() -> None:
    model = nn.Sequential(linear(), nn.ReLU(), linear())
    model[1].spare = nn.BatchNorm1d(6)
    network = look(model, X)
    assert not network.mixes
    assert network.unused == ("1.spare.weight", "1.spare.bias")


class Doubled(torch.autograd.Function):
    """Has no forward-mode formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return 2 * grad_outputs[0]


class Scaled(torch.autograd.Function):
    """Of data and a parameter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w = ctx.saved_tensors
        return grad_outputs[0] @ w.T, x.T @ grad_outputs[0]


def by_function() -> nn.Module:
    return Net(lambda m, x: m.b(Scaled.apply(m.a(x), m.w)), a=linear(), w=weight(4, 4), b=linear())


REFUSED: dict[str, tuple[Any, str]] = {
    "no weight": (
        lambda: Net(lambda m, x: x * m.g, g=weight(4)),
        "the model has no site: its forward uses no trained weight",
    ),
    "nothing trained": (
        lambda: linear().requires_grad_(False),
        r"no parameter of the model \(Linear\) requires a gradient",
    ),
    "without shape": (
        lambda: nn.Sequential(nn.LazyLinear(4)),
        "parameter '0.weight' has no shape before the model's first call",
    ),
    "low precision": (
        lambda: nn.Sequential(linear(), linear().bfloat16()),
        "parameter '1.weight' is in bfloat16, .* backprop",
    ),
    "copies": (
        lambda: nn.DataParallel(linear()),
        r"the model \(DataParallel\) spreads a batch over copies, .* use its .module",
    ),
    "formula": (
        lambda: nn.Sequential(
            linear(), Net(lambda _, x: torch.special.zeta(x.abs() + 2, torch.ones_like(x))), linear()
        ),
        "site '0' is followed by .*zeta.*, which has no forward-mode formula .* use another operation, or the method ",
    ),
    "formula at the input": (
        lambda: nn.Sequential(Net(lambda _, x: torch.special.zeta(x.abs() + 2, torch.ones_like(x))), linear()),
        "the model's input is followed by .*zeta",
    ),
    "a function without formula": (
        lambda: nn.Sequential(linear(), Net(lambda _, x: Doubled.apply(x)), linear()),
        "site '0' is followed by .*, which has no forward-mode formula",
    ),
    "a function of a parameter": (
        by_function,
        r"parameter 'w' is used after site 'a' by an operation that no forward pass can look into \(Scaled",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    model, said = REFUSED[name]
    with pytest.raises(ModelRefused, match=said):
        GuessEstimator(Isotropic()).bind(model(), X)


def test_all_findings_are_returned_at_once() -> None:
    model = nn.Sequential(nn.LazyLinear(4), linear().bfloat16(), nn.DataParallel(linear()))
    with pytest.raises(
        ModelRefused, match=r"(?s)'0.weight' has no shape.*'2' \(DataParallel\) spreads.*'1.weight' is in bf"
    ) as said:
        GuessEstimator(Isotropic()).bind(model, X)
    assert len(str(said.value).splitlines()) == 5


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x)


@pytest.mark.parametrize("estimator", [GuessEstimator(Isotropic()), WeightPerturbation(WeightPerturbationOptions())])
def test_compiled_layers(estimator: Estimator) -> None:
    with pytest.raises(
        ModelRefused, match=r"layer '0' \(Compiled\) is compiled, .* leave out .compile\(\), or use backprop"
    ):
        estimator.bind(nn.Sequential(Compiled()), X)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        s = self.first(x)
        return self.second(torch.relu(s)) + s


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), "site 'first' has an output that several operations use"),
        (
            nn.Sequential(linear(), nn.LayerNorm(4), linear()),
            "site '0' is followed by layer_norm, .* chain of linear layers .* activation-perturbation",
        ),
        (nn.Sequential(nn.Unflatten(1, (1, 4)), linear(), linear()), "site '1' has an output that is no vector"),
        (nn.Sequential(linear(), nn.BatchNorm1d(4), linear()), "site '0' is in a network where samples meet"),
    ],
)
def test_refused_by_guesses_that_need_the_upstream_jacobian_as_a_matrix(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        GuessEstimator(MaskedActivationPerturbation(GuessOptions())).bind(model, X)


def test_a_look_leaves_generators_buffers_and_graph_mode() -> None:
    model = nn.Sequential(linear(), nn.BatchNorm1d(4), nn.Dropout(0.5), linear())
    before = [buffer.clone() for buffer in model.buffers()]
    state = torch.get_rng_state()
    network = look(model, X)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(before, model.buffers(), strict=True))
    assert set(network.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert dropout in network.drawing
    assert all(parameter.grad is None for parameter in model.parameters())


def test_few_are_the_first_samples_and_from_the_start_again() -> None:
    taken = few({"x": X, "n": 3, "t": (torch.tensor(1.0), torch.arange(3))}, 2)
    assert torch.equal(taken["x"], X[:2])
    assert taken["n"] == 3
    assert torch.equal(taken["t"][1], torch.arange(2))
    assert torch.equal(few(X[:1], 3), X[:1].expand(3, -1))


def test_where_samples_are() -> None:
    model = Net(
        lambda m, x: m.c(m.b(m.a(x.transpose(0, 1)).reshape(-1, 3)).view(2, -1, 3).transpose(0, 1)).unbind(1),
        a=nn.Linear(4, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 2),
    )  # fmt: skip
    network = look(model, vectors(2, 4)(3))
    found = {
        name: (one.axis, one.folded, one.interleaved) for name, site in network.sites.items() for one in site.layouts
    }
    assert found == {"a": (1, False, False), "b": (0, True, True), "c": (0, False, False)}
    assert [one.axis for one in network.output_layouts] == [0, 0]


def test_a_model_that_takes_no_other_batch_is_one_sample() -> None:
    model = Net(lambda m, x: m.b(m.a(x).view(3, 8)), a=nn.Linear(4, 8), b=nn.Linear(8, 2)).double()
    batch = Batch(X.double(), None)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(30, "orthogonal"))
    coverage = estimator.bind(model, batch.inputs)
    assert "the forward takes no batch of another size" in coverage.notes[0]
    found = estimator.estimate(model, smooth, batch, RNG).gradients
    torch.testing.assert_close(found, backward(model, smooth, batch), rtol=1e-6, atol=1e-9)


def test_a_model_that_fails_says_what_it_says() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        look(nn.Linear(5, 4), X)
    assert ids(2)(3).shape == (3, 2)
    assert random(2).shape == (2,)
    with drawing():
        pass
