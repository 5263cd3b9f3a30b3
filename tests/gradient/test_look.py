"""What no guess can train through, and what is refused by those that need the upstream Jacobian as a matrix."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import batch_for, cross_entropy
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from fgcli.extend.options import GuessOptions, Options
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Estimator
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.randomness import Streams
from fgcli.methods.perturbation import MaskedActivationPerturbation
from fgcli.methods.weight_perturbation import WeightPerturbation

RNG = Streams(3).at(7)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class Keeps(nn.Module):
    """Has a buffer that its forward writes into, or replaces."""

    def __init__(self, replaces: bool) -> None:
        super().__init__()
        self.replaces = replaces
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.replaces:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        else:
            self.mean.lerp_(x.mean(0), 0.1)
        return x


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, None, None, training=True)


class Batchwise(nn.Module):
    """Does to the whole batch what the name says."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        match self.name:
            case "standardise":
                return (x - x.mean(0)) / x.std(0)
            case "roll":
                return torch.roll(x, 1, 0)
            case "divide by its size":
                return x / x.shape[0]
            case _:
                raise ValueError(self.name)


def untrained(layer: nn.Linear) -> nn.Linear:
    """With outputs of 0, which hide what comes after."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Pair(nn.Linear):
    def forward(self, input: Tensor) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(input), 0


def hooked(register: Callable[..., Any]) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    register(model[0], lambda *_: None)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Shared(), "site 'layer' is called twice"),
        (tied(), "sites '0' and '2' share a parameter"),
        (hooked(nn.Module.register_forward_hook), r"site '0' \(Linear\) has a forward hook, .* its output; remove"),
        (hooked(nn.Module.register_forward_pre_hook), r"site '0' \(Linear\) has a forward pre-hook, .* its input"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), r"layer '1' \(BatchNorm1d\) is in train mode"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval(),
            r"layer '1' \(BatchNorm1d\) tracks no running statistics",
        ),
        (nn.Sequential(nn.Linear(4, 4), Keeps(False)), r"layer '1' \(Keeps\) changes its buffer 'mean' in the forward"),
        (
            nn.Sequential(nn.Linear(4, 4), Keeps(True)),
            r"layer '1' \(Keeps\) changes its buffer 'mean' .* backprop",
        ),
        (nn.Sequential(nn.Linear(4, 4), Centred()), "site '0' is followed by an operation that mixes the samples"),
        (
            nn.Sequential(Centred(), nn.Linear(4, 4), Centred(), nn.Linear(4, 4)),
            "site '1' is followed by .* that mixes",
        ),
        (nn.Sequential(Batchwise("standardise"), nn.Linear(4, 4)), "the model's input is followed by .* that mixes"),
        (nn.Sequential(Batchwise("roll"), nn.Linear(4, 4), nn.Dropout()), "the model's input is followed by .* mixes"),
        (
            nn.Sequential(nn.Linear(4, 4), untrained(nn.Linear(4, 4)), Batchwise("divide by its size")),
            "site '1' is followed by .* that mixes",
        ),
        (nn.Sequential(nn.Linear(4, 4), Pair(4, 4)), "the model gives a tuple; it must give one tensor"),
        (nn.Sequential(nn.ReLU()), "has no site"),
        (
            nn.Sequential(weight_norm(nn.Linear(4, 4))),
            r"has no site: .*; none are '0' \(ParametrizedLinear\), .*backprop",
        ),
        (nn.Sequential(nn.Flatten(0), nn.Linear(8, 4)), "first axis must be the batch"),
    ],
)
def test_refused_by_any_guess(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        GuessEstimator(Isotropic()).bind(model, torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.5, -1.0, 2.0, 1.0]]))


def test_draws_and_state_are_not_taken_for_samples_that_mix() -> None:
    class Alternating(nn.Linear):
        calls = 0

        def forward(self, input: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(input) * (-1) ** self.calls

    x = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.5, -1.0, 2.0, 1.0], [3.0, 1.0, -1.0, 0.0]])
    torch.manual_seed(0)
    for model in (
        nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(4, 8), Alternating(8, 8), nn.Linear(8, 4)),
    ):
        assert GuessEstimator(Isotropic()).bind(model, x).sites[0] == "0"


def test_batch_norm_is_noticed_in_the_mode_that_it_has_at_each_estimate() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    model[1].eval()
    batch = batch_for(model, 5)
    for estimator in (GuessEstimator(Isotropic()), WeightPerturbation(Options())):
        estimator.bind(model, batch.inputs)
        assert estimator.estimate(model, cross_entropy, batch, RNG).losses.isfinite().all()
        model.train()
        with pytest.raises(ModelRefused, match=r"layer '1' \(BatchNorm1d\) is in train mode"):
            estimator.estimate(model, cross_entropy, batch, RNG)
        model[1].eval()


def test_a_batch_norm_that_is_not_called_is_none() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    model[1].spare = nn.BatchNorm1d(6)
    batch = batch_for(model, 5)
    for estimator in (GuessEstimator(Isotropic()), WeightPerturbation(Options())):
        estimator.bind(model, batch.inputs)
        assert estimator.estimate(model, cross_entropy, batch, RNG).losses.isfinite().all()


class Uses(nn.Module):
    """Does to its layers what the name of `use` says."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        match self.use:
            case "weight beside its layer":
                return self.b(h) + nn.functional.linear(x, self.a.weight)
            case "input changed in place":
                h += self.b(h)
                return h
            case "keyword":
                return self.b(input=h)
            case _:
                raise ValueError(self.use)


@pytest.mark.parametrize("estimator", [GuessEstimator(Isotropic()), WeightPerturbation(Options())])
def test_an_operation_without_formula_names_the_layer_that_it_is_in(estimator: Estimator) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), weight_norm(nn.Linear(4, 4)))
    said = r"site '0' is followed by an operation without a forward-mode formula, in layer '2\..*' \(_WeightNorm\)"
    with pytest.raises(ModelRefused, match=said):
        estimator.bind(model, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("weight beside its layer", "a parameter of a Linear, Conv1d or Conv2d layer is also used outside that layer"),
        ("input changed in place", "site 'b' has an input that the model changes in place afterwards"),
        ("keyword", "site 'b' is called with its input by keyword"),
    ],
)
def test_refused_before_a_gradient_is_silently_wrong(use: str, message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        GuessEstimator(Isotropic()).bind(Uses(use), torch.zeros(2, 4))


def test_an_embedding_tied_to_a_site_is_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(x)))

    with pytest.raises(ModelRefused, match="is also used outside that layer"):
        GuessEstimator(Isotropic()).bind(Tied(), torch.zeros(2, dtype=torch.long))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        s = self.first(x)
        return self.second(torch.relu(s)) + s


class Deciding(Branching):
    def forward(self, x: Tensor) -> Tensor:
        s = self.first(x)
        return self.second(s) if s.sum() > 0 else s


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), r"site 'first' \(Linear\) has an output that 2 operations use"),
        (Deciding(), r"site 'first' \(Linear\) is in a model that torch.fx cannot follow \(TraceError"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
            r"site '0' \(Linear\) is followed by '1' \(LayerNorm\).*or activation-perturbation",
        ),
        (nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Linear(4, 4), nn.Linear(4, 2)), r"site '1' .* shape \[1, 4\]"),
    ],
)
def test_refused_by_guesses_that_need_the_upstream_jacobian_as_a_matrix(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        GuessEstimator(MaskedActivationPerturbation(GuessOptions())).bind(model, torch.zeros(2, 4))
