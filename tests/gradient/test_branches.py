"""Branches on values that the first look did not take: what lies there is trained from when it is met."""

from typing import Any, Literal

import pytest
import torch
from exact import backward, smooth
from parts import measured_anew
from torch import Tensor, nn

from fgcli.extend.options import EngineOptions
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.feedback import Feedback
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.feedback import LocalFeedback
from fgcli.methods.options import OrthogonalOptions
from fgcli.methods.orthogonal import orthogonal

RNG = Streams(3).at(7)
X = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.5, -1.0, 2.0, 1.0], [3.0, 1.0, -1.0, 0.0]])


class Deciding(nn.Module):
    """Another layer for other values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.low, self.high = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.high(h) if bool(x.sum() > 0) else self.low(h) * self.scale


@pytest.mark.parametrize("method", [Isotropic(), orthogonal(OrthogonalOptions(k="rank"))])
def test_a_branch_that_the_first_look_did_not_take_is_found_when_it_is_taken(method: Any) -> None:
    torch.manual_seed(0)
    model = Deciding().double()
    estimator = GuessEstimator(method, tangents=Tangents(6, "orthogonal"))
    coverage = estimator.bind(model, X.double())
    assert coverage.sites == ("first", "high")
    assert set(coverage.unused) == {"low.weight", "low.bias", "scale"}
    for inputs in (X.double(), -X.double(), X.double()):
        batch = Batch(inputs, None)
        found = estimator.estimate(model, smooth, batch, RNG).gradients
        expected = backward(model, smooth, batch)
        found.pop("scale", None)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9)
        assert all(not g.any() for name, g in expected.items() if name not in found and name != "scale")
    assert set(estimator.bound.sites) == {"first", "high", "low"}
    assert estimator.bound.pieces == ("scale",)
    assert estimator.bound.unused == ()


class ByChance(nn.Module):
    """Leaves layers out as random numbers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if float(torch.rand(())) < 0.5:
                x = x + torch.tanh(layer(x))
        return self.last(x)


def test_layers_that_are_left_out_by_chance_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_anew(monkeypatch)  # what a step would hold is looked at, too, in forwards of its own
    torch.manual_seed(0)
    model, inputs = ByChance().double(), torch.randn(9, 4, dtype=torch.double)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(2, "orthogonal"), memory="replay")
    estimator.bind(model, inputs)
    taken = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = {
            name for name, g in estimator.estimate(model, smooth, Batch(inputs, None), RNG).gradients.items() if g.any()
        }
        torch.manual_seed(seed)
        smooth(model(inputs)).backward()
        assert found == {name for name, p in model.named_parameters() if p.grad is not None}
        torch.manual_seed(seed)
        maps = estimator.linear_maps(model, inputs, 0)
        assert {f"{name}.weight" for name in maps} == {name for name in found if name.endswith("weight")}
        taken.add(len(found))
        model.zero_grad()
    assert len(taken) > 1


class Scaling(nn.Module):
    """Another elementwise parameter, and no other layer, for other values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(h if bool(x.sum() > 0) else h * self.scale)


@pytest.mark.parametrize("memory", ["store", "replay"])
@pytest.mark.parametrize("feedback", [False, True])
def test_a_parameter_of_a_branch_that_has_no_layer_of_its_own_is_trained_when_it_is_met(
    memory: Literal["store", "replay"], feedback: bool
) -> None:
    torch.manual_seed(0)
    model = Scaling().double()
    rule = Feedback(LocalFeedback(EngineOptions(feedback="local"))) if feedback else None
    estimator = GuessEstimator(Isotropic(), memory=memory, feedback=rule)
    assert estimator.bind(model, X.double()).unused == ("scale",)
    batch = Batch(-X.double(), None)
    found = estimator.estimate(model, smooth, batch, RNG).gradients["scale"]
    assert found.any()
    if feedback:  # exact from there on
        torch.testing.assert_close(found, backward(model, smooth, batch)["scale"])


def test_a_look_at_more_samples_may_take_another_branch() -> None:
    """The sums of the first samples change their sign with every further one."""
    torch.manual_seed(0)
    model = Scaling().double()
    inputs = torch.tensor([-1.0, 3.0, -9.0, 27.0, -81.0], dtype=torch.double).unsqueeze(1).expand(-1, 4)
    estimator = GuessEstimator(Isotropic())
    estimator.bind(model, inputs)
    assert estimator.estimate(model, smooth, Batch(inputs, None), RNG).gradients["scale"].any()
