"""Directional gradient descent held to the projection that it is, and SOFO to its closed form."""

from typing import Any

import pytest
import torch
from networks import batch_for, chain, cross_entropy, residual
from torch import Tensor, nn

from fgcli.extend.options import Options
from fgcli.gradient.errors import LossRefused, ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams
from fgcli.methods.backprop import Backprop
from fgcli.methods.directional import Directional
from fgcli.methods.options import DirectionalOptions, SofoOptions
from fgcli.methods.sofo import Sofo

STREAMS = Streams(3)
KINDS = ["local", "direct", "momentum", "random"]


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


@pytest.mark.parametrize("direction", KINDS)
def test_the_estimate_is_the_projection_of_the_gradient_onto_the_direction(direction: Any) -> None:
    model = residual()
    batch = batch_for(model, 6)
    g = flat(Backprop(Options()).estimate(model, cross_entropy, batch, STREAMS.at(0)).gradients)
    estimator, twin = (Directional(DirectionalOptions(direction=direction)) for _ in range(2))
    for one in (estimator, twin):
        one.bind(model, batch.inputs)
    before = None
    for step in range(3):
        twin.load_state({name: one.clone() for name, one in estimator.state().items()})
        u = flat(twin.direction(model, cross_entropy, batch, STREAMS.at(step)))
        found = flat(estimator.estimate(model, cross_entropy, batch, STREAMS.at(step)).gradients)
        torch.testing.assert_close(found, (g @ u) / (u @ u) * u)
        assert found @ g >= 0
        assert before is None or not torch.equal(before, found)
        before = found


@pytest.mark.parametrize("direction", KINDS)
def test_an_operation_without_a_tangent_is_named_at_the_start(direction: Any) -> None:
    model = nn.Sequential(nn.EmbeddingBag(4, 3, mode="max"), nn.Linear(3, 2))
    with pytest.raises(ModelRefused, match="followed by embedding_bag, which has no forward-mode formula"):
        Directional(DirectionalOptions(direction=direction)).bind(model, torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("name", ["decay", "noise"])
def test_options_of_momentum_are_refused_without_it(name: str) -> None:
    assert DirectionalOptions.model_validate({"direction": "momentum", name: 0.5})
    with pytest.raises(ValueError, match=f"{name} is 0.5; it is of direction momentum: set direction"):
        DirectionalOptions.model_validate({name: 0.5})


def test_along_the_gradient_it_is_the_gradient() -> None:
    """In a network of one layer feedback is exact: u = g, and so ĝ = g."""
    model = chain(5, 3)
    batch = batch_for(model, 6)
    estimator = Directional(DirectionalOptions(direction="direct"))
    estimator.bind(model, batch.inputs)
    found = estimator.estimate(model, cross_entropy, batch, STREAMS.at(0)).gradients
    expected = Backprop(Options()).estimate(model, cross_entropy, batch, STREAMS.at(0)).gradients
    torch.testing.assert_close(found, expected)


def jacobian(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """J [outputs of the batch, weights] in the order of the parameters, and the outputs."""
    parameters = dict(model.named_parameters())

    def outputs(*values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(parameters, values, strict=True)), (batch.inputs,)).flatten()

    found = torch.autograd.functional.jacobian(outputs, tuple(parameters.values()))
    return torch.cat([one.flatten(1) for one in found], 1), model(batch.inputs).detach()


@pytest.mark.parametrize("loss", [cross_entropy, lambda s, y: torch.nn.functional.cross_entropy(s, y)])
def test_sofos_step_is_the_damped_gauss_newton_step_in_the_span(loss: Any) -> None:
    model = chain(3, 4, 3, bias=True, activation=nn.Tanh)
    batch = batch_for(model, 5)
    sofo = Sofo(SofoOptions(tangents=6, damping=0.05))
    sofo.bind(model, batch.inputs)
    step = sofo.estimate(model, loss, batch, STREAMS.at(2)).gradients
    j, outputs = jacobian(model, batch)

    def mean(s: Tensor) -> Tensor:
        return loss(s.view_as(outputs), batch.targets).mean()

    h: Any = torch.autograd.functional.hessian(mean, outputs.flatten())
    e: Any = torch.autograd.functional.jacobian(mean, outputs.flatten())
    parameters = {name: one.detach() for name, one in model.named_parameters()}
    drawn = sofo.directions(STREAMS.at(2), parameters)
    v = torch.cat([drawn[name].flatten(1) for name in parameters], 1).T
    torch.testing.assert_close(v.T @ v, torch.eye(6, dtype=torch.double))
    gram = v.T @ j.T @ h @ j @ v
    damped = gram + 0.05 * torch.linalg.eigvalsh(gram)[-1] * torch.eye(6)
    expected = v @ torch.linalg.solve(damped, v.T @ j.T @ e)
    torch.testing.assert_close(torch.cat([step[name].flatten() for name in parameters]), expected)


def test_with_all_directions_one_step_of_sofo_solves_least_squares() -> None:
    model = chain(3, 2)
    x, y = batch_for(model, 8).inputs, torch.randn(8, 2, dtype=torch.double)
    sofo = Sofo(SofoOptions(tangents=6, damping=0))
    sofo.bind(model, x)
    step = sofo.estimate(model, lambda s, t: (s - t).square().mean(1), Batch(x, y), STREAMS.at(0)).gradients
    expected = torch.linalg.lstsq(x, y).solution.T
    torch.testing.assert_close(next(model.parameters()).detach() - step["0.weight"], expected)


def test_sofo_refuses_more_directions_than_weights_and_losses_without_curvature() -> None:
    model = chain(3, 2)
    batch = batch_for(model, 4)
    with pytest.raises(OptionRefused, match="tangents is 7; it must be at most 6"):
        Sofo(SofoOptions(tangents=7)).bind(model, batch.inputs)
    sofo = Sofo(SofoOptions(tangents=2))
    sofo.bind(model, batch.inputs)
    with pytest.raises(LossRefused, match="no curvature"):
        sofo.estimate(model, lambda s, _: s.sum(1), batch, STREAMS.at(0))
